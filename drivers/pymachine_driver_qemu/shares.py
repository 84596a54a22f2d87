"""Shared folders over virtio-9p, QEMU's own file server.

Every machine has the same number of 9p devices, also a template. The folder behind a device is not part of a machine's
saved state, so machines with other folders can be resumed from it. Unused devices export an empty folder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from pymachine.driver.contract import BootRequest, Endpoint
from pymachine.driver.errors import DriverError, UsageError
from pymachine.driver.kit import guest_mounts, search_domains
from pymachine.driver.kit.identity_channel import GuestError
from pymachine.driver.kit.system import Deadline, Reporter
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


def identity(request: BootRequest, endpoint: Endpoint) -> bytes:
    """Return the machine's identity, with the host's search domains and the folders to mount."""
    mounts = [
        guest_mounts.Mount(kind="9p", source=f"{TAG}{number}", options=_OPTIONS, share=share)
        for number, share in enumerate(in_mount_order(request.shares))
        if not problem(share)
    ]
    return guest_mounts.with_mounts(search_domains.identity(request, endpoint), mounts)


def make_read_only_mounts(shares: Sequence[Share], sockets: Path) -> list[read_only_mounts.Mount]:
    """Return the mounts by which the host's kernel enforces that shares are read-only, and make their places.

    `exports` then exports these places. It is an empty list on other systems than Linux.
    """
    if not read_only_mounts.available():
        return []
    return [
        read_only_mounts.Mount(share.path, runtime.make_place(sockets, f"{TAG}{number}"))
        for number, share in enumerate(in_mount_order(shares))
        if share.read_only and not problem(share)
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
    empty = (sockets / runtime.EMPTY, True)
    exported = []
    for number, share in enumerate(in_mount_order(shares)):
        place = sockets / runtime.READ_ONLY / f"{TAG}{number}"
        if place.is_dir():
            exported.append((place, False))
        else:
            exported.append(empty if problem(share) else (share.path, share.read_only))
    return exported + [empty] * (MOST - len(exported))


def warn_if_not_mounted(shares: Sequence[Share], stages: Collection[str], *, reporter: Reporter) -> None:
    """Warn if the guest has not reported, among the `stages` of its boot, that it mounted the shared folders."""
    if guest_mounts.STAGE not in stages and not all(map(problem, shares)):
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
