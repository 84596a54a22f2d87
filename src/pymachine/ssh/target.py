"""The address, user and key for SSH to one machine, and the checks before connecting."""

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
    """The SSH endpoint of one machine."""

    alias: str
    """The machine's name."""
    host: str
    port: int
    user: str
    key: Path | None
    known_hosts: Path | None
    """None if the host key is unknown: docker-machine made the machine, and like there the key is not checked."""
    learn: bool = False
    """Pin the first key that the host presents, if none is pinned yet."""

    @property
    def host_alias(self) -> str:
        """The name under which the host key is pinned. It needs no quoting, whatever the machine's name."""
        return host_name(self.alias)

    def __post_init__(self) -> None:
        """Raise `SshError` for a user, host or port that an SSH program could read as something else."""
        checks = (
            ("user", self.user, fields.is_user(self.user)),
            ("host", self.host, fields.is_host(self.host)),
            ("port", self.port, 0 < self.port < 65536),
        )
        for what, value, is_valid in checks:
            if not is_valid:
                raise SshError(
                    f"cannot log in to {self.alias}: {fields.shown(value)} is not the {what} of an SSH server",
                    hint=f"Look at the record of the machine: pymachine inspect {shlex.quote(self.alias)}",
                )

    def check(self) -> None:
        """Raise `SshError`, with docker-machine's text, if the key is missing or other users can read it."""
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
