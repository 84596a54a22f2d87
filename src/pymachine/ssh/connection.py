"""One connection for many commands: OpenSSH's multiplexing, or paramiko where OpenSSH cannot be used.

Logging in is slow: a key exchange takes several round trips, a command on an open connection takes one.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, Self

from pymachine.ssh import openssh
from pymachine.ssh.target import HostKeyError, SshError, Target
from pymachine.system import run
from pymachine.system.run import MOST_OUTPUT

OPEN_SECONDS = 60.0
# A connection whose peer has vanished silently is closed after half a minute.
KEEPALIVE_SECONDS = 10
KEEPALIVE_OPTIONS = ("-o", f"ServerAliveInterval={KEEPALIVE_SECONDS}", "-o", "ServerAliveCountMax=3")
# OpenSSH's messages about a connection are a few lines.
MAX_ERROR_OUTPUT = 64 * 1024
ERROR_OUTPUT_SECONDS = 1.0
SOCKET_PATH_BYTES = 107 - 17  # sun_path, minus the suffix that ssh appends while it creates the socket

Line = Callable[[str], None]


class ConnectionLostError(SshError):
    """The connection broke while a command was running. The effect of the command is unknown."""

    code = "ssh-lost"


class UnreachableError(SshError):
    """No SSH server answers at the port."""

    code = "ssh-unreachable"


class LoginError(SshError):
    """The SSH server refused the login with the key."""

    code = "ssh-login"


class Connection(Protocol):
    """An open connection to one machine."""

    commands: int
    """How many commands have been run; each is a round trip."""

    def run(
        self, command: str, *, stdin: str = "", timeout: float | None = None, line: Line | None = None
    ) -> run.Result:
        """Run one shell command to its end. `line` is called with each line of its output as it arrives.

        `timeout` is in seconds. Raises `ConnectionLostError` if the connection breaks, and `SshError` if the command
        does not end in time.
        """


class MultiplexedConnection:
    """A master process that holds the connection, and one short-lived client for each command."""

    def __init__(self, program: str, target: Target, plain: Target, socket: Path) -> None:
        """Start the master. `plain` is `target` with paths from `plain_paths`; messages name `target`."""
        self._program = program
        self._target = target
        self._plain = plain
        self._socket = socket
        self.commands = 0
        # `cat` ends with its input, so nothing stays behind if this process is killed. With `-N` ssh would stay.
        argv = openssh.ssh(program, plain, ["--", "exec cat"])
        argv[1:1] = ["-o", "ControlMaster=yes", "-o", f"ControlPath={socket}", *KEEPALIVE_OPTIONS]
        run.log.debug("run: %s", run.quote(argv))
        self._master = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self._master.stderr is not None  # noqa: S101 (for the type checker)
        self._stderr = run.Collector(self._master.stderr, most=MAX_ERROR_OUTPUT, done=_kill_on_overflow(self._master))

    def __enter__(self) -> Self:
        try:
            self._await_socket()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _await_socket(self) -> None:
        """Wait for the master's socket, which it creates after logging in."""
        deadline = time.monotonic() + OPEN_SECONDS
        while not self._socket.exists():
            if self._master.poll() is not None:
                raise login_error(self._target, self._error_output())
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"{describe(self._target)} did not accept the login within {OPEN_SECONDS:g} seconds"
                )
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._master.terminate()
        self._master.wait()
        assert self._master.stdin is not None  # noqa: S101 (for the type checker)
        self._master.stdin.close()

    def run(
        self, command: str, *, stdin: str = "", timeout: float | None = None, line: Line | None = None
    ) -> run.Result:
        """See `Connection.run`."""
        self.commands += 1
        argv = openssh.ssh(self._program, self._plain, ["--", command])
        # If the master is gone, the client must fail and not open a connection of its own.
        argv[1:1] = ["-o", f"ControlPath={self._socket}", "-o", "ProxyCommand=false"]
        run.log.debug("run: %s", run.quote(argv))
        code, output, error_output, timed_out = _stream_output(argv, stdin, timeout, line)
        run.log.debug("run: ssh: exit %d", code)
        if timed_out:
            raise SshError(
                f"{self._target.alias}: a command did not end within {timeout:g} seconds", details=output[-2000:]
            )
        if code == 255 and not self._alive():
            error_output = f"{self._error_output()}\n{error_output}".strip()
            raise ConnectionLostError(f"the SSH connection to {describe(self._target)} was lost", details=error_output)
        return run.Result(tuple(argv), code, output, error_output)

    def _alive(self) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self._master.wait(1.0)
        return self._master.poll() is None

    def _error_output(self) -> str:
        return self._stderr.text(ERROR_OUTPUT_SECONDS).strip()


def _stream_output(argv: list[str], stdin: str, timeout: float | None, line: Line | None) -> tuple[int, str, str, bool]:
    """Run a command, passing on its lines as they arrive.

    Returns its exit code, its output on stdout and stderr, and whether it timed out.
    """
    output: list[str] = []
    # A session of its own: Ctrl-C must reach only this process, which then closes the connection with the master.
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None  # noqa: S101 (for the type checker)
    assert process.stdout is not None  # noqa: S101
    assert process.stderr is not None  # noqa: S101
    timed_out = threading.Event()

    def give_up() -> None:
        timed_out.set()
        process.kill()

    timer = threading.Timer(timeout, give_up) if timeout is not None else None
    sender = threading.Thread(target=run.send, args=(process.stdin, stdin.encode()), daemon=True)
    try:
        if timer:
            timer.start()
        sender.start()
        errors = run.Collector(process.stderr, most=MOST_OUTPUT, done=_kill_on_overflow(process))
        received = 0
        while raw := process.stdout.readline(MOST_OUTPUT):
            received += len(raw)
            if received >= MOST_OUTPUT:
                raise output_limit_error()
            text = raw.decode(errors="replace")
            output.append(text)
            if line:
                line(text.rstrip("\n"))
        code = process.wait()
        if errors.is_too_much:
            raise output_limit_error()
    finally:
        if timer:
            timer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    return code, "".join(output), "" if timed_out.is_set() else errors.text(), timed_out.is_set()


def _kill_on_overflow(process: subprocess.Popen[bytes]) -> Callable[[run.Collector], None]:
    """Return a function that kills `process` if it wrote more than the collector keeps."""

    def end(collected: run.Collector) -> None:
        if collected.is_too_much:
            process.kill()

    return end


def output_limit_error() -> SshError:
    """Return the error for a command that prints too much."""
    return SshError(
        f"a command on the host printed more than {MOST_OUTPUT} bytes; it was ended",
        hint="Limit its output, for example with -n of `pymachine logs`.",
    )


def describe(target: Target) -> str:
    """Describe `target` for messages."""
    return f"{target.alias} ({target.user}@{target.host}:{target.port})"


def login_error(target: Target, error_output: str) -> SshError:
    """Return the error for a failed connection, from OpenSSH's error output."""
    if "HOST IDENTIFICATION HAS CHANGED" in error_output or "Host key verification failed" in error_output:
        return changed_key_error(target, error_output)
    if "Permission denied" in error_output or "Too many authentication failures" in error_output:
        return refused_login_error(target, error_output)
    return UnreachableError(
        f"cannot reach {describe(target)} over SSH",
        details=error_output,
        hint="Check the address and the port, and that an SSH server listens there.",
    )


def changed_key_error(target: Target, error_output: str = "") -> HostKeyError:
    """Return the error for a host key that differs from the pinned one."""
    return HostKeyError(
        f"{describe(target)} shows another SSH host key than the one that was pinned when the machine was created",
        details=error_output,
        hint="The connection may be intercepted, or the host was reinstalled. If you know that it was reinstalled, "
        f"remove its line from {target.known_hosts} and run: pymachine provision {target.alias}",
    )


def refused_login_error(target: Target, error_output: str = "") -> LoginError:
    """Return the error for a host that does not accept the key."""
    key = f"the key {target.key}" if target.key else "the keys of your SSH agent and of ~/.ssh"
    return LoginError(
        f"{describe(target)} does not let the user {target.user} in with {key}",
        details=error_output,
        hint="Check the user and the key, and that the key's public half is in that user's ~/.ssh/authorized_keys.",
    )
