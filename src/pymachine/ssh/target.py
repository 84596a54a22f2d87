"""Where and as whom to log in, and what must be right about the key before anything is tried."""

from __future__ import annotations

import os
import shlex
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from pymachine import os_errors
from pymachine.errors import PymachineError
from pymachine.names import host_name

MOST_OUTPUT = 16 * 1024 * 1024
"""In bytes: no command that pymachine runs on a host prints more."""


class SshError(PymachineError):
    """An SSH connection cannot be made, or was lost."""

    code = "ssh"


class HostKeyError(SshError):
    """The host shows another key than the pinned one; nothing was sent to it."""

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

    def check(self) -> None:
        """Raise `SshError` for what cannot be logged in with.

        That is a key that is missing or that others can read, with docker-machine's texts, and a user or a host that
        OpenSSH would take for an option, or for more than one word.
        """
        for word in (self.user, self.host):
            if word.startswith("-") or not word.isprintable() or " " in word or not word:
                raise SshError(f"cannot log in to {self.alias}: {word!r} is no user or host")
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
