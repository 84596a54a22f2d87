"""Optional abilities of drivers, as small protocols.

A driver has an ability if it has the methods of the protocol: `isinstance(driver, Resizable)`. The names describe what
can be done to the machine, and end in "able".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from pymachine.driver.contract import BootRequest, Config, Driver, ImageFiles, ImageRequest, Json, MachineRef
from pymachine.driver.shares import Share


@dataclass(frozen=True, kw_only=True)
class HardwareChange:
    """Changes of a machine's hardware. None means no change."""

    cpus: int | None = None
    memory_mib: int | None = None
    disk_mb: int | None = None


@runtime_checkable
class ImageBootable(Protocol):
    """A machine boots pymachine's image: `BootRequest.image` is set in `create`."""

    def image_request(self) -> ImageRequest | None:
        """Return the image that the machine needs, or None if this machine boots another one."""


@runtime_checkable
class ImageCheckable(ImageBootable, Protocol):
    """`Driver.precreate_check` also checks the image, which the core therefore has to find or build before."""

    def offer_image(self, image: ImageFiles) -> None:
        """Put the image where the pre-create check and `create` expect it."""


@runtime_checkable
class IdentityUpdatable(Protocol):
    """A running machine can get a new identity: certificates and engine options change without restarting it."""

    def apply_identity(self, request: BootRequest) -> None:
        """Send the identity of `request` to the running machine, and wait until it is in force.

        The engine restarts only for options that it cannot reload. Raises `DriverError` if the guest refuses the
        identity, and the old one stays in force.
        """


@dataclass(frozen=True, kw_only=True)
class SshPlace:
    """Where a machine's SSH server is, and how to log in."""

    host: str
    port: int
    user: str
    key: Path | None
    """The private key. None: SSH chooses one."""


@runtime_checkable
class SshLocatable(Protocol):
    """The driver tells where SSH is only when it is needed, since that takes requests.

    The fields of its `endpoint` for SSH have no meaning, and neither has the field ``SSHKeyPath`` of `config`.
    """

    def ssh_place(self) -> SshPlace:
        """Return the place. Raises `DriverError`."""


@runtime_checkable
class LoopbackReachable(Protocol):
    """A guest may reach services that listen on the host's loopback: proxies, and the registry cache."""

    def host_loopback(self) -> str:
        """Return the address at which the guest reaches them, or "" if this machine's guest does not."""


@runtime_checkable
class PeerReachable(Protocol):
    """Machines reach each other at their addresses, so the core sends them each other's names.

    The guest needs the name server of our image. If a hypervisor resolves the names of its machines, its driver does
    not need this ability.
    """

    def peer_network(self) -> str:
        """Return the network of this machine: machines with the same one reach each other.

        It is "" for a machine whose address may change. `endpoint` is known for all others, running or not. Must be
        fast.
        """


@runtime_checkable
class Resizable(Protocol):
    """The hardware of an existing machine can be changed."""

    def resize(self, change: HardwareChange) -> None:
        """Change a stopped machine's configuration and files, from its next start on.

        Raises `UsageError` for an impossible change, such as a smaller disk, and changes nothing then.
        """


@runtime_checkable
class ResizeCheckable(Protocol):
    """A change for `Resizable` can be checked before a running machine is stopped."""

    def check_resize(self, change: HardwareChange) -> None:
        """Raise `UsageError` for changes that `resize` would refuse. The machine may be running."""


@runtime_checkable
class Renamable(Protocol):
    """A machine can be renamed."""

    def renamed(self, before: MachineRef) -> None:
        """Rename the machine outside of its folder and in `config`.

        It is stopped. It was `before`, and is `self.machine` now: its folder has been moved. Raises `DriverError` on
        failure, and the core then moves the folder back.
        """


@runtime_checkable
class Portable(Protocol):
    """A stopped machine is completely in its folder, so it can be moved to another store or host."""

    def exported(self) -> Sequence[str]:
        """Return the files that the machine needs, relative to its folder, apart from record and keys."""

    def imported(self, siblings: Sequence[Config]) -> None:
        """Adapt `config` of an imported machine to this host. It must differ from `siblings`, as in `configure`.

        `config` has only the fields that `ConfigPortable` allows. The files are not trusted: raise `DriverError` for a
        file that refers the hypervisor to another file, and undo everything outside of the folder before.
        """


@runtime_checkable
class ExportPreparable(Portable, Protocol):
    """Some of the files of `Portable.exported` exist only during an export."""

    def prepare_export(self) -> None:
        """Make these files. Raises `DriverError`."""

    def end_export(self) -> None:
        """Remove them. Also called after `prepare_export` failed."""


@dataclass(frozen=True, kw_only=True)
class PortableField:
    """The values that an import accepts for a field of a driver's configuration."""

    kind: type[int | str | bool]
    least: int = 0
    most: int = 2**31 - 1
    pattern: str = ""
    """For a text: a regular expression that must match all of it."""

    def problem(self, value: Json) -> str:
        """Return what is expected instead of `value`, or an empty text if it is right."""
        if self.kind is bool:
            return "" if isinstance(value, bool) else "true or false"
        if self.kind is int:
            is_right = isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most
            return "" if is_right else f"a whole number of {self.least} to {self.most}"
        is_right = isinstance(value, str) and re.fullmatch(self.pattern, value) is not None
        return "" if is_right else f"a text like {self.pattern}"


@runtime_checkable
class ConfigPortable(Protocol):
    """The fields of `config` and the files that an import accepts. Without this ability it accepts no field.

    Leave out fields that decide which program runs or which file of the host is used. `imported` sets them for this
    host.
    """

    @classmethod
    def portable_fields(cls) -> Mapping[str, PortableField | None]:
        """Return the fields that an import accepts, or None for a field that `imported` always sets."""

    def portable_files(self) -> Mapping[str, int]:
        """Return the files that an import accepts, with the most bytes that each may have by `config`."""


@runtime_checkable
class ConnectionImportable(Protocol):
    """A machine can be created from only an engine's URL and certificates."""

    @classmethod
    def options_for_url(cls, url: str) -> Mapping[str, Json]:
        """Return the options of `configure` for a machine with the engine at `url`."""


@runtime_checkable
class Upgradable(ImageBootable, Protocol):
    """The image of a stopped machine can be replaced, and its data is kept. Not if `image_request` returns None."""

    def image_digest(self) -> str:
        """Return the SHA-256 of the image that the machine boots."""

    def swap_image(self, image: ImageFiles) -> None:
        """Boot `image` from the next start on, and keep the current one."""

    def commit_image(self) -> None:
        """Remove the image that `swap_image` kept, since the new one works."""

    def rollback_image(self) -> None:
        """Restore the image that `swap_image` kept, even if `swap_image` failed halfway."""


@runtime_checkable
class Locatable(Protocol):
    """A machine may be on another host."""

    def location(self) -> str:
        """Return the user's name for the machine's host, or an empty text for this host. Contacts no host."""


@dataclass(frozen=True)
class ForwardedPort:
    """A port of a machine that is forwarded to this host, or cannot be forwarded."""

    protocol: str
    """``tcp`` or ``udp``."""
    port: int
    address: str
    """The address on the host."""
    problem: str = ""
    """Why it is not forwarded, or an empty text."""


@runtime_checkable
class Shareable(Protocol):
    """Folders of this host can be in the machine: those of `BootRequest.shares`.

    They are mounted when `create`, `start` and the other methods with a `BootRequest` return. Whatever the guest does,
    it reaches nothing outside of a shared folder, and changes nothing in a read-only one. The files that it makes
    belong to the user who runs pymachine.
    """

    def check_shares(self, shares: Sequence[Share]) -> None:
        """Raise `UsageError` for folders that the machine cannot have, such as too many. Changes nothing."""


@runtime_checkable
class DefaultShareable(Protocol):
    """The driver's own options share folders of this host too, some of them by default, as docker-machine's do."""

    def chooses_shares(self) -> bool:
        """Return whether the driver's options name a folder, or say that there is none.

        The core then adds no folders that the user did not name.
        """

    def drop_default_shares(self) -> None:
        """Change `config` so that no folder is shared that the driver's options do not name."""


@runtime_checkable
class SshShareable(Shareable, Protocol):
    """The core mounts the shared folders of some machines over SSH, since their hypervisor cannot share them.

    The core does so after `create`, `start` and `restart`, and after provisioning. It unmounts the folders before
    `stop`. The guest needs sshfs and FUSE, as our image has, and a user of SSH who can become root without a password.
    """

    def shares_over_ssh(self) -> bool:
        """Return whether this machine is one of them. `BootRequest.shares` is empty then."""


@runtime_checkable
class LateShareable(Shareable, Protocol):
    """The driver mounts shared folders, and the core mounts those over SSH that were missing when the machine booted.

    The core does so as soon as they are back, until the machine is stopped. The guest needs what it needs for
    `SshShareable`.
    """

    def missing_shares(self) -> Sequence[Share]:
        """Return the shares of `BootRequest.shares` with which the machine did not boot. Must be fast.

        Their folders were missing then, or they are inside of such a share in the guest. If the machine is stopped,
        the result has no meaning.
        """


@runtime_checkable
class SshNotifiable(Shareable, Protocol):
    """The core raises inotify events over SSH in shared folders that the driver mounts.

    Other drivers raise them by `BootRequest.share_events`. The guest needs bash, inotifywait and a user of SSH who can
    become root without a password, as our image has.
    """

    def notifies_over_ssh(self) -> bool:
        """Return whether that applies to this machine. Must be fast."""


@runtime_checkable
class PortForwardable(Protocol):
    """The ports that are open in a machine are forwarded to this host."""

    def forwarded_ports(self) -> Sequence[ForwardedPort]:
        """Return the ports of a running machine, including those that cannot be forwarded. Must be fast."""


@runtime_checkable
class Ipv6Capable(Protocol):
    """A guest can use this host's IPv6, and its forwarded ports can be on ::1 too: see `BootRequest`."""

    def check_ipv6(self) -> None:
        """Raise `UnsupportedError` for a machine for which neither is possible."""


@runtime_checkable
class ConsoleLoggable(Protocol):
    """The output of the guest's console is kept in a file."""

    def console_log(self) -> Path:
        """Return the path of the file, which exists once the machine has run."""


@runtime_checkable
class Templatable(Protocol):
    """Machines can be cloned from a template.

    A template is a machine that was frozen when its engine answered, before it had an identity. The core keeps it in a
    separate folder, whose files never change, and removes it by unlinking, perhaps while clones are running.
    """

    def template_shape(self, request: BootRequest) -> Mapping[str, Json] | None:
        """Return everything that the state of this machine's template depends on, or None if it can have no template.

        Machines of the same shape can be cloned from one template. The core adds the image and the seed.
        """

    def make_template(self, folder: Path, request: BootRequest) -> None:
        """Boot a guest with `request.seed`, and freeze it into the empty `folder`.

        No process is left running, even if this raises.
        """

    def create_from_template(self, folder: Path, request: BootRequest) -> None:
        """Create the machine as `Driver.create` does, by cloning the template in `folder`.

        Raises `TemplateError` for failures that the template may have caused. The core then removes the machine, calls
        `Driver.create`, and removes the template if that succeeds. Other errors end the `create`.
        """


@runtime_checkable
class Freezable(Protocol):
    """A running machine can be frozen, with its containers, as a template that the user names."""

    def freeze(self, folder: Path, request: BootRequest) -> Mapping[str, Json]:
        """Freeze a copy of this running machine, which goes on, into the empty `folder`; return facts to resume it.

        The copy has no identity: of the machine's keys and certificates nothing is in the folder, as far as they can be
        overwritten. `request.seed` is the identity without them. No process is left running, even if this raises.
        """

    def create_from_frozen(self, folder: Path, facts: Mapping[str, Json], request: BootRequest) -> None:
        """Create the machine as `Driver.create` does, by cloning the template in `folder`.

        Its configuration is that of `Clonable.copy_config`. Raises `StaleTemplateError` if this host can no longer
        resume the template, and `TemplateError` for other failures that the template may have caused.
        """


@runtime_checkable
class Snapshottable(Protocol):
    """The state of a machine, including its memory, can be saved and restored."""

    def save_snapshot(self, folder: Path, *, memory: bool = True) -> Mapping[str, Json]:
        """Save the machine's current state into the empty `folder`. A running machine keeps running.

        Without `memory` only its disk is saved, as after a power cut. Returns the facts for `restore_snapshot`.
        ``Memory`` says whether they include memory, as for a running machine.
        Raises `DriverError`, and the machine is unchanged then.
        """

    def restore_snapshot(self, folder: Path, facts: Mapping[str, Json], request: BootRequest) -> None:
        """Restore the machine to the state in `folder`. It runs afterwards if it ran when it was saved.

        Its identity is that of `request`, not the saved one. Raises `DriverError`, and the machine is stopped then. Its
        disk is unchanged, or will be after `Restorable.rollback_restore`.
        """


@runtime_checkable
class Restorable(Protocol):
    """For `Snapshottable`: the replaced state is kept until the core has saved the result of a restore."""

    def commit_restore(self) -> None:
        """Remove the state that `restore_snapshot` kept, if any."""

    def rollback_restore(self) -> None:
        """Put back the state that `restore_snapshot` kept, if any, and leave the machine stopped.

        Also called after a process was killed at any point of a restore.
        """


@runtime_checkable
class Recoverable(Protocol):
    """A machine can be repaired after a command was killed."""

    def recover(self) -> None:
        """Resume a machine that was paused for a copy, and restart its port forwarder if it has ended.

        Does nothing for a machine that is stopped or in order.
        """


@runtime_checkable
class Clonable(Protocol):
    """A machine can be created from another one's disk."""

    def copy_config(self, machine: MachineRef, siblings: Sequence[Config]) -> Config:
        """Return the configuration of a copy called `machine`: the same as this one, except for unique values."""

    def create_copy(self, source: Driver, request: BootRequest) -> None:
        """Create the machine as `Driver.create` does, with a copy of the current disk of `source`.

        `source` has the same driver, and may be running. It is paused while its disk is copied. The core holds the
        locks of both machines.
        """
