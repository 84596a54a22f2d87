"""Lengthen the listen queues of QEMU's forwarded ports; for drivers with QEMU's user network.

QEMU's user network listens with a queue of one connection. Linux drops connections while the queue is full: of 50
clients at once, about twelve wait for seconds or fail. Another process that has the socket open can call listen()
again with a longer queue. In Linux 5.6 and later, a process can get the sockets of a process that it may trace.
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

# The kernel limits this to net.core.somaxconn.
LENGTH = 4096
# The system call's number in asm-generic/unistd.h, the same on all architectures. Python has no function for it.
_PIDFD_GETFD = 438
# From linux/prctl.h.
_PR_SET_PTRACER = 0x59616D61
_ANY_PROCESS = ctypes.c_ulong(-1)
_NO_WAY = f"{sys.platform} does not give a process the sockets of another process"


class BacklogError(Exception):
    """This host does not allow a process to get the sockets of another process; `fix` says what would."""

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
        raise BacklogError(
            "this Python was built without os.pidfd_open", fix="Use a Python built for Linux 5.3 or later."
        )
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
    """Return a function for a child process to call before it becomes QEMU, so that the user's processes may trace it.

    For Linux only. Without it, Yama (``kernel.yama.ptrace_scope=1``, Ubuntu's default) allows only ancestors to trace
    it. This is no risk: the user's processes control QEMU through its monitor anyway.
    """
    prctl = ctypes.CDLL(None).prctl

    def allow() -> None:
        # This fails without Yama, where it is not needed.
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
        raise BacklogError(
            f"process {pid} belongs to another user", fix="Run both as the same user, or as root."
        ) from error
    except FileNotFoundError:  # the process has ended
        return
    for entry in entries:
        try:
            if str(entry.readlink()).startswith("socket:"):
                yield int(entry.name)
        except FileNotFoundError:  # closed meanwhile
            continue


def _lengthen(handle: int, number: int) -> bool:
    """Lengthen the queue of the process's descriptor `number`; return whether it is a TCP socket that listens."""
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_GETFD, handle, number, 0)
    if descriptor < 0:
        code = ctypes.get_errno()
        if code == errno.EBADF:  # a connection that has ended meanwhile
            return False
        raise OSError(code, os.strerror(code))
    with socket.socket(fileno=descriptor) as server:
        if server.family not in {socket.AF_INET, socket.AF_INET6} or server.type != socket.SOCK_STREAM:
            return False
        if not server.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        server.listen(LENGTH)
    return True


def _explained(error: OSError) -> BacklogError:
    if error.errno == errno.ENOSYS:
        return BacklogError("the kernel has no pidfd_getfd", fix="Use Linux 5.6 or later.")
    scope = _yama()
    if scope > 1:
        return BacklogError(
            f"kernel.yama.ptrace_scope is {scope}, so no process may get the sockets of another one",
            fix="Set it to 1, or run as root.",
        )
    or_yama = ", or kernel.yama.ptrace_scope is 1 and another program has started the hypervisor" if scope == 1 else ""
    return BacklogError(
        f"pidfd_getfd is refused ({error.strerror}), as is the default in containers{or_yama}",
        fix="Give the container the capability: docker run --cap-add SYS_PTRACE.",
    )


def _yama() -> int:
    try:
        return int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except (OSError, ValueError):
        return 0
