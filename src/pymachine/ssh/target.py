"""Where and as whom to log in, and what must be right about the key before anything is tried."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver import fields
from pymachine.driver.names import host_name
from pymachine.errors import PymachineError
from pymachine.system import os_errors


class SshError(PymachineError):
    """An SSH connection cannot be made, or was lost."""

    code = "ssh"


class HostKeyError(SshError):
    """The host presents another key than the pinned one. Nothing was sent to it."""

    code = "host-key"


@dataclass(frozen=True)
class Target:
    """One machine, as SSH sees it."""

    alias: str
    """The machine's name."""
    host: str
    port: int
    user: str
    key: Path | None
    known_hosts: Path | None
    """None: the host key is not known (a machine that docker-machine made), and is not checked, as there."""
    learn: bool = False
    """Pin whatever key the host shows if none is pinned yet."""

    @property
    def host_alias(self) -> str:
        """The name under which the host key is pinned: one that needs no quotes, whatever the machine is called."""
        return host_name(self.alias)

    def __post_init__(self) -> None:
        """Raise `SshError` for a user, a host or a port that a program of SSH could take for something else."""
        fitting = (
            ("user", self.user, fields.is_user(self.user)),
            ("host", self.host, fields.is_host(self.host)),
            ("port", self.port, 0 < self.port < 65536),
        )
        for what, value, fits in fitting:
            if not fits:
                raise SshError(
                    f"cannot log in to {self.alias}: {fields.shown(value)} is not the {what} of an SSH server",
                    hint=f"Look at the record of the machine: pymachine inspect {shlex.quote(self.alias)}",
                )

    def check(self) -> None:
        """Raise `SshError` for a key that is missing or that others can read, with docker-machine's texts."""
        if self.key is None:
            return
        try:
            mode = stat.S_IMODE(self.key.stat().st_mode)
        except OSError as error:
            raise os_errors.wrapped(SshError, f"SSH key {str(self.key)!r} cannot be read", error) from error
        if sys.platform != "win32" and mode & 0o077:
            raise SshError(
                f"permissions {mode:#05o} for '{self.key}' are too open",
                hint=f"Run: chmod 600 {shlex.quote(str(self.key))}",
            )
        if not os.access(self.key, os.R_OK):
            raise SshError(f"'{self.key}' is not readable")
