"""The order that a session gets from the keeper, its reports, and the script that it sends to the machine."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from enum import Enum
from importlib.resources import files as resources
from pathlib import Path, PurePosixPath

from pymachine.driver.shares import Share
from pymachine.ssh.target import Target

# sshfs keeps attributes until the second on the clock in which they were read is over, plus `dcache_timeout`. With the
# kernel's caches on top of it, a change on the host would be seen after more than a second.
_CACHE = "dcache_timeout=0,entry_timeout=0,attr_timeout=0"
# The guest's kernel checks permissions by the owners' numbers on this host, as for a folder that is mounted from a
# local disk. Set-user-id programs and device files in a shared folder have no effect.
_OPTIONS = f"allow_other,default_permissions,nosuid,nodev,{_CACHE}"


class Event(Enum):
    """A kind of report of a session."""

    MOUNTED = "mounted"
    REFUSED = "refused"
    """The machine cannot mount the folder."""
    LOST = "lost"
    """There is no connection, or it has ended, or sshfs has."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One line of a session's output."""

    event: Event
    problem: str = ""

    def line(self) -> str:
        """Return the report as a line of JSON."""
        return json.dumps({"event": self.event.value, "problem": self.problem}) + "\n"

    @classmethod
    def from_line(cls, line: bytes) -> Report:
        """Parse a line. Raises ValueError, KeyError."""
        fields = json.loads(line)
        return cls(event=Event(fields["event"]), problem=str(fields["problem"]))


@dataclass(frozen=True, kw_only=True)
class Order:
    """A folder to mount, and where."""

    target: Target
    share: Share
    source: str
    """The name of the mount's source, by which a later session knows it as its own machine's."""

    def line(self) -> str:
        """Return the order as a line of JSON."""
        fields = {"target": asdict(self.target), "share": asdict(self.share), "source": self.source}
        return json.dumps(fields, default=str) + "\n"

    @classmethod
    def from_line(cls, line: bytes) -> Order:
        """Parse a line. Raises ValueError, KeyError and `SshError`."""
        fields = json.loads(line)
        target, share = fields["target"], fields["share"]
        for name in ("key", "known_hosts"):
            target[name] = None if target[name] is None else Path(target[name])
        share["path"], share["guest_path"] = Path(share["path"]), PurePosixPath(share["guest_path"])
        return cls(target=Target(**target), share=Share(**share), source=fields["source"])

    def script(self) -> bytes:
        """Return the script that mounts the folder in the machine."""
        variables = {
            "MOUNT_POINT": str(self.share.guest_path),
            "MOUNT_SOURCE": self.source,
            "MOUNT_OPTIONS": f"{_OPTIONS},fsname={self.source}",
            "READ_ONLY": "yes" if self.share.read_only else "",
            "LOGIN": self.target.user,
        }
        settings = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())
        text = (resources(__package__) / "mount.sh").read_text(encoding="utf-8")
        return (settings + text).encode(errors="surrogateescape")
