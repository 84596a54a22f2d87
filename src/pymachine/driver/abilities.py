"""What only some drivers can do, as small protocols.

A driver has an ability if it has its methods: `isinstance(driver, Resizable)` tells. Each is named by what can be done
to the machine and ends in "able".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from pymachine.driver.contract import BootRequest, Config, Driver, ImageFiles, Json, MachineRef


@dataclass(frozen=True, kw_only=True)
class HardwareChange:
    """What of a machine's hardware is to change; None leaves it as it is."""

    cpus: int | None = None
    memory_mib: int | None = None
    disk_mb: int | None = None


@runtime_checkable
class IdentityUpdatable(Protocol):
    """A running machine takes over a new identity: certificates and engine options change without a restart of it."""

    def apply_identity(self, request: BootRequest) -> None:
        """Give the running machine the identity that `request` makes, and wait until it is in force.

        The engine restarts only for options that it cannot reload. Raises `DriverError` if the guest does not take
        it; what is in force then is the old one.
        """


@runtime_checkable
class Resizable(Protocol):
    """The hardware of a machine can be changed after it was made."""

    def resize(self, change: HardwareChange) -> None:
        """Change a stopped machine's configuration and files; it is so from its next start on.

        Raises `UsageError` for what cannot be (a disk that shrinks), and then nothing was changed.
        """


@runtime_checkable
class ResizeCheckable(Protocol):
    """Beside `Resizable`: what cannot be is told before a running machine is stopped for it."""

    def check_resize(self, change: HardwareChange) -> None:
        """Raise `UsageError` for what `resize` would refuse; asked while the machine may run."""


@runtime_checkable
class Renamable(Protocol):
    """A machine can be given another name."""

    def renamed(self, before: MachineRef) -> None:
        """The stopped machine was `before`, and is `self.machine` now: its folder has been moved.

        Follow outside the folder and in `config`. Raises `DriverError` if that fails; the core then moves it back.
        """


@runtime_checkable
class Portable(Protocol):
    """All that a stopped machine is lies in its folder, so that it can be taken to another store or host."""

    def exported(self) -> Sequence[str]:
        """The files in the folder, relative to it, without which there is no machine (record and keys not counted)."""

    def imported(self, siblings: Sequence[Config]) -> None:
        """The folder came from elsewhere: make `config` fit this host and differ from `siblings`, as in `configure`.

        `config` has what `ConfigPortable` lets in, and nothing without it. The files may be anybody's: raise
        `DriverError` for one that leads the hypervisor to another file. What was made outside the folder is undone by
        then.
        """


@dataclass(frozen=True, kw_only=True)
class PortableField:
    """What a field of a driver's configuration must be to travel in an export; data, as `Option` is."""

    kind: type[int | str | bool]
    least: int = 0
    most: int = 2**31 - 1
    pattern: str = ""
    """Of a text: a regular expression that all of it matches."""

    def problem(self, value: Json) -> str:
        """What is expected in place of `value`; empty if it is right."""
        if self.kind is bool:
            return "" if isinstance(value, bool) else "true or false"
        if self.kind is int:
            is_right = isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most
            return "" if is_right else f"a whole number of {self.least} to {self.most}"
        is_right = isinstance(value, str) and re.fullmatch(self.pattern, value) is not None
        return "" if is_right else f"a text like {self.pattern}"


@runtime_checkable
class ConfigPortable(Protocol):
    """Beside `Portable`: which fields of `config` and which files travel. Without it no field does.

    Leave out what decides which program runs or which file of the host is used: `imported` sets that for this host.
    """

    @classmethod
    def portable_fields(cls) -> Mapping[str, PortableField | None]:
        """The fields that an import takes over; None for one that `imported` sets again for every machine."""

    def portable_files(self) -> Mapping[str, int]:
        """The files that an import takes, and how many bytes each may have at most, by `config`."""


@runtime_checkable
class ConnectionImportable(Protocol):
    """The ability to make a machine of an engine's URL and certificates alone."""

    @classmethod
    def options_for_url(cls, url: str) -> Mapping[str, Json]:
        """Return the options with which `configure` makes a machine for the engine at `url`."""


@runtime_checkable
class Upgradable(Protocol):
    """The image of a stopped machine can be changed under its data."""

    def image_digest(self) -> str:
        """SHA-256 of the image that the machine boots."""

    def swap_image(self, image: ImageFiles) -> None:
        """Boot `image` from the next start on, and keep the current one beside it."""

    def commit_image(self) -> None:
        """Drop the image that `swap_image` kept: the new one has answered."""

    def rollback_image(self) -> None:
        """Bring back the image that `swap_image` kept; that may have failed halfway."""


@runtime_checkable
class Locatable(Protocol):
    """Machines may be on other hosts than this one."""

    def location(self) -> str:
        """The host that the machine is on, as the user calls it; empty for this one. Asks nobody."""


@dataclass(frozen=True)
class ForwardedPort:
    """A port of a machine that is forwarded to this host, or that cannot be."""

    protocol: str
    """``tcp`` or ``udp``."""
    port: int
    address: str
    """The address on the host."""
    problem: str = ""
    """Why it is not forwarded; empty if it is."""


@runtime_checkable
class PortForwardable(Protocol):
    """The ability to forward the ports that are open in a machine to this host."""

    def forwarded_ports(self) -> Sequence[ForwardedPort]:
        """Return the ports of a machine that runs, those that cannot be forwarded too; quickly."""


@runtime_checkable
class ConsoleLoggable(Protocol):
    """What the guest writes on its console is kept in a file."""

    def console_log(self) -> Path:
        """Where; the file is there once the machine has run."""


@runtime_checkable
class Templatable(Protocol):
    """The ability to make machines by resuming a template, for drivers that have it.

    A template is a machine that was frozen once its engine answered, before it had an identity. The core keeps it in
    a folder of its own, sees to it that nothing in there is written to once it is in place, and removes it only by
    unlinking, perhaps while machines that were resumed from it run.
    """

    def template_shape(self, request: BootRequest) -> Mapping[str, Json] | None:
        """All that the state of a template for this machine depends on; None if there can be no template.

        Two machines of one shape can be resumed from one template. The image and the seed are added by the core.
        """

    def make_template(self, folder: Path, request: BootRequest) -> None:
        """Boot a guest with `request.seed`, and freeze it into `folder`, which is empty.

        Nothing runs any more afterwards, whether this raises or not.
        """

    def create_from_template(self, folder: Path, request: BootRequest) -> None:
        """As `Driver.create`, by resuming the template in `folder`.

        Raises `TemplateError` for failures that may be the template's: the core removes what was made and calls
        `Driver.create`, and removes the template if that succeeds. Other errors end the `create`.
        """


@runtime_checkable
class Snapshottable(Protocol):
    """The ability to note all of a machine's state, its memory included, and to go back to it."""

    def save_snapshot(self, folder: Path) -> Mapping[str, Json]:
        """Save the machine as it is now into `folder`, which is empty; a running one goes on afterwards.

        Returns what `restore_snapshot` needs to know; ``Memory`` tells whether the machine's memory is in it, as it
        is for one that runs. Raises `DriverError`; the machine is as it was then.
        """

    def restore_snapshot(self, folder: Path, facts: Mapping[str, Json], request: BootRequest) -> None:
        """Bring the machine, running or not, to the state in `folder`: running if it was, else stopped.

        Its identity is that of `request`, whatever it was then. Raises `DriverError`; the machine is stopped then. Its
        disk is as it was before, or will be after `Restorable.rollback_restore`.
        """


@runtime_checkable
class Restorable(Protocol):
    """Beside `Snapshottable`: what a restore replaces is kept until the core has saved the result."""

    def commit_restore(self) -> None:
        """Drop what `restore_snapshot` set aside, if anything."""

    def rollback_restore(self) -> None:
        """Bring back what `restore_snapshot` set aside, if anything; the machine is stopped then.

        Also called after a process was killed at any point of a restore.
        """


@runtime_checkable
class Recoverable(Protocol):
    """The ability to put a machine in order after a command was killed."""

    def recover(self) -> None:
        """Let a machine go on that was held for a copy, and start what forwards its ports if that does not run.

        Does nothing for a machine that is stopped or in order; called whenever one may not be.
        """


@runtime_checkable
class Clonable(Protocol):
    """The ability to make a machine of another one's disk."""

    def copy_config(self, machine: MachineRef, siblings: Sequence[Config]) -> Config:
        """The configuration for a copy called `machine`: as this one, and of its own what no two machines share."""

    def create_copy(self, source: Driver, request: BootRequest) -> None:
        """As `Driver.create`, with the disk as `source` (of the same driver) has it now, running or stopped.

        The core holds the locks of both. What runs on `source` is held up for as long as the copy takes.
        """
