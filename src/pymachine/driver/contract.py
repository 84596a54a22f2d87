"""The public contract for drivers: all that a driver may know of pymachine.

A driver is a subclass of `Driver`, registered under the entry-point group ``pymachine.drivers``. It imports only
this module, `pymachine.errors`, `run`, `wait`, `progress`, `files`, `fields` (what the values of a record may be),
`unfinished` (notes of changes that a crash may cut short), and what drivers share where it fits: `channel` (the
identity channel's protocol), `loopback` (addresses for machines that are reached through forwarded ports), `backlog`,
`published` and `forwarder` (the ports to forward), and `search_domains` (the host's, for guests). The core never
imports a driver by name.
`pymachine.driver.testing` has the suite that every driver must pass.

Abilities that only some drivers have are flags in `DriverInfo.capabilities`, or small protocols of their own,
never more methods on `Driver`.
"""

from __future__ import annotations

import enum
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from pymachine.driver.fields import Field
from pymachine.errors import DriverError, UnsupportedError
from pymachine.system.progress import Reporter, Silent

API_VERSION = 1

# What JSON can hold. `Any`, since a recursive alias makes every reader of a record cast.
Json: TypeAlias = Any
Config: TypeAlias = dict[str, Json]


class State(enum.IntEnum):
    """docker-machine's states; the numbers are its own."""

    NONE = 0
    RUNNING = 1
    PAUSED = 2
    SAVED = 3
    STOPPED = 4
    STOPPING = 5
    STARTING = 6
    ERROR = 7
    TIMEOUT = 8

    @property
    def word(self) -> str:
        """How `status` and `ls` print it."""
        return "" if self is State.NONE else self.name.capitalize()


class Capability(enum.Flag):
    """What a driver is able to do, for the core to choose its steps by."""

    NONE = 0
    IMAGE = enum.auto()
    """Boots pymachine's image: `BootRequest.image` is needed, and `Driver.image_request` says which."""
    IDENTITY = enum.auto()
    """Carries the identity into the guest by itself, in `create` and `start`."""
    PROVISION = enum.auto()
    """The engine is to be installed and set up over SSH after `create`."""
    FIXED_ADDRESS = enum.auto()
    """`endpoint` is known from `configure` on and never changes: `env` may use it without asking the driver."""
    NO_SSH = enum.auto()
    """There is no SSH to the machine."""


class OptionKind(enum.Enum):
    """The four types of docker-machine's driver flags."""

    STRING = "string"
    STRINGS = "strings"
    INTEGER = "integer"
    BOOLEAN = "boolean"


@dataclass(frozen=True, kw_only=True)
class Option:
    """One flag that a driver adds to `create`; data, so that any front end can show it."""

    name: str
    """Without dashes, beginning with the driver's name: ``qemu-memory``."""
    kind: OptionKind = OptionKind.STRING
    default: str | int | bool | tuple[str, ...] | None = None
    env: str | None = None
    help: str = ""


@dataclass(frozen=True)
class DriverInfo:
    """What a driver is."""

    name: str
    summary: str
    capabilities: Capability = Capability.NONE
    api_version: int = API_VERSION


@dataclass(frozen=True)
class Note:
    """What a driver that can be used does less well on this host, and how to mend that."""

    text: str
    fix: str = ""


@dataclass(frozen=True)
class Health:
    """Whether a driver can be used on this host, and if not, why and how to mend that."""

    usable: bool
    version: str = ""
    problem: str = ""
    fix: str = ""
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Endpoint:
    """Where a machine is reached."""

    address: str
    docker_port: int = 2376
    ssh_port: int = 22
    ssh_user: str = "docker"
    ssh_host: str = ""
    """Where SSH is, if not at `address` (VirtualBox forwards it on 127.0.0.1)."""
    docker_url: str = ""
    """The engine's URL, if the user gave one: it is printed as it was given."""
    printed_ip: str | None = None
    """What `ip` prints, if not `address` (docker-machine's driver `none` has host and port there)."""

    @property
    def url(self) -> str:
        """The engine's URL, as DOCKER_HOST takes it."""
        return self.docker_url or f"tcp://{self.engine}"

    @property
    def engine(self) -> str:
        """Host and port of the engine, as they stand in a URL."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.docker_port}"

    @property
    def ip(self) -> str:
        """What `ip` prints."""
        return self.address if self.printed_ip is None else self.printed_ip


@dataclass(frozen=True)
class MachineRef:
    """One machine, as its driver sees it."""

    name: str
    directory: Path
    """The machine's own folder in the store, 0700; the driver may keep files and folders in it."""
    store: Path
    """The root of the store."""
    ssh_key: Path
    """The private key whose public half is in ``<ssh_key>.pub`` by the time of `create`."""


def refuse_links(folder: Path, names: Sequence[str]) -> None:
    """Raise `DriverError` if one of the files `names` in a machine's `folder` is a link.

    The folder may have come from elsewhere. A hypervisor would write into the file that the link leads to.
    """
    for name in names:
        path = folder / name
        if path.is_symlink():
            raise DriverError(
                f"{path} is a link to {str(path.readlink())!r}, and not a file of the machine's own",
                hint="Put the file itself there, or remove the link.",
            )


@dataclass(frozen=True)
class ImageRequest:
    """Which image a machine wants."""

    source: str = ""
    """A path or URL of an ISO that `pymachine image export` wrote; empty: build one, or use the one built."""
    architecture: str = ""
    """Debian's word for it (``amd64``, ``arm64``); empty: this host's."""


@dataclass(frozen=True)
class ImageFiles:
    """A guest image on this host. The files are never changed in place: hard links to them are safe."""

    digest: str
    """SHA-256 of the ISO, in hexadecimal."""
    architecture: str
    iso: Path
    kernel: Path
    initrd: Path
    command_line: str = ""
    """Kernel parameters that the image needs whoever boots it."""


class Remote(Protocol):
    """Runs a command in a guest over SSH, for drivers that have no other way into it."""

    def __call__(
        self,
        endpoint: Endpoint,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        pinned: bool = True,
    ) -> str:
        """Run `command` as the endpoint's user and return what it said; `timeout` is in seconds.

        Without `pinned` the guest's host key is not checked: for a guest that has not been given one by pymachine.
        Raises `DriverError` if it ends with anything but 0, and `PymachineError` if no connection comes about.
        """


@dataclass(frozen=True)
class BootRequest:
    """What a driver is given to bring a machine up, in `create` and in `start`."""

    identity: Callable[[Endpoint], bytes]
    """Makes the machine's identity for an endpoint: one uncompressed tar (see `pymachine.hosts.identity`)."""
    image: ImageFiles | None = None
    """Set in `create` for drivers with `Capability.IMAGE`; None in `start`, which uses what `create` kept."""
    seed: bytes = b""
    """What all machines of this driver have in common, as one uncompressed tar: a template is given it."""
    timeout: float = 300.0
    """Seconds after which a guest that does not come up is given up on."""
    meanwhile: Callable[[], None] = lambda: None
    """What the core waits for once the engine is about to answer; a driver that waits for more may call it then."""
    timings: dict[str, float] = field(default_factory=dict)
    """The driver may note how many seconds each part took; `create --timings` prints it."""
    remote: Remote | None = None
    """Set by the core; absent where a test has no SSH."""


class Driver(ABC):
    """One machine's hypervisor.

    Methods raise `pymachine.errors.DriverError` (or a subclass) when the hypervisor does not do as told. After any
    method that changes `config`, the core saves it in the machine's record.
    """

    info: ClassVar[DriverInfo]
    config_fields: ClassVar[Mapping[str, Field]] = {}
    """What each value in `config` must be, by its key: see `pymachine.driver.fields`.

    A record may come from elsewhere. The core checks it before it makes the driver, drops values that are null, and
    refuses a record with any other value. docker-machine's base fields are checked for every driver.
    """

    def __init__(self, machine: MachineRef, config: Config, *, reporter: Reporter | None = None) -> None:
        """`config` is what `configure` returned, perhaps by an older version: tolerate missing keys."""
        self.machine = machine
        self.config = config
        self.reporter: Reporter = reporter or Silent()
        self.shell: Callable[[str], str] = _no_shell
        """Runs a shell command on the machine over SSH, at its `endpoint`, and returns what it printed.

        Set by the core. Raises `pymachine.errors.DriverError` if there is no connection or the command fails.
        """

    @classmethod
    @abstractmethod
    def options(cls) -> Sequence[Option]:
        """The flags this driver adds to `create`."""

    @classmethod
    @abstractmethod
    def health(cls) -> Health:
        """Whether the driver can be used here. Quick (under a second), changes nothing, never raises."""

    @classmethod
    @abstractmethod
    def configure(cls, machine: MachineRef, options: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
        """Check `options` (by `Option.name`; every option is present) and return the machine's configuration.

        Changes nothing outside. `siblings` are the configurations of the store's other machines with this driver
        (what must be unique, such as an address, must differ from theirs); the core holds a lock around this and
        the saving of the result. Raises `pymachine.errors.UsageError` for a bad value.

        The core adds docker-machine's base fields (IPAddress, MachineName, SSHUser, SSHPort, SSHKeyPath,
        StorePath) to what is returned where they are missing; those of SSH are empty with `Capability.NO_SSH`.
        """

    def image_request(self) -> ImageRequest:
        """Which image the machine wants; asked only of drivers with `Capability.IMAGE`."""
        return ImageRequest()

    @abstractmethod
    def precreate_check(self) -> None:
        """Raise `pymachine.errors.PrecreateError` if a create cannot work here; change nothing."""

    @abstractmethod
    def create(self, request: BootRequest) -> None:
        """Make the machine and bring it up, until its engine can be asked for (or provisioned).

        What was made is left for `remove` when this raises; the core calls that.
        """

    @abstractmethod
    def start(self, request: BootRequest) -> None:
        """Bring a stopped machine up again, with the same endpoint where the capability says so."""

    @abstractmethod
    def stop(self, timeout: float) -> None:
        """Shut down in an orderly way; after `timeout` seconds, by force (and say so through the reporter)."""

    @abstractmethod
    def kill(self) -> None:
        """Switch off at once."""

    @abstractmethod
    def remove(self) -> None:
        """Remove all that exists outside the machine's folder, running or not; already gone is success."""

    @abstractmethod
    def state(self) -> State:
        """The state now. Must not take longer than a few seconds; raises `DriverError` if it cannot be told."""

    @abstractmethod
    def endpoint(self) -> Endpoint:
        """Where the machine is reached. Raises `HostNotRunningError` where only a running one has an address."""

    def restart(self, request: BootRequest, timeout: float) -> None:
        """Shut down in an orderly way and bring up again."""
        if self.state() is State.RUNNING:
            self.stop(timeout)
        self.start(request)

    def unsupported(self, action: str) -> UnsupportedError:
        """The error for an action that this driver cannot do by its nature."""
        return UnsupportedError(f"{self.info.name} driver does not support {action}")


def _no_shell(command: str) -> str:
    raise DriverError(f"no SSH to run {command!r} with: this driver was not made by pymachine's manager")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What of a machine's hardware is to change; None leaves it as it is."""

    cpus: int | None = None
    memory_mib: int | None = None
    disk_mb: int | None = None


# -- abilities that only some drivers have: `isinstance(driver, LiveIdentity)` tells ------------------------------


@runtime_checkable
class LiveIdentity(Protocol):
    """A running machine takes over a new identity: certificates and engine options change without a restart of it."""

    def apply_identity(self, request: BootRequest) -> None:
        """Give the running machine the identity that `request` makes, and wait until it is in force.

        The engine restarts only for options that it cannot reload. Raises `DriverError` if the guest does not take
        it; what is in force then is the old one.
        """


@runtime_checkable
class Resizable(Protocol):
    """The hardware of a machine can be changed after it was made."""

    def resize(self, shape: Shape) -> None:
        """Change a stopped machine's configuration and files; it is so from its next start on.

        Raises `UsageError` for what cannot be (a disk that shrinks), and then nothing was changed.
        """


@runtime_checkable
class ShapeChecking(Protocol):
    """Beside `Resizable`: what cannot be is told before a running machine is stopped for it."""

    def check_shape(self, shape: Shape) -> None:
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

        `config` has what `PortableConfig` lets in, and nothing without it. The files may be anybody's: raise
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
class PortableConfig(Protocol):
    """Beside `Portable`: which fields of `config` and which files travel. Without it no field does.

    Leave out what decides which program runs or which file of the host is used: `imported` sets that for this host.
    """

    @classmethod
    def portable_fields(cls) -> Mapping[str, PortableField | None]:
        """The fields that an import takes over; None for one that `imported` sets again for every machine."""

    def portable_files(self) -> Mapping[str, int]:
        """The files that an import takes, and how many bytes each may have at most, by `config`."""


@runtime_checkable
class Upgradable(Protocol):
    """The image of a stopped machine can be changed under its data."""

    def image_digest(self) -> str:
        """SHA-256 of the image that the machine boots."""

    def swap_image(self, image: ImageFiles) -> None:
        """Boot `image` from the next start on, and keep the one of now beside it."""

    def settle_image(self, *, keep: bool) -> None:
        """The new image has answered (`keep`): drop the old one. If not, or if `swap_image` failed: bring it back."""


@runtime_checkable
class Located(Protocol):
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
class PortForwarding(Protocol):
    """The ability to forward the ports that are open in a machine to this host."""

    def forwarded_ports(self) -> Sequence[ForwardedPort]:
        """Return the ports of a machine that runs, those that cannot be forwarded too; quickly."""


@runtime_checkable
class Console(Protocol):
    """What the guest writes on its console is kept in a file."""

    def console_log(self) -> Path:
        """Where; the file is there once the machine has run."""


@runtime_checkable
class TemplateDriver(Protocol):
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
class SnapshotDriver(Protocol):
    """The ability to note all of a machine's state, its memory included, and to go back to it."""

    def save_snapshot(self, folder: Path) -> Mapping[str, Json]:
        """Save the machine as it is now into `folder`, which is empty; a running one goes on afterwards.

        Returns what `restore_snapshot` needs to know; ``Memory`` tells whether the machine's memory is in it, as it
        is for one that runs. Raises `DriverError`; the machine is as it was then.
        """

    def restore_snapshot(self, folder: Path, facts: Mapping[str, Json], request: BootRequest) -> None:
        """Bring the machine, running or not, to the state in `folder`: running if it was, else stopped.

        Its identity is that of `request`, whatever it was then. Raises `DriverError`; the machine is stopped then. Its
        disk is as it was before, or will be after `RestoreDriver.settle_restore`.
        """


@runtime_checkable
class RestoreDriver(Protocol):
    """Beside `SnapshotDriver`: what a restore replaces is kept until the core has saved the result."""

    def settle_restore(self, *, keep: bool) -> None:
        """Drop what `restore_snapshot` set aside (`keep`), or bring it back: then the machine is stopped, too.

        Fine if nothing was set aside: also called after a process was killed at any point of a restore.
        """


@runtime_checkable
class Recoverable(Protocol):
    """The ability to put a machine in order after a command was killed."""

    def recover(self) -> None:
        """Let a machine go on that was held for a copy, and start what forwards its ports if that does not run.

        Does nothing for a machine that is stopped or in order; called whenever one may not be.
        """


@runtime_checkable
class CopyDriver(Protocol):
    """The ability to make a machine of another one's disk."""

    def copy_config(self, machine: MachineRef, siblings: Sequence[Config]) -> Config:
        """The configuration for a copy called `machine`: as this one, and of its own what no two machines share."""

    def create_copy(self, source: Driver, request: BootRequest) -> None:
        """As `Driver.create`, with the disk as `source` (of the same driver) has it now, running or stopped.

        The core holds the locks of both. What runs on `source` is held up for as long as the copy takes.
        """
