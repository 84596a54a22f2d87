"""A small client for QMP, QEMU's protocol of JSON lines on a Unix socket.

Connections are short (connect, send commands, close), since each of QEMU's sockets serves one client at a time while
the others wait. Source: QEMU's "QEMU Machine Protocol Specification".
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pymachine.driver.errors import DriverError
from pymachine.driver.kit.system import Deadline

TIMEOUT = 5.0
# No expected answer is longer than a few kilobytes.
_LONGEST_LINE = 4 * 1024 * 1024
# A machine has a few dozen events in its life. QEMU limits the rate of those that a guest can cause.
_MOST_EVENTS = 10_000
_CONNECT_PAUSE = 0.02
# Process, user, group.
_CREDENTIALS = struct.Struct("3i")


class QmpError(DriverError):
    """QEMU refused a command, or its answer is not valid QMP."""

    code = "qmp"


class QmpGoneError(QmpError):
    """QEMU has ended: nothing listens on its socket, or QEMU closed it."""

    code = "qmp-gone"


class QmpTimeoutError(QmpError):
    """QEMU took too long to answer, or serves another client."""

    code = "qmp-timeout"


class Qmp:
    """A connection to QEMU's monitor; a context manager."""

    def __init__(self, place: Path | socket.socket, *, timeout: float = TIMEOUT) -> None:
        """Connect to QEMU's socket, or use a connection to it, and negotiate. Raises `QmpError`.

        `timeout` (seconds) limits the connection and each command.
        """
        self._timeout = timeout
        self._buffer = b""
        self._events: list[str] = []
        deadline = Deadline(timeout)
        self._socket = connect(place, deadline) if isinstance(place, Path) else place
        try:
            self._greeting(deadline)
            self._command("qmp_capabilities", {}, deadline)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; QEMU then serves the next client."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the socket's descriptor, for `selectors`."""
        return self._socket.fileno()

    def pid(self) -> int:
        """Return the id of the process that listens on the socket, or 0 if the system does not report it."""
        if sys.platform != "linux":
            return 0
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return int(_CREDENTIALS.unpack(credentials)[0])

    def execute(
        self, command: str, *, timeout: float | None = None, handle: int | None = None, **arguments: Any
    ) -> Any:
        """Run `command` and return its answer. Events that arrive meanwhile are kept for `events`.

        Argument names have underscores instead of QMP's dashes. `handle` is a file descriptor to pass to QEMU, for
        commands such as ``getfd``. Raises `QmpError` with QEMU's message.
        """
        deadline = Deadline(self._timeout if timeout is None else timeout)
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self._command(command, named, deadline, handle)

    def human(self, line: str) -> str:
        """Run a command of the human monitor, which has some that QMP lacks; return its output."""
        return str(self.execute("human-monitor-command", command_line=line)).strip()

    def events(self) -> list[str]:
        """Return the names of new events without waiting. Raises `QmpGoneError` if QEMU has ended."""
        while True:
            try:
                message = self._message(Deadline(0.0))
            except QmpTimeoutError:
                break
            self._keep_event(message)
        names, self._events = self._events, []
        return names

    def _greeting(self, deadline: Deadline) -> None:
        message = self._message(deadline)
        if "QMP" not in message:
            raise QmpError(f"not a QMP greeting: {json.dumps(message)[:200]}")

    def _command(
        self, command: str, arguments: Mapping[str, Any], deadline: Deadline, handle: int | None = None
    ) -> Any:
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self._send(json.dumps(request).encode() + b"\n", deadline, handle)
        while True:
            message = self._message(deadline)
            if "error" in message:
                raise QmpError(f"QEMU refused {command}: {_description(message['error'])}")
            if "return" in message:
                return message["return"]
            self._keep_event(message)
            if deadline.expired:
                raise _timeout_error(deadline)

    def _keep_event(self, message: dict[str, Any]) -> None:
        if "event" in message:
            self._events.append(str(message["event"]))
            if len(self._events) > _MOST_EVENTS:
                raise QmpError("QEMU reports too many events")

    def _send(self, data: bytes, deadline: Deadline, handle: int | None = None) -> None:
        try:
            self._socket.settimeout(deadline.socket_timeout())
            sent = 0 if handle is None else _send_with_handle(self._socket, data, handle)
            self._socket.sendall(data[sent:])
        except TimeoutError as error:
            raise QmpTimeoutError("QEMU does not read its QMP socket") from error
        except OSError as error:
            raise QmpGoneError("QEMU has ended") from error

    def _message(self, deadline: Deadline) -> dict[str, Any]:
        """Read the next line, which must be a JSON object."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > _LONGEST_LINE:
                raise QmpError("QEMU's answer is too long")
            self._receive(deadline)
            if deadline.expired and b"\n" not in self._buffer:
                raise _timeout_error(deadline)
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise QmpError(f"not QMP: {line[:200]!r}") from error
        if not isinstance(message, dict):
            raise QmpError(f"not QMP: {line[:200]!r}")
        return message

    def _receive(self, deadline: Deadline) -> None:
        try:
            self._socket.settimeout(deadline.socket_timeout())
            data = self._socket.recv(65536)
        except TimeoutError as error:
            raise _timeout_error(deadline) from error
        except OSError as error:
            raise QmpGoneError("QEMU has ended") from error
        if not data:
            raise QmpGoneError("QEMU has ended")
        self._buffer += data


def _timeout_error(deadline: Deadline) -> QmpTimeoutError:
    return QmpTimeoutError(f"QEMU did not answer within {deadline.seconds:g} seconds")


def _send_with_handle(connection: socket.socket, data: bytes, handle: int) -> int:
    """Send an open file with the first of `data`. Return how many bytes were sent."""
    if sys.platform == "win32":
        raise QmpError("Windows cannot send an open file to QEMU")
    return socket.send_fds(connection, [data], [handle])


def connect(path: Path, deadline: Deadline) -> socket.socket:
    """Connect to the Unix socket at `path`.

    Raises `QmpGoneError` if nothing listens there, and `QmpTimeoutError` if its queue stays full until the `deadline`.
    """
    if sys.platform == "win32":
        raise QmpGoneError(f"Windows has no Unix sockets: {path}")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _connect(connection, path, deadline)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(connection: socket.socket, path: Path, deadline: Deadline) -> None:
    while True:
        connection.settimeout(deadline.socket_timeout())
        try:
            connection.connect(str(path))
        except (BlockingIOError, TimeoutError) as error:
            # Linux reports a full queue at once, regardless of the timeout.
            if deadline.expired:
                raise QmpTimeoutError(f"QEMU is busy with other clients on {path.name}") from error
            time.sleep(_CONNECT_PAUSE)
        except OSError as error:
            raise QmpGoneError(f"nothing listens on {path.name}") from error
        else:
            return


def is_listening(path: Path) -> bool:
    """Return whether a process listens on the Unix socket at `path`, even a busy one, but not an unreaped one."""
    try:
        connect(path, Deadline(0.0)).close()
    except QmpTimeoutError:
        return True
    except QmpGoneError:
        return False
    return True


def _description(error: object) -> str:
    return str(error.get("desc", error)) if isinstance(error, dict) else str(error)
