"""Logging in and running commands, with whichever SSH there is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pymachine.ssh import openssh, plain_paths
from pymachine.ssh.connection import SOCKET_PATH_BYTES, Connection, Multiplexed
from pymachine.ssh.target import SshError, Target
from pymachine.system import run


@contextmanager
def connected(target: Target, *, native: bool = False) -> Iterator[Connection]:
    """A connection to `target`, closed afterwards. `native` asks for paramiko even where OpenSSH is installed.

    Raises `HostKeyError`, `LoginError` or `UnreachableError` if it does not come about.
    """
    target.check()
    program = None if native or sys.platform == "win32" else run.which("ssh")  # no multiplexing on Windows
    if program is None:
        from pymachine.ssh import native as paramiko  # noqa: PLC0415 (paramiko costs 100 ms)

        with paramiko.connection(target) as connection:
            yield connection
        return
    with (
        plain_paths.plain(target) as plain,
        plain_paths.folder(longest=SOCKET_PATH_BYTES - len("/s")) as folder,
        Multiplexed(str(program), target, plain, folder / "s") as connection,
    ):
        yield connection


class Client:
    """SSH to one machine. `native` asks for paramiko even where OpenSSH is installed."""

    def __init__(self, target: Target, *, native: bool = False) -> None:
        target.check()
        self.target = target
        found = None if native else run.which("ssh")
        self.program = str(found) if found else None

    def session(self, arguments: Sequence[str], *, out: run.Sink | None = None, errors: run.Sink | None = None) -> int:
        """Log in with our own terminal, or run a command with our own streams; returns the remote exit code.

        `arguments` are those of ssh after the host: its options, then the command. `out` and `errors` are called with
        what is printed, in place of our own stdout and stderr. Raises `SshError`.
        """
        if self.program is None:
            from pymachine.ssh import native  # noqa: PLC0415 (paramiko costs 100 ms)

            return native.session(self.target, arguments, out=out, errors=errors)
        with plain_paths.plain(self.target) as target:
            return run.foreground(openssh.ssh(self.program, target, arguments), out=out, errors=errors)

    def run(self, command: str, *, stdin: str | bytes = b"", timeout: float | None = None) -> run.Result:
        """Run one shell command to its end and return what it said, whatever its exit code.

        `timeout` is in seconds. Raises `SshError` if no connection comes about.
        """
        if self.program is None:
            from pymachine.ssh import native  # noqa: PLC0415

            return native.run(self.target, command, stdin=stdin, timeout=timeout)
        with plain_paths.plain(self.target) as target:
            argv = openssh.ssh(self.program, target, ["--", command])
            result = run.run(argv, stdin=stdin, timeout=timeout, check=False)
        if result.returncode == 255:  # ssh's own failures
            raise SshError(f"SSH to {self.target.alias} failed: {result.stderr.strip()}")
        return result
