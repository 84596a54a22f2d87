"""Run a script as root in the machine, whose standard input and output become a connection to this host."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from socket import socket
from typing import IO

from pymachine.errors import PymachineError
from pymachine.provision.remote import BEGIN, NO_SUDO, ROOT_SHELL
from pymachine.ssh import openssh, plain_paths
from pymachine.ssh.connection import KEEPALIVE_OPTIONS, login_error
from pymachine.ssh.target import SshError, Target
from pymachine.system import printable, run
from pymachine.system.wait import Deadline

_MARK = f"{BEGIN}\n".encode()
# The start-up files of a login shell may print something first.
_MOST_BEFORE_BEGIN = 65536
_BEGIN_SECONDS = 120.0
_MOST_MESSAGES = 4096
_CHUNK = 65536
# A guest that writes messages without end must not occupy a CPU of the host.
_PAUSE_SECONDS = 0.02
# How long ssh, and sshfs in the machine, have to end when the connection is closed.
_END_SECONDS = 5.0
# ssh's exit code if there is no connection.
_NO_CONNECTION = 255


class Messages:
    """Reads the machine's standard error in a thread, and keeps its end."""

    def __init__(self, stream: IO[bytes], *, mark: bytes = b"", marked: Callable[[], object] = lambda: None) -> None:
        """`marked` is called once, in the thread, when the machine sends `mark`, which is not kept."""
        self._stream = stream
        self._mark = mark
        self._marked = marked
        self._kept = b""
        self.is_marked = False
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
            if self._mark and self._mark in data:
                if not self.is_marked:
                    self.is_marked = True
                    self._marked()
                data = data.replace(self._mark, b"")
            self._kept = data[-_MOST_MESSAGES:]
            time.sleep(_PAUSE_SECONDS)


@contextmanager
def command(target: Target) -> Iterator[list[str]]:
    """Return the command line that runs a script from its standard input as root in the machine.

    It works while the block runs. Raises `SshError`.
    """
    target.check()
    program = run.which("ssh")
    if program is None:
        raise SshError("OpenSSH's client, ssh, is not installed")
    with plain_paths.plain(target) as plain:
        argv = openssh.ssh(str(program), plain, ["--", ROOT_SHELL])
        # No terminal, no escape characters, no questions.
        argv[1:1] = ["-T", "-e", "none", "-o", "BatchMode=yes", *KEEPALIVE_OPTIONS]
        yield argv


def begin(connection: socket, script: bytes, *, purpose: str) -> str | None:
    """Send the script, and wait until it prints `BEGIN`. Then the connection is its standard input and output.

    Return a problem of the machine's, or an empty text if the connection has ended, whose messages say why. After None
    the script has begun, and the connection blocks. `purpose` completes a sentence: "it did not begin to ...".
    """
    deadline = Deadline(_BEGIN_SECONDS)
    output = bytearray()
    try:
        connection.settimeout(deadline.socket_timeout())
        connection.sendall(script)
        # One byte after the other: what follows is not for this function.
        while not output.endswith(_MARK):
            connection.settimeout(deadline.socket_timeout())
            data = connection.recv(1)
            if not data:
                return ""
            output += data
            if len(output) > _MOST_BEFORE_BEGIN:
                return "its login shell prints too much"
    except TimeoutError:
        return f"it did not begin to {purpose} within {_BEGIN_SECONDS:g} seconds"
    except ConnectionError:  # ssh has ended
        return ""
    connection.settimeout(None)
    return None


def end(process: subprocess.Popen[bytes]) -> int:
    """Wait until ssh has ended, whose connection was closed, and kill it if it takes long. Return its exit code."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    process.kill()
    return process.wait()


def login_problem(target: Target, code: int, messages: str) -> str:
    """Return why there was no connection, by the exit code and the messages of ssh, or an empty text if there was."""
    if code == _NO_CONNECTION:
        return _reason(login_error(target, messages))
    return ""


def refusal(target: Target, code: int, messages: str) -> str:
    """Return why the machine did not run the script, or the messages as they are."""
    if code == NO_SUDO:
        return f"{target.user} cannot become root without a password; {messages}"
    return messages


def _reason(error: PymachineError) -> str:
    return f"{error.brief} ({error.details})" if error.details else error.brief
