"""SSH in Python, for hosts without OpenSSH (``--native-ssh`` asks for it elsewhere)."""

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
    ALIVE_SECONDS,
    ConnectionLostError,
    Line,
    UnreachableError,
    changed_key,
    refused_login,
    too_much,
    where,
)
from pymachine.ssh.target import SshError, Target
from pymachine.system import files
from pymachine.system.run import MOST_OUTPUT, Result, Sink

CONNECT_SECONDS = 10.0
CHUNK = 32768
_END_AGAIN_SECONDS = 0.2


class _Learning(paramiko.MissingHostKeyPolicy):
    """Pins the first key that a host shows, as OpenSSH's ``accept-new`` does."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        """Another key than a pinned one never comes here, but one of another type does."""
        known = self._target.known_hosts
        if known is None or (known.exists() and paramiko.HostKeys(str(known)).lookup(self._target.host_alias)):
            raise paramiko.BadHostKeyException(hostname, key, key)
        line = f"{self._target.host_alias} {key.get_name()} {key.get_base64()}\n"
        files.atomic_write(known, line)


class _TooLateError(Exception):
    """The time for a command is over. Not a TimeoutError, which the network raises, too."""


@contextmanager
def _in_time(timeout: float | None, end: Callable[[], object]) -> Iterator[None]:
    """Give the block `timeout` seconds in all. Raises `_TooLateError`.

    After that `end` is called until the block ends: what it closes may not have been opened the first time.
    """
    if timeout is None:
        yield
        return
    late, over = threading.Event(), threading.Event()

    def watch() -> None:
        if over.wait(timeout):
            return
        late.set()
        while True:
            with suppress(paramiko.SSHException, OSError, EOFError):  # it has ended meanwhile, and with it all waits
                end()
            if over.wait(_END_AGAIN_SECONDS):
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except Exception as error:
        if late.is_set():
            raise _TooLateError from error
        raise
    finally:
        over.set()
    if late.is_set():
        raise _TooLateError


@contextmanager
def _connected(target: Target, timeout: float | None = None) -> Iterator[paramiko.SSHClient]:
    """An authenticated connection whose host key is the pinned one.

    `timeout` is for the connection and all that is done with it. Raises `_TooLateError`.
    """
    client = paramiko.SSHClient()
    with _in_time(timeout, client.close):
        try:
            _log_in(client, target, CONNECT_SECONDS if timeout is None else min(timeout, CONNECT_SECONDS))
            yield client
        finally:
            client.close()


def _log_in(client: paramiko.SSHClient, target: Target, timeout: float) -> None:
    name = target.host if target.port == 22 else f"[{target.host}]:{target.port}"
    if target.known_hosts is None:
        client.set_missing_host_key_policy(paramiko.MissingHostKeyPolicy())
    else:
        client.set_missing_host_key_policy(_Learning(target) if target.learn else paramiko.RejectPolicy())
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
        raise changed_key(target, f"It shows {error.key.fingerprint}.") from error
    except paramiko.AuthenticationException as error:
        raise refused_login(target, str(error)) from error
    except (paramiko.SSHException, OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be looked up
        raise UnreachableError(f"SSH to {target.alias} ({target.host}:{target.port}) failed: {error}") from error


@contextmanager
def connection(target: Target) -> Iterator[Connection]:
    """One connection for many commands; see `pymachine.ssh.connection`."""
    with _connected(target) as client:
        transport = client.get_transport()
        if transport is not None:
            transport.set_keepalive(ALIVE_SECONDS)
        yield Connection(target, client)


class Connection:
    """A `pymachine.ssh.connection.Connection` of paramiko's."""

    def __init__(self, target: Target, client: paramiko.SSHClient) -> None:
        self._target = target
        self._client = client
        self.commands = 0

    def run(self, command: str, *, stdin: str = "", timeout: float | None = None, line: Line | None = None) -> Result:
        """See `pymachine.ssh.connection.Connection.run`."""
        self.commands += 1
        try:
            return _execute(self._client, command, stdin, timeout, line)
        except _TooLateError as error:
            raise SshError(f"{self._target.alias}: a command did not end within {timeout:g} seconds") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise ConnectionLostError(
                f"the SSH connection to {where(self._target)} was lost", details=str(error)
            ) from error


def _execute(
    client: paramiko.SSHClient, command: str, stdin: str | bytes, timeout: float | None, line: Line | None = None
) -> Result:
    """Run a command to its end.

    `timeout` is for the whole. Raises `_TooLateError`, what paramiko raises, and OSError.
    """
    opened: list[paramiko.Channel] = []

    def end() -> None:
        for channel in opened:
            channel.close()

    with _in_time(timeout, end):
        # A server that does not open it is to be too late, and no error of its own.
        channel = _open(client, None if timeout is None else timeout + 2 * _END_AGAIN_SECONDS)
        opened.append(channel)
        return _follow(channel, command, stdin, line)


def _follow(channel: paramiko.Channel, command: str, stdin: str | bytes, line: Line | None) -> Result:
    errors = bytearray()

    def collect() -> None:
        with suppress(OSError):  # too slow, or cut: the other stream tells
            while data := channel.recv_stderr(CHUNK):
                errors.extend(data)
                if len(errors) > MOST_OUTPUT:
                    channel.close()

    reader = threading.Thread(target=collect)
    said = []
    try:
        channel.exec_command(command)
        reader.start()
        channel.sendall(stdin.encode() if isinstance(stdin, str) else stdin)
        channel.shutdown_write()
        lines, came = channel.makefile("rb"), 0
        while raw := lines.readline(MOST_OUTPUT):
            came += len(raw)
            if came >= MOST_OUTPUT:
                raise too_much()
            text = raw.decode(errors="replace")
            said.append(text)
            if line:
                line(text.rstrip("\n"))
        code = channel.recv_exit_status()
    finally:
        channel.close()  # or the reader would wait for ever
        if reader.ident is not None:
            reader.join()
        if len(errors) > MOST_OUTPUT:
            raise too_much()
    if code == -1:  # paramiko's word for a channel that ended without one
        raise EOFError("the channel was closed before the command had ended")
    return Result((command,), code, "".join(said), errors.decode(errors="replace"))


def run(target: Target, command: str, *, stdin: str | bytes, timeout: float | None) -> Result:
    """Run a command to its end; see `pymachine.ssh.client.Client.run`."""
    try:
        with _connected(target, timeout) as client:
            return _execute(client, command, stdin, None)
    except _TooLateError as error:
        raise SshError(f"SSH to {target.alias}: the command did not end within {timeout:g} seconds") from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise SshError(f"SSH to {target.alias}: {error}") from error


def session(target: Target, arguments: Sequence[str], *, out: Sink | None = None, errors: Sink | None = None) -> int:
    """Log in, or run a command, on our own streams; see `pymachine.ssh.client.Client.session`."""
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
        channel = _open(client)
        terminal = os.isatty(0) and (force_tty or not words)
        if terminal or force_tty:
            size = _size()
            channel.get_pty(os.environ.get("TERM", "vt100"), size.columns, size.lines)
        if words:
            channel.exec_command(" ".join(words))
        else:
            channel.invoke_shell()
        if terminal:
            with _raw_terminal(), _resizing(channel):
                _pump(channel, out, errors)
        else:
            _pump(channel, out, errors)
        return channel.recv_exit_status()


def _open(client: paramiko.SSHClient, timeout: float | None = None) -> paramiko.Channel:
    transport = client.get_transport()
    if transport is None:
        raise SshError("the SSH connection was lost as soon as it was made")
    return transport.open_session(timeout=timeout)


def _pump(channel: paramiko.Channel, out: Sink | None, errors: Sink | None) -> None:
    """Carry our input to the channel and its output to us until the other side has ended."""
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
    with suppress(OSError):  # our stderr takes no more: there is no other place for it
        _copy(channel.recv_stderr, sink)
    while channel.recv_stderr(CHUNK):  # or the other side would wait for us
        pass


def _send_input(channel: paramiko.Channel) -> None:
    with suppress(OSError):  # the other side has ended; what we would have sent has no reader
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
    """The size of our terminal; not `shutil`'s, which prefers COLUMNS and LINES, however old they are."""
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
        tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is for the machine
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def _resizing(channel: paramiko.Channel) -> Iterator[None]:
    if sys.platform == "win32":  # which sends no signal for it
        yield
        return

    def resized(_signal: int, _frame: object) -> None:
        size = _size()
        channel.resize_pty(size.columns, size.lines)

    before = signal.signal(signal.SIGWINCH, resized)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
