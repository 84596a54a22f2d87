"""Shared folders over virtio-9p, QEMU's own file server.

Every machine has the same number of 9p devices, also a template. The folder behind a device is not part of a machine's
saved state, so machines with other folders can be resumed from it. Unused devices export an empty folder.

QEMU opens the folders when it starts. One that is missing then has no device until the next start, and the core mounts
it over SSH when it is back: see `LateShareable`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath

from pymachine.driver.contract import BootRequest, Endpoint
from pymachine.driver.errors import DriverError, UsageError
from pymachine.driver.kit import guest_mounts, name_resolution
from pymachine.driver.kit.identity_channel import GuestError
from pymachine.driver.kit.system import Deadline, Reporter, files, os_errors
from pymachine.driver.shares import Share, in_mount_order, problem
from pymachine_driver_qemu import identity as identity_port, qmp, read_only_mounts, runtime
from pymachine_driver_qemu.binary import Qemu

# The most folders that a machine shares. In emulation, eight devices take up to half a second of a boot.
MOST = 8
TAG = "share"
# cache=mmap keeps the data of open files, and nothing else. Without it, kernel 6.12 sends each page as one message:
# in emulation 6 MB/s instead of 60. Larger messages than the default of 128 KiB double the speed. Without noxattr, each
# write first reads the file's capabilities: 200 short writes send 200 messages more than the 8 that they need.
_OPTIONS = "trans=virtio,version=9p2000.L,msize=512000,cache=mmap,access=any,noxattr"
_UNMOUNT_SECONDS = 60.0


class ShareInUseError(DriverError):
    """The memory of a machine cannot be saved while a shared folder is in use."""

    code = "share-in-use"


def check(shares: Sequence[Share], qemu: Qemu) -> None:
    """Raise `UsageError` if there are more than `qemu` has devices for."""
    if qemu.has_9p and len(shares) > MOST:
        raise UsageError(
            f"a machine of the driver qemu shares at most {MOST} folders, not {len(shares)}",
            hint="Share a folder that contains several of them.",
        )


def note_missing(shares: Sequence[Share], sockets: Path, *, also: Collection[str] = ()) -> None:
    """Note with which of `shares` QEMU is not started, for `missing`. `also` has the texts of more of them.

    These are shares whose folder is missing, and those inside of them in the guest, which they would hide when they are
    mounted later. Raises `DriverError`.
    """
    gone = [share for share in shares if problem(share) or str(share) in also]
    found = [share for share in shares if any(share.guest_path.is_relative_to(each.guest_path) for each in gone)]
    if not found:
        return
    rows = [[str(share.path), str(share.guest_path), share.read_only] for share in found]
    path = sockets / runtime.MISSING
    try:
        files.atomic_write(path, json.dumps(rows), durable=False)
    except OSError as error:
        raise os_errors.wrapped(DriverError, f"cannot write {path}", error) from error


def missing(sockets: Path) -> list[Share]:
    """Return the shares with which the QEMU of these sockets was not started."""
    try:
        rows = json.loads((sockets / runtime.MISSING).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return [
        Share(path=Path(path), guest_path=PurePosixPath(guest), read_only=read_only) for path, guest, read_only in rows
    ]


def identity(request: BootRequest, endpoint: Endpoint, sockets: Path) -> bytes:
    """Return the machine's identity, with the host's names and the folders to mount."""
    return with_mounts(name_resolution.identity(request, endpoint), request.shares, sockets)


def with_mounts(tar: bytes, shares: Sequence[Share], sockets: Path) -> bytes:
    """Return the identity `tar` with the folders to mount."""
    shared = _shared(shares, sockets)
    mounts = [
        guest_mounts.Mount(kind="9p", source=f"{TAG}{number}", options=_OPTIONS, share=share)
        for number, share in enumerate(in_mount_order(shares))
        if share in shared
    ]
    return guest_mounts.with_mounts(tar, mounts)


def _shared(shares: Sequence[Share], sockets: Path) -> list[Share]:
    """Return the shares that have a device and whose folder exists."""
    without = missing(sockets)
    return [share for share in shares if share not in without and not problem(share)]


def make_read_only_mounts(shares: Sequence[Share], sockets: Path) -> list[read_only_mounts.Mount]:
    """Return the mounts by which the host's kernel enforces that shares are read-only, and make their places.

    `exports` then exports these places. It is an empty list on other systems than Linux.
    """
    if not read_only_mounts.available():
        return []
    shared = _shared(shares, sockets)
    return [
        read_only_mounts.Mount(share.path, runtime.make_place(sockets, f"{TAG}{number}"))
        for number, share in enumerate(in_mount_order(shares))
        if share.read_only and share in shared
    ]


def are_read_only_by_kernel(sockets: Path) -> bool:
    """Return whether the host's kernel enforces that the read-only folders of a running machine are so.

    Otherwise QEMU does, which refuses changes of owner, too. It is false for a machine without read-only folders.
    """
    return (sockets / runtime.READ_ONLY).is_dir()


def exports(shares: Sequence[Share], sockets: Path) -> list[tuple[Path, bool]]:
    """Return the folder of each device, and whether QEMU must enforce that it is read-only.

    It is an empty one for a device that is not needed, and for a folder that vanished: the numbers of the others stay.
    """
    shared = _shared(shares, sockets)
    empty = (sockets / runtime.EMPTY, True)
    exported = []
    for number, share in enumerate(in_mount_order(shares)):
        place = sockets / runtime.READ_ONLY / f"{TAG}{number}"
        if place.is_dir():
            exported.append((place, False))
        else:
            exported.append((share.path, share.read_only) if share in shared else empty)
    return exported + [empty] * (MOST - len(exported))


def warn_if_not_mounted(shares: Sequence[Share], sockets: Path, stages: Collection[str], *, reporter: Reporter) -> None:
    """Warn if the guest has not reported, among the `stages` of its boot, that it mounted the shared folders."""
    if guest_mounts.STAGE not in stages and _shared(shares, sockets):
        reporter.warn(
            "The guest did not mount its shared folders. pymachine logs shows its console. If the machine's image is "
            "older than shared folders, pymachine upgrade gives it a new one."
        )


def are_mounted(sockets: Path) -> bool:
    """Return whether the guest has mounted a shared folder. QEMU refuses to save its memory then."""
    with qmp.Qmp(sockets / runtime.CONTROL) as monitor:
        return bool(monitor.execute("query-migrate").get("blocked-reasons"))


@contextmanager
def unmounted(sockets: Path, *, reporter: Reporter) -> Iterator[None]:
    """Have the guest unmount its shared folders during the block. Raises `ShareInUseError` if it cannot."""
    with closing(identity_port.Channel(sockets / runtime.IDENTITY)) as port:
        try:
            problem = _unmount(port, sockets)
            if problem:
                raise ShareInUseError(
                    f"the memory cannot be saved while a shared folder is in use: {problem}",
                    hint="Stop what uses it, or save only the disk: pymachine snapshot create --disk-only",
                )
            yield
        finally:
            try:
                port.mount(deadline=Deadline(_UNMOUNT_SECONDS))
            except GuestError as error:
                reporter.warn(f"The guest did not mount its shared folders again ({error.brief}). Restart it.")


def _unmount(port: identity_port.Channel, sockets: Path) -> str:
    """Return why the guest could not unmount its folders, or an empty text."""
    try:
        port.unmount(deadline=Deadline(_UNMOUNT_SECONDS))
    except GuestError as error:
        return error.brief
    return "a program in the machine has it mounted, too" if are_mounted(sockets) else ""
