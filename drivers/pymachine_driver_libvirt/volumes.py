"""Volumes in a storage pool: a machine's data disk, and the image, which machines share.

An image is a set of three volumes, named after the image's digest and the machine that uploaded it. A fourth, tiny
volume is created last and marks the set as complete, so that no machine boots a partial upload. A set is removed when
no domain uses it any more.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import Element, SubElement

from pymachine.driver.contract import ImageFiles
from pymachine.driver.errors import DriverError
from pymachine.driver.kit.machine_files import MEBIBYTE, format_marker
from pymachine.driver.kit.system import Reporter
from pymachine_driver_libvirt import connection as libvirts, domain as domains, patch, state
from pymachine_driver_libvirt.connection import Connection

# Kernels must be files. The volumes of other pools are block devices, or not on the host.
_FILE_POOLS = frozenset({"dir", "fs", "netfs"})
_SUFFIXES = ("iso", "vmlinuz", "initrd")
_COMPLETE = "complete"
_SET_VOLUME = r"(pymachine-[0-9a-f]{{12}}-{})\.[a-z]+"
_CHUNK = 1024 * 1024
# Where virt-manager and virt-install create the pool called default.
_SYSTEM_POOL = "/var/lib/libvirt/images"


class PoolError(DriverError):
    """The storage pool does not exist, has an unsuitable type, or has too little space."""

    code = "libvirt-pool"


@dataclass(frozen=True)
class ImageSet:
    """An image's volumes, as paths on libvirt's host."""

    name: str
    iso: str
    kernel: str
    initrd: str


def pool_xml(name: str, path: str) -> str:
    """Return the XML of a pool in a folder."""
    pool = Element("pool", type="dir")
    SubElement(pool, "name").text = name
    SubElement(SubElement(pool, "target"), "path").text = path
    return domains.text_of(pool)


def volume_xml(name: str, size: int) -> str:
    """Return the XML of a sparse raw volume of `size` bytes."""
    volume = Element("volume")
    SubElement(volume, "name").text = name
    SubElement(volume, "capacity", unit="bytes").text = str(size)
    SubElement(volume, "allocation", unit="bytes").text = "0"
    SubElement(SubElement(volume, "target"), "format", type="raw")
    return domains.text_of(volume)


def set_name(digest: str, machine_id: str) -> str:
    """Return the name of the set if this machine uploads it."""
    return f"pymachine-{digest[:12]}-{machine_id[:8]}"


def disk_name(machine: str, machine_id: str) -> str:
    """Return the name of a machine's data disk."""
    return f"{machine}-{machine_id[:8]}.raw"


def find_pool(connection: Connection, name: str) -> Any | None:
    """Return the pool `name`, or None."""
    try:
        return connection.storagePoolLookupByName(name)
    except libvirts.library().libvirtError as error:
        if libvirts.is_error(error, "NO_STORAGE_POOL"):
            return None
        raise libvirts.LibvirtError(f"cannot look up storage pool {name}: {libvirts.message(error)}") from error


def default_pool_path(*, session: bool) -> str:
    """Return virt-manager's path of the pool called default. A session must be on this host."""
    if not session:
        return _SYSTEM_POOL
    data = os.environ.get("XDG_DATA_HOME") or str(Path("~/.local/share").expanduser())
    return f"{data}/libvirt/images"


def ready_pool(connection: Connection, name: str, *, make_at: str, reporter: Reporter) -> Any:
    """Return the pool `name`; start it if it is inactive, and create it at the path `make_at` if it is missing.

    Raises `PoolError` if it is missing and `make_at` is empty.
    """
    pool = find_pool(connection, name)
    with libvirts.wrap_errors(f"cannot use storage pool {name}"):
        if pool is None:
            if not make_at:
                raise _no_pool(connection, name)
            reporter.info(f"Creating the storage pool {name} at {make_at}, as virt-manager does.")
            pool = connection.storagePoolDefineXML(pool_xml(name, make_at))
            pool.setAutostart(1)
        if not pool.isActive():
            pool.create(libvirts.library().VIR_STORAGE_POOL_CREATE_WITH_BUILD)
    return pool


def check_pool(connection: Connection, name: str, *, may_make: bool, need: int) -> None:
    """Raise `PoolError` if the pool cannot take `need` bytes. Change nothing."""
    pool = find_pool(connection, name)
    if pool is None:
        if may_make:
            return
        raise _no_pool(connection, name)
    with libvirts.wrap_errors(f"cannot read storage pool {name}"):
        kind = patch.parse(pool.XMLDesc()).get("type", "")
        active, available = pool.isActive(), pool.info()[3]
    if kind not in _FILE_POOLS:
        raise PoolError(
            f"storage pool {name} is of type {kind}, whose volumes are not files",
            hint="Choose one of type dir, fs or netfs with --libvirt-storage-pool.",
        )
    if active and available < need:
        raise PoolError(
            f"not enough space in storage pool {name}: {available // MEBIBYTE} MB free, {need // MEBIBYTE} MB needed",
            hint="Free some space, or choose another pool with --libvirt-storage-pool.",
        )


def _no_pool(connection: Connection, name: str) -> PoolError:
    with libvirts.wrap_errors("cannot list storage pools"):
        names = sorted(each.name() for each in connection.listAllStoragePools())
    return PoolError(
        f"libvirt has no storage pool called {name!r}",
        hint=f"Existing pools: {', '.join(names) or 'none'}. Choose one with --libvirt-storage-pool, or create one: "
        f"virsh pool-define-as {name} dir --target /FOLDER",
    )


def find_set(pool: Any, digest: str) -> ImageSet | None:
    """Return a complete set of the image with that digest, uploaded by any machine, or None."""
    wanted = f"pymachine-{digest[:12]}-"
    with libvirts.wrap_errors("cannot list the pool's volumes"):
        names = {volume.name() for volume in pool.listAllVolumes()}
    for marker in sorted(names):
        name, _, suffix = marker.rpartition(".")
        if suffix == _COMPLETE and name.startswith(wanted) and all(f"{name}.{each}" in names for each in _SUFFIXES):
            return set_paths(pool, name)
    return None


def bring_image(connection: Connection, pool: Any, image: ImageFiles, name: str, *, reporter: Reporter) -> ImageSet:
    """Upload an image as the set `name`. A partial upload of an earlier attempt is replaced."""
    remove(pool, _volume_names(name))
    files = dict(zip(_SUFFIXES, (image.iso, image.kernel, image.initrd), strict=True))
    total = sum(path.stat().st_size for path in files.values())
    with reporter.task("Uploading the image", total=total, unit="B") as task:
        for suffix, path in files.items():
            with path.open("rb") as file:
                for amount in _upload(connection, pool, f"{name}.{suffix}", file, path.stat().st_size):
                    task.advance(amount)
    _make(pool, f"{name}.{_COMPLETE}", 1)
    return set_paths(pool, name)


def make_disk(connection: Connection, pool: Any, name: str, *, size_mb: int) -> str:
    """Create a sparse disk, marked for the guest to format, and return its path. An old one is replaced."""
    remove(pool, [name])
    marker = io.BytesIO(format_marker())
    for _ in _upload(connection, pool, name, marker, len(marker.getvalue()), capacity=size_mb * MEBIBYTE):
        pass
    return path_of(pool, name)


def path_of(pool: Any, name: str) -> str:
    """Return the path of a volume on libvirt's host. Raises `PoolError` if it does not exist."""
    try:
        return str(pool.storageVolLookupByName(name).path())
    except libvirts.library().libvirtError as error:
        if libvirts.is_error(error, "NO_STORAGE_VOL"):
            raise PoolError(
                f"volume {name} is missing from storage pool {pool.name()}",
                hint=f"If the file exists, refresh the pool: virsh pool-refresh {pool.name()}. Otherwise restore the "
                "file, or remove the machine and create it again.",
            ) from error
        raise libvirts.LibvirtError(f"cannot look up volume {name}: {libvirts.message(error)}") from error


def remove(pool: Any, names: Iterable[str]) -> None:
    """Remove those of the volumes that exist."""
    libvirt = libvirts.library()
    for name in names:
        try:
            pool.storageVolLookupByName(name).delete()
        except libvirt.libvirtError as error:
            if not libvirts.is_error(error, "NO_STORAGE_VOL"):
                raise libvirts.LibvirtError(f"cannot remove volume {name}: {libvirts.message(error)}") from error


def remove_set(connection: Connection, pool: Any, name: str, *, but_for: str) -> None:
    """Remove an image's set unless a domain other than `but_for` (a UUID) uses it."""
    if not state.others(connection, but_for, lambda domain: _has_volume(domain, f"{name}.{_SUFFIXES[0]}")):
        # The completeness mark first, so that no machine starts to use the set.
        remove(pool, reversed(_volume_names(name)))


def clear(connection: Connection, pool: Any, *, disk: str, sets: Iterable[str], machine_id: str) -> None:
    """Remove a machine's disk, and the sets that it used or uploaded unless another domain uses them.

    Raises `PoolError` if another domain uses the disk, or if the pool is not active and its volumes are unknown.
    """
    with libvirts.wrap_errors(f"cannot list the volumes of storage pool {pool.name()}"):
        if not pool.isActive():
            raise PoolError(
                f"storage pool {pool.name()} is not active, so the machine's disk cannot be removed",
                hint=f"Start it: virsh pool-start {pool.name()}; or remove only the record: pymachine rm -f",
            )
        names = [volume.name() for volume in pool.listAllVolumes()]
    # A set whose upload was killed is in no record.
    uploaded = {match[1] for name in names if (match := re.fullmatch(_SET_VOLUME.format(machine_id[:8]), name))}
    users = state.others(connection, machine_id, lambda domain: _has_volume(domain, disk))
    if users:
        raise PoolError(
            f"volume {disk} is used by another domain, {users[0]}",
            hint=state.hint(connection, users[0]),
        )
    remove(pool, [disk])
    for name in sorted({*sets, *uploaded}):
        remove_set(connection, pool, name, but_for=machine_id)


def _has_volume(domain: Element, name: str) -> bool:
    """Return whether a domain uses the volume `name`, of any pool."""
    values = [value for source in domain.iter("source") for value in source.attrib.values()]
    return any(value == name or value.endswith(f"/{name}") for value in values)


def _volume_names(name: str) -> list[str]:
    return [f"{name}.{suffix}" for suffix in (*_SUFFIXES, _COMPLETE)]


def set_paths(pool: Any, name: str) -> ImageSet:
    """Return the paths of a set's volumes. Raises `PoolError` if one is missing."""
    iso, kernel, initrd = (path_of(pool, f"{name}.{suffix}") for suffix in _SUFFIXES)
    return ImageSet(name, iso, kernel, initrd)


def _make(pool: Any, name: str, size: int) -> Any:
    with libvirts.wrap_errors(f"cannot create volume {name}"):
        return pool.createXML(volume_xml(name, size))


def _upload(
    connection: Connection, pool: Any, name: str, source: BinaryIO, size: int, *, capacity: int = 0
) -> Iterator[int]:
    """Create a volume and upload `size` bytes into it; yield the number of bytes of each piece."""
    volume = _make(pool, name, max(size, capacity))
    with libvirts.wrap_errors(f"cannot upload into volume {name} of storage pool {pool.name()}"):
        stream = connection.newStream()
        volume.upload(stream, 0, size)
        try:
            while piece := source.read(_CHUNK):
                sent = 0
                while sent < len(piece):
                    sent += stream.send(piece[sent:])
                yield len(piece)
            stream.finish()
        except BaseException:
            # After an interrupt too, since libvirt would wait for a stream that is merely dropped.
            _abort(stream)
            raise


def _abort(stream: Any) -> None:
    libvirt = libvirts.library()
    try:
        stream.abort()
    except libvirt.libvirtError:
        # The stream had ended, and the error that is being raised says why.
        return
