"""One connection for many commands: OpenSSH's multiplexing where it is there, paramiko elsewhere.

Logging in is what costs time: a key exchange takes several round trips, a command on an open connection takes one.
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
# A connection whose other side went away silently is given up after half a minute.
ALIVE_SECONDS = 10
ALIVE = ("-o", f"ServerAliveInterval={ALIVE_SECONDS}", "-o", "ServerAliveCountMax=3")
# OpenSSH's own words about a connection take a few lines.
MOST_COMPLAINT = 64 * 1024
COMPLAINT_SECONDS = 1.0
SOCKET_PATH_BYTES = 107 - 17  # sun_path, less what ssh appends while it makes the socket

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
    """How many commands have been run on it: each is a round trip."""

    def run(
        self, command: str, *, stdin: str = "", timeout: float | None = None, line: Line | None = None
    ) -> run.Result:
        """Run one shell command to its end, calling `line` with each line that it prints as it comes.

        `timeout` is in seconds. Raises `ConnectionLostError` when the connection breaks, and `SshError` when the
        command does not end in time.
        """


class Multiplexed:
    """A master process that holds the connection, and one small client a command."""

    def __init__(self, program: str, target: Target, plain: Target, socket: Path) -> None:
        """`plain` is `target` as `plain_paths` gives it; messages are about `target`."""
        self._program = program
        self._target = target
        self._plain = plain
        self._socket = socket
        self.commands = 0
        # It lives as long as its input: should we be killed, nothing is left behind. (`-N` would stay for ever.)
        argv = openssh.ssh(program, plain, ["--", "exec cat"])
        argv[1:1] = ["-o", "ControlMaster=yes", "-o", f"ControlPath={socket}", *ALIVE]
        run.log.debug("run: %s", run.quote(argv))
        self._master = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self._master.stderr is not None  # noqa: S101 (for the type checker)
        self._said = run.Collector(self._master.stderr, most=MOST_COMPLAINT, done=_ending(self._master))

    def __enter__(self) -> Self:
        try:
            self._await_socket()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _await_socket(self) -> None:
        """The master makes its socket when it has been let in."""
        deadline = time.monotonic() + OPEN_SECONDS
        while not self._socket.exists():
            if self._master.poll() is not None:
                raise explained(self._target, self._complaint())
            if time.monotonic() > deadline:
                raise UnreachableError(f"{where(self._target)} did not let us in within {OPEN_SECONDS:g} seconds")
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
        # Without the master there is no connection: the client must not make one of its own.
        argv[1:1] = ["-o", f"ControlPath={self._socket}", "-o", "ProxyCommand=false"]
        run.log.debug("run: %s", run.quote(argv))
        code, said, complaint, late = _follow(argv, stdin, timeout, line)
        run.log.debug("run: ssh: exit %d", code)
        if late:
            raise SshError(
                f"{self._target.alias}: a command did not end within {timeout:g} seconds", details=said[-2000:]
            )
        if code == 255 and not self._alive():
            complaint = f"{self._complaint()}\n{complaint}".strip()
            raise ConnectionLostError(f"the SSH connection to {where(self._target)} was lost", details=complaint)
        return run.Result(tuple(argv), code, said, complaint)

    def _alive(self) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self._master.wait(1.0)
        return self._master.poll() is None

    def _complaint(self) -> str:
        return self._said.text(COMPLAINT_SECONDS).strip()


def _follow(argv: list[str], stdin: str, timeout: float | None, line: Line | None) -> tuple[int, str, str, bool]:
    """Run a command, handing its lines on as they come.

    Returns its exit code, what it printed to stdout and to stderr, and whether it was too slow.
    """
    said: list[str] = []
    # A session of its own: an interrupt is ours to handle, and the connection goes down with the master.
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None  # noqa: S101 (for the type checker)
    assert process.stdout is not None  # noqa: S101
    assert process.stderr is not None  # noqa: S101
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    clock = threading.Timer(timeout, give_up) if timeout is not None else None
    sender = threading.Thread(target=run.send, args=(process.stdin, stdin.encode()), daemon=True)
    try:
        if clock:
            clock.start()
        sender.start()
        errors = run.Collector(process.stderr, most=MOST_OUTPUT, done=_ending(process))
        came = 0
        while raw := process.stdout.readline(MOST_OUTPUT):
            came += len(raw)
            if came >= MOST_OUTPUT:
                raise too_much()
            text = raw.decode(errors="replace")
            said.append(text)
            if line:
                line(text.rstrip("\n"))
        code = process.wait()
        if errors.is_too_much:
            raise too_much()
    finally:
        if clock:
            clock.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    return code, "".join(said), "" if late.is_set() else errors.text(), late.is_set()


def _ending(process: subprocess.Popen[bytes]) -> Callable[[run.Collector], None]:
    """Return a function that ends `process` if it wrote more than is collected."""

    def end(collected: run.Collector) -> None:
        if collected.is_too_much:
            process.kill()

    return end


def too_much() -> SshError:
    """Return the error for a command that prints without end."""
    return SshError(
        f"a command on the host printed more than {MOST_OUTPUT} bytes; it was ended",
        hint="Have it print less: `pymachine logs` has the option -n.",
    )


def where(target: Target) -> str:
    """`target` as a person knows it."""
    return f"{target.alias} ({target.user}@{target.host}:{target.port})"


def explained(target: Target, complaint: str) -> SshError:
    """The error that OpenSSH's `complaint` about a connection that did not come about means."""
    if "HOST IDENTIFICATION HAS CHANGED" in complaint or "Host key verification failed" in complaint:
        return changed_key(target, complaint)
    if "Permission denied" in complaint or "Too many authentication failures" in complaint:
        return refused_login(target, complaint)
    return UnreachableError(
        f"cannot reach {where(target)} over SSH",
        details=complaint,
        hint="Check the address and the port, and that an SSH server listens there.",
    )


def changed_key(target: Target, complaint: str = "") -> HostKeyError:
    """The host shows another key than the one that was pinned."""
    return HostKeyError(
        f"{where(target)} shows another SSH host key than the one that was learned when the machine was made",
        details=complaint,
        hint="Somebody may be in between, or the host was installed anew. If you know that it was, remove its line "
        f"from {target.known_hosts}, and run: pymachine provision {target.alias}",
    )


def refused_login(target: Target, complaint: str = "") -> LoginError:
    """The host does not take the key."""
    key = f"the key {target.key}" if target.key else "the keys of your SSH agent and of ~/.ssh"
    return LoginError(
        f"{where(target)} does not let the user {target.user} in with {key}",
        details=complaint,
        hint="Check the user and the key, and that the key's public half is in that user's ~/.ssh/authorized_keys.",
    )
