"""Longer queues for the ports that a QEMU listens on; for drivers with QEMU's user network.

QEMU's user network listens with a queue of one connection. Linux drops what arrives while the queue is full: of 50
clients at once, a dozen wait for seconds or in vain. A process that has the same socket open can call listen() again
with a longer queue. Linux 5.6 and later give a process the sockets of another process that it may trace.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# The kernel takes net.core.somaxconn instead where that is less.
LENGTH = 4096
# The number in asm-generic/unistd.h, which holds for all architectures. Python has no function for it.
_PIDFD_GETFD = 438
# From linux/prctl.h.
_PR_SET_PTRACER = 0x59616D61
_ANY_PROCESS = ctypes.c_ulong(-1)
_NO_WAY = f"{sys.platform} does not give a process the sockets of another process"


class BacklogError(Exception):
    """This host does not give a process the sockets of another process."""

    def __init__(self, text: str, *, fix: str = "") -> None:
        super().__init__(text)
        self.fix = fix


def lengthen(pid: int) -> int:
    """Lengthen the queues of all TCP ports on which process `pid` listens; return how many there are.

    Raises `BacklogError` if the host does not allow that.
    """
    if sys.platform != "linux":
        raise BacklogError(_NO_WAY)
    if not hasattr(os, "pidfd_open"):
        raise BacklogError("this Python was built without os.pidfd_open", fix="Use one that was built for Linux 5.3.")
    count = 0
    try:
        handle = os.pidfd_open(pid)
        try:
            for number in _sockets(pid):
                count += _lengthen(handle, number)
        finally:
            os.close(handle)
    except ProcessLookupError:
        return count
    except OSError as error:
        raise _explained(error) from error
    return count


def allowance() -> Callable[[], None]:
    """Return what a child calls, on Linux, before it becomes QEMU, so that the user's other processes may trace it.

    Without that, Yama (``kernel.yama.ptrace_scope=1``, the default of Ubuntu) allows it to ancestors only. It gives
    away nothing: the user's processes control QEMU through its monitor anyway.
    """
    prctl = ctypes.CDLL(None).prctl

    def allow() -> None:
        # Fails where there is no Yama, which forbids nothing then.
        prctl(_PR_SET_PTRACER, _ANY_PROCESS, 0, 0, 0)

    return allow


def probe() -> None:
    """Lengthen the queue of a child process. Raises `BacklogError` if this host does not allow that."""
    if sys.platform != "linux":
        raise BacklogError(_NO_WAY)
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        child = subprocess.Popen(
            ["cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[server.fileno()],
            preexec_fn=allowance(),  # noqa: PLW1509 (one system call)
        )
        try:
            lengthen(child.pid)
        finally:
            child.communicate()


def _sockets(pid: int) -> Iterator[int]:
    try:
        entries = list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError as error:
        raise BacklogError(f"process {pid} is another user's", fix="Run both as one user, or as root.") from error
    except FileNotFoundError:  # it has ended
        return
    for entry in entries:
        try:
            if str(entry.readlink()).startswith("socket:"):
                yield int(entry.name)
        except FileNotFoundError:  # closed meanwhile
            continue


def _lengthen(handle: int, number: int) -> bool:
    """Lengthen the queue of the process's descriptor `number`; return whether it is a TCP socket that listens."""
    ours = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, handle, number, 0)
    if ours < 0:
        code = ctypes.get_errno()
        if code == errno.EBADF:  # a connection that has ended meanwhile
            return False
        raise OSError(code, os.strerror(code))
    with socket.socket(fileno=ours) as theirs:
        if theirs.family not in {socket.AF_INET, socket.AF_INET6} or theirs.type != socket.SOCK_STREAM:
            return False
        if not theirs.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        theirs.listen(LENGTH)
    return True


def _explained(error: OSError) -> BacklogError:
    if error.errno == errno.ENOSYS:
        return BacklogError("the kernel has no pidfd_getfd", fix="Use Linux 5.6 or later.")
    scope = _yama()
    if scope > 1:
        return BacklogError(
            f"kernel.yama.ptrace_scope is {scope}, so that no process may have the sockets of another one",
            fix="Set it to 1, or run as root.",
        )
    or_yama = ", or kernel.yama.ptrace_scope is 1 and another program has started the hypervisor" if scope == 1 else ""
    return BacklogError(
        f"pidfd_getfd is refused ({error.strerror}): containers do so by default{or_yama}",
        fix="Give the container the capability: docker run --cap-add SYS_PTRACE.",
    )


def _yama() -> int:
    try:
        return int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except (OSError, ValueError):
        return 0
