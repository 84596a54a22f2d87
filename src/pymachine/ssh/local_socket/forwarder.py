"""Keep a machine's local socket connected: again after a lost connection, a reboot, or with another address.

OpenSSH's client makes the socket under another name and forwards its connections. It gets its own name only once the
engine has answered through it. So a program either finds no socket, or one that works.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from pymachine.errors import PymachineError
from pymachine.ssh import openssh, plain_paths
from pymachine.ssh.background import END, RETRY
from pymachine.ssh.connection import KEEPALIVE_OPTIONS
from pymachine.ssh.local_socket import place, status
from pymachine.ssh.local_socket.process import LocalSocketError
from pymachine.ssh.local_socket.status import SocketState, Status
from pymachine.ssh.remote_script import Messages, login_problem
from pymachine.ssh.target import SshError, Target
from pymachine.system import os_errors, printable, run

ENGINE = "/var/run/docker.sock"
"""The engine's socket in the machine."""
_MARK = "pymachine-socket"
# `cat` ends with its input, so ssh ends if this process is killed. Login shells may be csh or fish, so sh runs this.
_SCRIPT = (
    f"exec sh -c 'if test -w {ENGINE}; then echo {_MARK} usable; elif test -S {ENGINE}; then echo {_MARK} denied; "
    f"else echo {_MARK} missing; fi; exec cat'"
)
_FORWARDING = {
    "ExitOnForwardFailure": "yes",
    "StreamLocalBindMask": "0177",
    "StreamLocalBindUnlink": "yes",
    "BatchMode": "yes",
    # The reason why the machine refuses to forward is a message of this level.
    "LogLevel": "INFO",
}
_PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
_TICK_SECONDS = 1.0
_LOGIN_SECONDS = 120.0
_PING_SECONDS = 60.0
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_END_SECONDS = 5.0
_CHUNK = 65536
# The start-up files of a login shell may print something first.
_MOST_OUTPUT = 65536

Say = Callable[[str], None]
FindTarget = Callable[[], Target]
"""Return the machine's SSH endpoint. Raises `PymachineError` if there is none now."""


class _Refused(Exception):  # noqa: N818 (an outcome, not a fault)
    """The machine can be reached, but not its engine."""


class _Lost(Exception):  # noqa: N818
    """There is no connection, or it has ended."""


def _connected(path: Path) -> socket.socket:
    """Connect to a unix socket. Raises OSError."""
    if sys.platform == "win32":  # where `local_socket.check` refuses a socket
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_END_SECONDS)
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


class _Session:
    """One connection to the machine, with a socket at `fresh`. Use `end` in any case."""

    def __init__(self, target: Target, socket_path: Path) -> None:
        """Start OpenSSH's client. Raises `PymachineError` or OSError."""
        self.target = target
        self.answered = False
        self._socket_path = socket_path
        self._output = b""
        self._ping: socket.socket | None = None
        self._deadline = time.monotonic() + _LOGIN_SECONDS
        self._links = ExitStack()
        try:
            self._process = self._start()
        except BaseException:
            self._links.close()
            raise
        assert self._process.stderr is not None  # noqa: S101 (for the type checker)
        self._messages = Messages(self._process.stderr)

    def _start(self) -> subprocess.Popen[bytes]:
        self.target.check()
        program = run.which("ssh")
        if program is None:
            raise SshError("OpenSSH's client, ssh, is not installed")
        plain = self._links.enter_context(plain_paths.plain(self.target))
        argv = openssh.ssh(str(program), plain, ["--", _SCRIPT])
        words = ["-T", *KEEPALIVE_OPTIONS]
        for name, value in _FORWARDING.items():
            words += ["-o", f"{name}={value}"]
        argv[1:1] = [*words, "-L", f"{place.fresh(self._socket_path)}:{ENGINE}"]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def fileno(self) -> int | None:
        """Return the descriptor from which `update` waits for data, or None if it waits for none."""
        if self._ping is not None:
            return self._ping.fileno()
        if self.answered or self._process.stdout is None:
            return None  # the machine may print without end
        return self._process.stdout.fileno()

    def update(self, *, readable: bool) -> None:
        """Go on as far as possible; `readable` says whether `fileno` is. Raises `_Refused`, `_Lost` or OSError."""
        if self._process.poll() is not None:
            raise self._ended()
        if readable and self._ping is not None:
            self._read_answer(self._ping)
        elif readable:
            self._read_output()
        if not self.answered and time.monotonic() > self._deadline:
            if self._ping is None:
                raise _Lost(f"the login was not finished within {_LOGIN_SECONDS:g} seconds")
            raise _Refused(f"the engine does not answer at {ENGINE} within {_PING_SECONDS:g} seconds")

    def _read_output(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 (for the type checker)
        data = os.read(self._process.stdout.fileno(), _CHUNK)
        if not data:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_SECONDS)
            raise self._ended()
        self._output += data
        if len(self._output) > _MOST_OUTPUT:
            raise _Refused("its login shell prints too much")
        *_, after = self._output.partition(_MARK.encode())
        word, end, _ = after.partition(b"\n")
        if not end:
            return
        if word.strip() == b"missing":
            raise _Refused(f"no engine listens at {ENGINE}")
        if word.strip() == b"denied":
            user = self.target.user
            raise _Refused(
                f"{user} may not use {ENGINE}: add {user} to the group docker in the machine (sudo usermod -aG docker "
                f"{user})"
            )
        self._ping = _connected(place.fresh(self._socket_path))
        self._ping.sendall(_PING)
        self._deadline = time.monotonic() + _PING_SECONDS

    def _read_answer(self, ping: socket.socket) -> None:
        try:
            data = ping.recv(_CHUNK)
        except ConnectionError:
            data = b""
        ping.close()
        self._ping = None
        if not data.startswith(b"HTTP/"):
            raise _Refused(self._why_not_forwarded())
        place.fresh(self._socket_path).rename(self._socket_path)
        self.answered = True

    def _why_not_forwarded(self) -> str:
        self._stop()
        text = self._messages.text()
        if "open failed" in text:  # OpenSSH's server has the same message for both reasons
            return (
                f"the engine does not answer at {ENGINE}, or the machine's SSH server does not forward sockets: "
                "AllowStreamLocalForwarding must be yes in its sshd_config"
            )
        return f"the engine does not answer at {ENGINE}" + (f": {text}" if text else "")

    def _ended(self) -> _Lost | _Refused:
        code = self._process.wait()
        text = self._messages.text()
        if "cannot bind" in text or "forwarding" in text:
            return _Refused(text)
        return _Lost(login_problem(self.target, code, text) or text or f"ssh has ended with exit code {code}")

    def end(self) -> None:
        """End the connection, and remove the socket."""
        if self._ping is not None:
            self._ping.close()
        self._stop()
        self._links.close()
        with suppress(OSError):
            place.remove(self._socket_path)

    def _stop(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        # ssh does not end while it has open connections.
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_SECONDS)
        self._process.kill()
        self._process.wait()


class Forwarder:
    """Keeps the local socket of the machine in `folder` connected, and records whether it is."""

    def __init__(self, folder: Path, *, target: FindTarget, say: Say) -> None:
        self._folder = folder
        self._path = place.path(folder)
        self._target = target
        self._say = say
        self._session: _Session | None = None
        self._status = Status(pid=os.getpid())
        self._saved: Status | None = None
        self._attempts = 0
        self._began = 0.0
        self._pause = 0.0
        self._retry_at = 0.0

    def run(self, version: Callable[[], object], *, wake: socket.socket) -> None:
        """Keep the socket connected until `version` returns None, or `END` comes from `wake`.

        `version` is called every second. If its result changes, the machine may have another address. After `RETRY` has
        come, a socket that is not connected is tried again at once. The socket is removed at the end.
        """
        known: object = None
        try:
            while (current := version()) is not None:
                if current != known and known is not None:
                    self._follow_address()
                known = current
                self._update(readable=False)
                self._save()
                ready, woken = self._wait(wake)
                if END in woken:
                    break
                if RETRY in woken and not self._is_connected:
                    self._pause = self._retry_at = 0.0
                if ready:
                    self._update(readable=True)
                self._save()
        finally:
            self._end()

    @property
    def _is_connected(self) -> bool:
        return self._status.state is SocketState.CONNECTED

    def _follow_address(self) -> None:
        """Connect again at once if the machine has another address, user or key now."""
        if self._session is None:
            self._pause = self._retry_at = 0.0
            return
        with suppress(PymachineError):
            if self._target() != self._session.target:
                self._end()
                self._set(SocketState.CONNECTING, "the machine has another address")
                self._pause = self._retry_at = 0.0

    def _update(self, *, readable: bool) -> None:
        try:
            if self._session is not None:
                self._session.update(readable=readable)
                if self._session.answered:
                    self._set(SocketState.CONNECTED)
            elif time.monotonic() >= self._retry_at:
                self._attempts += 1
                self._began = time.monotonic()
                place.prepare(self._path)
                self._session = _Session(self._target(), self._path)
        except (_Refused, LocalSocketError) as error:
            self._fail(SocketState.REFUSED, str(error))
        except _Lost as error:
            self._fail(SocketState.CONNECTING, str(error))
        except PymachineError as error:
            self._fail(SocketState.CONNECTING, error.brief)
        except OSError as error:
            self._fail(SocketState.CONNECTING, os_errors.reason(error))

    def _fail(self, state: SocketState, why: str) -> None:
        """Try again after a pause, which grows unless the last session lasted for a while."""
        self._end()
        lasted = time.monotonic() - self._began
        self._pause = _FIRST_PAUSE if lasted > _LONGEST_PAUSE or not self._pause else self._pause * 2
        self._pause = min(self._pause, _LONGEST_PAUSE)
        self._retry_at = time.monotonic() + self._pause
        self._set(state, printable.line(why))

    def _end(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.end()

    def _set(self, state: SocketState, why: str = "") -> None:
        before = self._status
        self._status = Status(pid=os.getpid(), state=state, problem=why, attempts=self._attempts)
        if (before.state, before.problem) != (state, why):
            self._say(f"{state.value}{f' ({why})' if why else f': {self._path}'}")

    def _wait(self, wake: socket.socket) -> tuple[bool, bytes]:
        """Wait for the session or a second. Return whether the session is ready, and what came from `wake`."""
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            number = self._session.fileno() if self._session else None
            if number is not None:
                selector.register(number, selectors.EVENT_READ)
            ready = {key.fileobj for key, _ in selector.select(_TICK_SECONDS)}
        return number in ready, wake.recv(_CHUNK) if wake in ready else b""

    def _save(self) -> None:
        if self._status == self._saved or not self._folder.is_dir():
            return
        with suppress(OSError):  # the disk is full, or the machine is being removed: tried again
            status.save(self._folder, self._status)
            self._saved = self._status
