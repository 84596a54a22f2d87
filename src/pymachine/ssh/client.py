"""Log in to a machine and run commands on it, with OpenSSH or paramiko."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pymachine.ssh import openssh, plain_paths
from pymachine.ssh.connection import SOCKET_PATH_BYTES, Connection, MultiplexedConnection
from pymachine.ssh.target import SshError, Target
from pymachine.system import run


@contextmanager
def connected(target: Target, *, native: bool = False) -> Iterator[Connection]:
    """Connect to `target`, and close the connection afterwards. `native` selects paramiko even with OpenSSH installed.

    Raises `HostKeyError`, `LoginError` or `UnreachableError` if the connection fails.
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
        plain_paths.folder(max_bytes=SOCKET_PATH_BYTES - len("/s")) as folder,
        MultiplexedConnection(str(program), target, plain, folder / "s") as connection,
    ):
        yield connection


class Client:
    """SSH to one machine. `native` selects paramiko even where OpenSSH is installed."""

    def __init__(self, target: Target, *, native: bool = False) -> None:
        target.check()
        self.target = target
        found = None if native else run.which("ssh")
        self.program = str(found) if found else None

    def session(self, arguments: Sequence[str], *, out: run.Sink | None = None, errors: run.Sink | None = None) -> int:
        """Log in on our own terminal, or run a command on our own streams. Returns the remote exit code.

        `arguments` are ssh's arguments after the host: options, then the command. `out` and `errors` receive the
        output instead of our own stdout and stderr. Raises `SshError`.
        """
        if self.program is None:
            from pymachine.ssh import native  # noqa: PLC0415 (paramiko costs 100 ms)

            return native.session(self.target, arguments, out=out, errors=errors)
        with plain_paths.plain(self.target) as target:
            return run.foreground(openssh.ssh(self.program, target, arguments), out=out, errors=errors)

    def run(self, command: str, *, stdin: str | bytes = b"", timeout: float | None = None) -> run.Result:
        """Run one shell command to its end and return its output, whatever its exit code.

        `timeout` is in seconds. Raises `SshError` if the connection fails.
        """
        if self.program is None:
            from pymachine.ssh import native  # noqa: PLC0415

            return native.run(self.target, command, stdin=stdin, timeout=timeout)
        with plain_paths.plain(self.target) as target:
            argv = openssh.ssh(self.program, target, ["--", command])
            result = run.run(argv, stdin=stdin, timeout=timeout, check=False)
        if result.returncode == 255:  # ssh itself failed
            raise SshError(f"SSH to {self.target.alias} failed: {result.stderr.strip()}")
        return result
