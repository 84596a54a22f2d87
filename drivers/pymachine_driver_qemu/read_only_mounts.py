"""Mount read-only shared folders for QEMU alone, so that the host's kernel enforces that they are read-only.

QEMU's own ``readonly=on`` answers each change with an error, also a change of owner that changes nothing, by which a
program in the guest can report an event to those that watch the file. With `syscall_filter`, a change of owner on a
read-only mount succeeds without effect. The kernel refuses all other changes.

QEMU runs in a mount namespace of its own. In it, each folder is mounted a second time, read-only, at a place in the
machine's folder of sockets. QEMU exports that place, where it would find an empty folder if the mount were missing.
The folder itself stays writable in the namespace, for a writable share inside of it. An ordinary user also needs a
user namespace, in which there are only this user and its first group. QEMU keeps its rights, but sees files of others
as those of user 65534.

The mounts are copies: file systems that are mounted in such a folder later do not appear in them, since they would be
writable, and those that are unmounted stay in use until QEMU ends.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

# From linux/sched.h, linux/mount.h and linux/fcntl.h.
_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_SLAVE = 1 << 12, 1 << 14, 1 << 18, 1 << 19
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_NOSUID, _MOUNT_ATTR_NODEV = 1, 2, 4
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
# The system call's number in asm-generic/unistd.h, the same on all architectures. It exists since Linux 5.12.
_MOUNT_SETATTR = 442


class Mount(NamedTuple):
    """A folder, and the empty folder at which it is mounted read-only."""

    path: Path
    place: Path


class _MountAttributes(ctypes.Structure):
    """Struct mount_attr of linux/mount.h."""

    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("user_namespace", ctypes.c_uint64),
    )


_Call = Callable[[], int]


def available() -> bool:
    """Return whether this system has mount namespaces. The kernel may still refuse one to this user."""
    return sys.platform == "linux"


def mounter(mounts: Sequence[Mount]) -> Callable[[], int]:
    """Return a function that gives the process that calls it its own namespace with the `mounts`.

    It returns 0, or the error number of the call that failed: the process must not go on as planned then. All else is
    prepared here, so a child process may call it between fork and exec. For Linux only.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    calls = [*_namespace(libc), *(call for mount in mounts for call in _read_only(libc, mount))]

    def mount_all() -> int:
        for call in calls:
            if call() < 0:
                return ctypes.get_errno()
        return 0

    return mount_all


def _namespace(libc: ctypes.CDLL) -> Iterator[_Call]:
    """Yield the calls that enter a new namespace, in which changes of the host's mounts appear, but not vice versa."""
    if sys.platform != "linux":  # see `available`
        return
    if os.geteuid() == 0:
        yield lambda: libc.unshare(_CLONE_NEWNS)
    else:
        yield lambda: libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS)
        # Without this, the kernel lets only root map a group.
        yield _writing(libc, b"/proc/self/setgroups", b"deny")
        yield _writing(libc, b"/proc/self/uid_map", b"%d %d 1" % (os.geteuid(), os.geteuid()))
        yield _writing(libc, b"/proc/self/gid_map", b"%d %d 1" % (os.getegid(), os.getegid()))
    yield _mounting(libc, None, b"/", _MS_SLAVE)


def _read_only(libc: ctypes.CDLL, mount: Mount) -> Iterator[_Call]:
    place = os.fsencode(mount.place)
    yield _mounting(libc, os.fsencode(mount.path), place, _MS_BIND)
    # Else file systems that the host mounts in the folder later would appear here, writable.
    yield _mounting(libc, None, place, _MS_PRIVATE)
    wanted = _MountAttributes(set=_MOUNT_ATTR_RDONLY | _MOUNT_ATTR_NOSUID | _MOUNT_ATTR_NODEV)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    number = ctypes.c_long(_MOUNT_SETATTR)
    yield lambda: libc.syscall(number, _AT_FDCWD, place, _AT_RECURSIVE, ctypes.byref(wanted), size)


def _mounting(libc: ctypes.CDLL, source: bytes | None, target: bytes, flags: int) -> _Call:
    """Return a call of mount(2), with `flags` for all mounts below, too."""
    every = ctypes.c_ulong(flags | _MS_REC)
    return lambda: libc.mount(source, target, None, every, None)


def _writing(libc: ctypes.CDLL, path: bytes, text: bytes) -> _Call:
    def write() -> int:
        # The descriptor needs no close: exec closes it.
        opened = int(libc.open(path, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0)))
        return opened if opened < 0 else int(libc.write(opened, text, ctypes.c_size_t(len(text))))

    return write
