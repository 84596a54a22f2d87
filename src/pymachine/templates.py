"""Templates on this host: frozen machines, from which drivers that are able to make others by resuming them.

Layout: ``CACHE/templates/<driver>-<12 digits of the key>/`` with the driver's files and ``template.json``. The key is
over all that a template's state depends on. A folder is renamed into place when it is whole; its files never change
after that, and what has changed all the same (a truncated file, somebody's editor) is noticed before it is resumed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymachine import files, folders, os_errors, paths
from pymachine.driver import BootRequest, Driver, Json, TemplateDriver
from pymachine.errors import PymachineError, TemplateError
from pymachine.progress import Reporter

FORMAT = 1
MANIFEST = "template.json"
# Its own file, since nothing else in the folder may change: the time of its last change is that of the last use.
USED = "used"
DIGITS = 12
LOCK_SECONDS = 3600.0
# What a template takes of the disk at most, for a guest with some memory in use.
NEEDED_BYTES = 1 << 30
# With less than that left, a maker that failed is taken to have failed of it.
FULL_BYTES = 16 << 20
# A shape that could not be frozen or resumed is not tried at every create.
RETRY_SECONDS = 24 * 3600.0
# Unused for so long, a template goes when another is made.
UNUSED_SECONDS = 30 * 24 * 3600.0
# Files of at most this size are held against their digests before each use; of larger ones only what the file system
# says of them.
DIGESTED_BYTES = 8 << 20


class TemplateNotFoundError(PymachineError):
    """No template of that name is there."""

    code = "template-not-found"


@dataclass(frozen=True)
class Template:
    """One template."""

    directory: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What commands call it."""
        return self.directory.name

    @property
    def shape(self) -> Mapping[str, Json]:
        """What its machines have in common, as its driver told."""
        shape: Mapping[str, Json] = self.manifest["shape"]
        return shape

    @property
    def made(self) -> float:
        """When it was made, in seconds since 1970."""
        return float(self.manifest["made"])

    @property
    def used(self) -> float:
        """When a machine was last resumed from it, in seconds since 1970; else when it was made."""
        try:
            return (self.directory / USED).stat().st_mtime
        except OSError:
            return self.made

    @property
    def size(self) -> int:
        """What it takes of the disk, in bytes."""
        return sum(path.stat().st_blocks * 512 for path in self.directory.iterdir())

    def check(self) -> None:
        """Raise `TemplateError` if one of its files is not as it was made."""
        for name, expected in self.manifest["files"].items():
            path = self.directory / name
            try:
                intact = _describe(path) == expected
            except OSError as error:
                raise os_errors.wrapped(TemplateError, f"{path} cannot be read", error) from error
            if not intact:
                raise TemplateError(f"{path} is not as it was made")


def directory(store: Path) -> Path:
    """The folder of all templates, for the store at `store`."""
    return paths.cache(store) / "templates"


def find_all(store: Path) -> list[Template]:
    """All templates, by name; a folder that is not one is passed over."""
    return [found for path in sorted(directory(store).glob("[!.]*")) if (found := _open(path))]


def find(store: Path, name: str) -> Template:
    """The template of that name. Raises `TemplateNotFoundError`."""
    for template in find_all(store):
        if template.name == name:
            return template
    raise TemplateNotFoundError(f'no template "{name}"', hint="List them: pymachine template ls")


def ensure(driver: Driver, request: BootRequest, *, store: Path, reporter: Reporter) -> Template | None:
    """The template for a machine of `driver`: one that is there, else one that is made now.

    Many processes at once make one: the others wait for it. None if there can be none, or if that was tried of
    late and failed. Raises `TemplateError` if it cannot be made now.
    """
    if not isinstance(driver, TemplateDriver):
        return None
    shape = driver.template_shape(request)
    if shape is None:
        return None
    path = directory(store) / f"{driver.info.name}-{_key(shape, request)[:DIGITS]}"
    found = _intact(path, reporter)
    if found is None and not _failed_of_late(path):
        with _locked(path, reporter):
            found = _intact(path, reporter)
            if found is None and not _failed_of_late(path):
                found = _make(driver, request, shape, path)
    return found


def touch(template: Template) -> None:
    """Note that it was used now."""
    try:
        (template.directory / USED).touch()
    except OSError as error:
        raise os_errors.wrapped(TemplateError, f"{template.directory} is gone", error) from error


def discard(template: Template, why: str, *, for_now: bool) -> None:
    """Remove a template that could not be resumed; `for_now`: its shape is not tried again of late, see `forgive`."""
    if for_now:
        _remember_failure(template.directory, why)
    remove(template)


def remove(template: Template) -> None:
    """Remove a template; machines that were resumed from it go on. It may be gone already. Raises `TemplateError`."""
    try:
        folders.retire(template.directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise os_errors.wrapped(TemplateError, f"cannot remove {template.directory}", error) from error


def prune(store: Path, *, unused_seconds: float) -> list[Template]:
    """Remove the templates that were not used for that long; returns them."""
    limit = time.time() - unused_seconds
    gone = [template for template in find_all(store) if template.used <= limit]
    for template in gone:
        remove(template)
    return gone


def forgive(store: Path) -> None:
    """Let every shape be tried again, at once."""
    for marker in directory(store).glob(".*.failed"):
        marker.unlink(missing_ok=True)


def _key(shape: Mapping[str, Json], request: BootRequest) -> str:
    parts = {
        "format": FORMAT,
        "shape": shape,
        "image": request.image.digest if request.image else "",
        "seed": hashlib.sha256(request.seed).hexdigest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _intact(path: Path, reporter: Reporter) -> Template | None:
    """The template at `path`; one that has been changed is removed, which is said."""
    found = _open(path)
    if found is None:
        return None
    try:
        found.check()
    except TemplateError as error:
        reporter.warn(f"The template {found.name} is removed: {error.brief}.")
        remove(found)
        return None
    return found


def _open(path: Path) -> Template | None:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        complete = manifest["format"] == FORMAT and manifest["files"] and manifest["made"] and "shape" in manifest
        return Template(path, manifest) if complete else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(driver: TemplateDriver, request: BootRequest, shape: Mapping[str, Json], path: Path) -> Template:
    root = path.parent
    _tidy(root, keep=path)
    began = time.monotonic()
    try:
        with folders.making(root, private=True) as folder:
            _fill(driver, folder, request)
            described = {entry.name: _settled(entry) for entry in sorted(folder.iterdir())}
            manifest = {
                "format": FORMAT,
                "shape": shape,
                "image": request.image.digest if request.image else "",
                "made": time.time(),
                "seconds": round(time.monotonic() - began, 1),
                "files": described,
            }
            files.atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
            folders.publish(folder, path)
    except PymachineError as error:
        _remember_failure(path, error.brief)
        raise
    except OSError as error:
        raise os_errors.wrapped(TemplateError, f"cannot make a template in {root}", error) from error
    return Template(path, manifest)


def _fill(driver: TemplateDriver, folder: Path, request: BootRequest) -> None:
    """Have the driver make a template. Raises OSError if there was no room, whatever the driver could say of it.

    The guest's memory is a file that is mapped: a hypervisor that finds no room for a page of it is killed.
    """
    try:
        driver.make_template(folder, request)
    except PymachineError as error:
        if shutil.disk_usage(folder).free < FULL_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


def _tidy(root: Path, *, keep: Path) -> None:
    """Make room for another template. Raises `TemplateError` if there is none."""
    limit = time.time() - UNUSED_SECONDS
    for template in (found for entry in root.glob("[!.]*") if entry != keep and (found := _open(entry))):
        if template.used <= limit:
            remove(template)
    free = shutil.disk_usage(root).free
    if free < NEEDED_BYTES:
        raise TemplateError(
            f"not enough disk space for a template in {root}: {free >> 20} MB free, {NEEDED_BYTES >> 20} MB needed"
        )


def _settled(path: Path) -> dict[str, Json]:
    """Have a file written out to the disk, and describe it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return _describe(path)


def _describe(path: Path) -> dict[str, Json]:
    """What tells that a file was changed. A change of the inode itself (a copy, a chmod) counts as one."""
    status = path.stat()
    described: dict[str, Json] = {
        "size": status.st_size,
        "inode": status.st_ino,
        "modified": status.st_mtime_ns,
        "changed": status.st_ctime_ns,
    }
    if status.st_size <= DIGESTED_BYTES:
        described["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return described


def _marker(path: Path) -> Path:
    return path.with_name(f".{path.name}.failed")


def _remember_failure(path: Path, why: str) -> None:
    # Without the marker, as on a full disk, the next create tries again: that costs time and nothing else.
    with suppress(OSError):
        files.atomic_write(_marker(path), why + "\n")


def _failed_of_late(path: Path) -> bool:
    try:
        age = time.time() - _marker(path).stat().st_mtime
    except OSError:
        return False
    return 0 <= age < RETRY_SECONDS


@contextmanager
def _locked(path: Path, reporter: Reporter) -> Iterator[None]:
    """Hold the lock under which the template at `path` is made."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        try:
            held = files.acquire_lock(lock, timeout=0)
        except TimeoutError:
            with reporter.task("Waiting for the template that another pymachine makes"):
                held = files.acquire_lock(lock, timeout=LOCK_SECONDS)
    except TimeoutError as error:
        raise TemplateError(f"another pymachine has been making {path.name} for {LOCK_SECONDS:g} seconds") from error
    except OSError as error:
        raise os_errors.wrapped(TemplateError, f"cannot write in {path.parent}", error) from error
    with held:
        yield
