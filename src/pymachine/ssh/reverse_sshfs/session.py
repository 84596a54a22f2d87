"""The process for one mounted folder: it runs OpenSSH's client, and is the SFTP server on its connection.

``python -m pymachine.ssh.reverse_sshfs.session`` reads an order from the first line of its input, and prints reports:
see `order`. It ends with the connection, or when its input ends, so it never outlives the keeper.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from pymachine.driver.kit import sftp_server
from pymachine.errors import PymachineError
from pymachine.provision.remote import BEGIN, NO_SUDO, ROOT_SHELL
from pymachine.ssh import openssh, plain_paths
from pymachine.ssh.connection import KEEPALIVE_OPTIONS, login_error
from pymachine.ssh.reverse_sshfs.order import Event, Order, Report
from pymachine.ssh.target import SshError
from pymachine.system import open_files, os_errors, printable, run
from pymachine.system.wait import Deadline

_MARK = f"{BEGIN}\n".encode()
_MOUNTED = b"pymachine-mounted\n"
# The start-up files of a login shell may print something first.
_MOST_BEFORE_BEGIN = 65536
_BEGIN_SECONDS = 120.0
# How long sshfs has to unmount when the connection is closed.
_END_SECONDS = 5.0
_MOST_MESSAGES = 4096
_CHUNK = 65536
_OPEN_FILES = 1 << 20
# A guest that writes messages without end must not occupy a CPU of the host.
_PAUSE_SECONDS = 0.02
# ssh's exit code if there is no connection.
_NO_CONNECTION = 255


class _Messages:
    """Reads the machine's standard error in a thread, and keeps its end."""

    def __init__(self, stream: IO[bytes], *, mounted: Callable[[], object]) -> None:
        """`mounted` is called once, in the thread, when the machine says that the folder is mounted."""
        self._stream = stream
        self._mounted = mounted
        self._kept = b""
        self.is_mounted = False
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def text(self) -> str:
        """Return the last messages as one line, once there are no more, or after a second."""
        self._thread.join(1.0)
        lines = self._kept.decode(errors="replace").splitlines()
        return printable.line("; ".join(line.strip() for line in lines if line.strip()))

    def _collect(self) -> None:
        while data := os.read(self._stream.fileno(), _CHUNK):
            data = self._kept + data
            if _MOUNTED in data and not self.is_mounted:
                self.is_mounted = True
                self._mounted()
            self._kept = data.replace(_MOUNTED, b"")[-_MOST_MESSAGES:]
            time.sleep(_PAUSE_SECONDS)


def main() -> int:
    """Run the program."""
    # The machine's programs need one for each file that they open.
    open_files.raise_limit(_OPEN_FILES)
    order = Order.from_line(sys.stdin.buffer.readline())
    try:
        order.target.check()
        program = run.which("ssh")
        if program is None:
            raise SshError("OpenSSH's client, ssh, is not installed")
        with plain_paths.plain(order.target) as target:
            _report(_mount(order, openssh.ssh(str(program), target, ["--", ROOT_SHELL])))
    except PymachineError as error:
        _report(Report(event=Event.LOST, problem=error.brief))
    except OSError as error:
        _report(Report(event=Event.LOST, problem=os_errors.reason(error)))
    return 0


def _mount(order: Order, argv: list[str]) -> Report:
    """Mount the folder, serve it until the connection ends, and return why it did. Raises OSError."""
    # No terminal, no escape characters, no questions.
    argv[1:1] = ["-T", "-e", "none", "-o", "BatchMode=yes", *KEEPALIVE_OPTIONS]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        process = subprocess.Popen(argv, stdin=number, stdout=number, stderr=subprocess.PIPE)
        theirs.close()
        assert process.stderr is not None  # noqa: S101 (for the type checker)
        messages = _Messages(process.stderr, mounted=lambda: _report(Report(event=Event.MOUNTED)))
        threading.Thread(target=_end_with_input, args=(ours, process), daemon=True).start()
        try:
            problem = _serve(order, ours)
            ours.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
        finally:
            process.kill()
            code = process.wait()
    text = messages.text()
    if code == _NO_CONNECTION and not messages.is_mounted:
        return Report(event=Event.LOST, problem=_reason(login_error(order.target, text)))
    if code == NO_SUDO and not messages.is_mounted:
        text = f"{order.target.user} cannot become root without a password; {text}"
    event = Event.LOST if messages.is_mounted or problem else Event.REFUSED
    return Report(event=event, problem=problem or text or f"sshfs has ended with exit code {code}")


def _serve(order: Order, connection: socket.socket) -> str:
    """Send the script, and answer sshfs until the connection ends. Return a problem of the machine's, or ""."""
    deadline = Deadline(_BEGIN_SECONDS)
    output = bytearray()
    try:
        connection.settimeout(deadline.socket_timeout())
        connection.sendall(order.script())
        # One byte after the other: the first request of sshfs follows at once.
        while not output.endswith(_MARK):
            connection.settimeout(deadline.socket_timeout())
            data = connection.recv(1)
            if not data:
                return ""
            output += data
            if len(output) > _MOST_BEFORE_BEGIN:
                return "its login shell prints too much"
    except TimeoutError:
        return f"it did not begin to mount the folder within {_BEGIN_SECONDS:g} seconds"
    except ConnectionError:  # ssh has ended, and its messages say why
        return ""
    connection.settimeout(None)
    number = connection.fileno()
    sftp_server.serve(order.share.path, read_only=order.share.read_only, incoming=number, outgoing=number)
    return ""


def _end_with_input(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """End the connection when the keeper closes our input. sshfs unmounts the folder and ends then, and so does ssh."""
    while sys.stdin.buffer.read(_CHUNK):
        pass
    with suppress(OSError):  # it has ended already
        connection.shutdown(socket.SHUT_WR)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    process.kill()


def _report(report: Report) -> None:
    with suppress(BrokenPipeError):  # the keeper has ended, and so do we
        os.write(1, report.line().encode())


def _reason(error: PymachineError) -> str:
    return f"{error.brief} ({error.details})" if error.details else error.brief


if __name__ == "__main__":
    sys.exit(main())
