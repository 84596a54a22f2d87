"""SSH with paramiko, for computers without OpenSSH and for ``--native-ssh``."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import paramiko

from pymachine.ssh.connection import (
    KEEPALIVE_SECONDS,
    ConnectionLostError,
    Line,
    UnreachableError,
    changed_key_error,
    describe,
    output_limit_error,
    refused_login_error,
)
from pymachine.ssh.target import SshError, Target
from pymachine.system import files
from pymachine.system.run import MOST_OUTPUT, Result, Sink

CONNECT_SECONDS = 10.0
CHUNK = 32768
_CLOSE_RETRY_SECONDS = 0.2
_MARGIN_SECONDS = 1.0
# paramiko raises any of these if the connection is lost, in every call that sends, such as `close`.
_LOST = (paramiko.SSHException, OSError, EOFError)


class _PinFirstKey(paramiko.MissingHostKeyPolicy):
    """Pin the first key that a host presents, as OpenSSH's ``accept-new`` does."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        """Pin `key`. A pinned host gets here only with a key of another type, which is refused."""
        known = self._target.known_hosts
        if known is None or (known.exists() and paramiko.HostKeys(str(known)).lookup(self._target.host_alias)):
            raise paramiko.BadHostKeyException(hostname, key, key)
        line = f"{self._target.host_alias} {key.get_name()} {key.get_base64()}\n"
        files.atomic_write(known, line)


class _TimedOutError(Exception):
    """A command did not end in time. Not a TimeoutError, since the network raises that too."""


@contextmanager
def _time_limit(timeout: float | None, end: Callable[[], object]) -> Iterator[None]:
    """Give the block `timeout` seconds in total. Raises `_TimedOutError`.

    After that, `end` is called repeatedly until the block ends: the channel that it closes may not be open yet at
    the first call.
    """
    if timeout is None:
        yield
        return
    timed_out, finished = threading.Event(), threading.Event()

    def enforce() -> None:
        if finished.wait(timeout):
            return
        timed_out.set()
        while True:
            with suppress(*_LOST):
                end()
            if finished.wait(_CLOSE_RETRY_SECONDS):
                return

    threading.Thread(target=enforce, daemon=True).start()
    try:
        yield
    except Exception as error:
        if timed_out.is_set():
            raise _TimedOutError from error
        raise
    finally:
        finished.set()
    if timed_out.is_set():
        raise _TimedOutError


@contextmanager
def _connected(target: Target, timeout: float | None = None) -> Iterator[paramiko.SSHClient]:
    """Open an authenticated connection and check the host key.

    `timeout` limits the login and everything done with the connection. Raises `_TimedOutError`.
    """
    client = paramiko.SSHClient()
    with _time_limit(timeout, client.close):
        try:
            _log_in(client, target, _connect_seconds(timeout))
            yield client
        finally:
            client.close()


def _connect_seconds(timeout: float | None) -> float:
    """Return paramiko's limit for connecting. It is longer than `timeout`, which must be the one that is reported."""
    if timeout is None or timeout > CONNECT_SECONDS:
        return CONNECT_SECONDS
    return timeout + _MARGIN_SECONDS


def _log_in(client: paramiko.SSHClient, target: Target, timeout: float) -> None:
    name = target.host if target.port == 22 else f"[{target.host}]:{target.port}"
    if target.known_hosts is None:
        client.set_missing_host_key_policy(paramiko.MissingHostKeyPolicy())
    else:
        client.set_missing_host_key_policy(_PinFirstKey(target) if target.learn else paramiko.RejectPolicy())
        if target.known_hosts.exists():
            pinned = paramiko.HostKeys(str(target.known_hosts)).lookup(target.host_alias)
            for kind, key in (pinned or {}).items():
                client.get_host_keys().add(name, kind, key)
    try:
        client.connect(
            target.host,
            target.port,
            target.user,
            key_filename=str(target.key) if target.key else None,
            look_for_keys=target.key is None,
            allow_agent=target.key is None,
            timeout=timeout,
        )
    except paramiko.BadHostKeyException as error:
        raise changed_key_error(target, f"It shows {error.key.fingerprint}.") from error
    except paramiko.AuthenticationException as error:
        raise refused_login_error(target, str(error)) from error
    except (paramiko.SSHException, OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be looked up
        raise UnreachableError(f"SSH to {target.alias} ({target.host}:{target.port}) failed: {error}") from error


@contextmanager
def connection(target: Target) -> Iterator[Connection]:
    """Open one connection for many commands; see `pymachine.ssh.connection.connected`."""
    with _connected(target) as client:
        transport = client.get_transport()
        if transport is not None:
            transport.set_keepalive(KEEPALIVE_SECONDS)
        yield Connection(target, client)


class Connection:
    """A `pymachine.ssh.connection.Connection` that uses paramiko."""

    def __init__(self, target: Target, client: paramiko.SSHClient) -> None:
        self._target = target
        self._client = client
        self.commands = 0

    def run(self, command: str, *, stdin: str = "", timeout: float | None = None, line: Line | None = None) -> Result:
        """See `pymachine.ssh.connection.Connection.run`."""
        self.commands += 1
        try:
            return _execute(self._client, command, stdin, timeout, line)
        except _TimedOutError as error:
            raise SshError(f"{self._target.alias}: a command did not end within {timeout:g} seconds") from error
        except _LOST as error:
            raise _lost(self._target, error) from error


def _lost(target: Target, error: Exception) -> ConnectionLostError:
    return ConnectionLostError(f"the SSH connection to {describe(target)} was lost", details=str(error))


def _execute(
    client: paramiko.SSHClient, command: str, stdin: str | bytes, timeout: float | None, line: Line | None = None
) -> Result:
    """Run a command to its end. `timeout` limits the whole run.

    Raises `_TimedOutError`, paramiko's exceptions and OSError.
    """
    opened: list[paramiko.Channel] = []

    def end() -> None:
        for channel in opened:
            channel.close()

    with _time_limit(timeout, end):
        # A server that never opens the channel must count as a timeout, so paramiko's own limit is longer.
        channel = _open(client, None if timeout is None else timeout + _MARGIN_SECONDS)
        opened.append(channel)
        return _stream_output(channel, command, stdin, line)


def _stream_output(channel: paramiko.Channel, command: str, stdin: str | bytes, line: Line | None) -> Result:
    errors = bytearray()

    def collect() -> None:
        with suppress(*_LOST):  # timed out or disconnected; reading stdout reports it
            while data := channel.recv_stderr(CHUNK):
                errors.extend(data)
                if len(errors) > MOST_OUTPUT:
                    channel.close()

    reader = threading.Thread(target=collect)
    output = []
    try:
        channel.exec_command(command)
        reader.start()
        channel.sendall(stdin.encode() if isinstance(stdin, str) else stdin)
        channel.shutdown_write()
        lines, received = channel.makefile("rb"), 0
        while raw := lines.readline(MOST_OUTPUT):
            received += len(raw)
            if received >= MOST_OUTPUT:
                raise output_limit_error()
            text = raw.decode(errors="replace")
            output.append(text)
            if line:
                line(text.rstrip("\n"))
        code = channel.recv_exit_status()
    finally:
        with suppress(*_LOST):  # the exit status, or the error, is known
            channel.close()  # ends the reader
        if reader.ident is not None:
            reader.join()
        if len(errors) > MOST_OUTPUT:
            raise output_limit_error()
    if code == -1:  # paramiko's value for a channel closed without an exit code
        raise EOFError("the channel was closed before the command had ended")
    return Result((command,), code, "".join(output), errors.decode(errors="replace"))


def run(target: Target, command: str, *, stdin: str | bytes, timeout: float | None) -> Result:
    """Run a command to its end; see `pymachine.ssh.client.Client.run`."""
    try:
        with _connected(target, timeout) as client:
            return _execute(client, command, stdin, None)
    except _TimedOutError as error:
        raise SshError(f"SSH to {target.alias}: the command did not end within {timeout:g} seconds") from error
    except _LOST as error:
        raise SshError(f"SSH to {target.alias}: {error}") from error


def session(target: Target, arguments: Sequence[str], *, out: Sink | None = None, errors: Sink | None = None) -> int:
    """Log in or run a command on our own streams; see `pymachine.ssh.client.Client.session`."""
    words = list(arguments)
    force_tty = bool(words) and words[0] in {"-t", "-tt"}
    if force_tty:
        words.pop(0)
    if words and words[0] == "--":
        words.pop(0)
    if words and words[0].startswith("-"):
        raise SshError(
            f"the SSH built into pymachine has no option {words[0]}",
            hint="Install OpenSSH's client to use its options.",
        )
    with _connected(target) as client:
        terminal = os.isatty(0) and (force_tty or not words)
        try:
            channel = _started(client, words, tty=terminal or force_tty)
        except _LOST as error:
            raise _lost(target, error) from error
        if terminal:
            with _raw_terminal(), _forward_window_size(channel):
                _copy_streams(channel, out, errors)
        else:
            _copy_streams(channel, out, errors)
        return channel.recv_exit_status()


def _open(client: paramiko.SSHClient, timeout: float | None = None) -> paramiko.Channel:
    transport = client.get_transport()
    if transport is None:
        raise SshError("the SSH connection was lost immediately after the login")
    return transport.open_session(timeout=timeout)


def _started(client: paramiko.SSHClient, words: Sequence[str], *, tty: bool) -> paramiko.Channel:
    """Start a command, or a shell, and return its channel. Raises what paramiko raises."""
    channel = _open(client)
    if tty:
        size = _size()
        channel.get_pty(os.environ.get("TERM", "vt100"), size.columns, size.lines)
    if words:
        channel.exec_command(" ".join(words))
    else:
        channel.invoke_shell()
    return channel


def _copy_streams(channel: paramiko.Channel, out: Sink | None, errors: Sink | None) -> None:
    """Copy our input to the channel and its output to our streams until the remote side ends."""
    sender = threading.Thread(target=_send_input, args=(channel,), daemon=True)
    reader = threading.Thread(
        target=_copy_errors, args=(channel, errors or _descriptor(sys.stderr.fileno())), daemon=True
    )
    sender.start()
    reader.start()
    _copy(channel.recv, out or _descriptor(sys.stdout.fileno()))
    reader.join()


def _descriptor(number: int) -> Sink:
    """Return a function that writes bytes to the descriptor `number`."""

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(number, view) :]

    return write


def _copy(receive: Callable[[int], bytes], sink: Sink) -> None:
    while data := receive(CHUNK):
        sink(data)


def _copy_errors(channel: paramiko.Channel, sink: Sink) -> None:
    with suppress(OSError):  # our stderr cannot be written, and there is nowhere to report that
        _copy(channel.recv_stderr, sink)
    while channel.recv_stderr(CHUNK):  # keep reading, or the remote side would block
        pass


def _send_input(channel: paramiko.Channel) -> None:
    with suppress(*_LOST):  # the remote side has ended and reads no more
        while not channel.closed:
            ready, _, _ = select.select([0], [], [], 0.5)
            if not ready:
                continue
            data = os.read(0, CHUNK)
            if not data:
                channel.shutdown_write()
                return
            channel.sendall(data)


def _size() -> os.terminal_size:
    """Return the size of our terminal. `shutil` would prefer COLUMNS and LINES, which may be outdated."""
    try:
        return os.get_terminal_size(0)
    except OSError:
        return os.terminal_size((80, 24))


@contextmanager
def _raw_terminal() -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    import termios  # noqa: PLC0415 (not on Windows)
    import tty  # noqa: PLC0415

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)  # keeps input typed ahead, for the machine
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def _forward_window_size(channel: paramiko.Channel) -> Iterator[None]:
    if sys.platform == "win32":  # which sends no signal for it
        yield
        return

    def resized(_signal: int, _frame: object) -> None:
        size = _size()
        with suppress(*_LOST):  # reading the output reports it
            channel.resize_pty(size.columns, size.lines)

    before = signal.signal(signal.SIGWINCH, resized)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
