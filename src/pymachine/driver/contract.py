"""What a driver is: `Driver`, and what it is given and returns.

A driver is a subclass of `Driver`, registered under the entry-point group ``pymachine.drivers``. It imports nothing of
pymachine but the package `pymachine.driver`, which lists its public modules. The core never imports a driver by name.
What only some drivers can do is in `pymachine.driver.abilities`.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

from pymachine.driver.fields import Field
from pymachine.driver.options import Option
from pymachine.errors import DriverError, UnsupportedError
from pymachine.system.progress import Reporter, Silent

API_VERSION = 1

# What JSON can hold. `Any`, since a recursive alias makes every reader of a record cast.
Json: TypeAlias = Any
Config: TypeAlias = dict[str, Json]
DOCKER_PORT = 2376
"""The port of an engine with TLS, by Docker's convention."""


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
    docker_port: int = DOCKER_PORT
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


class RunInGuest(Protocol):
    """Run a command in a guest over SSH."""

    def __call__(
        self,
        endpoint: Endpoint,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        pinned: bool = True,
    ) -> str:
        """Run `command` as the endpoint's user and return what it printed; `timeout` is in seconds.

        Without `pinned` the guest's host key is not checked: for a guest that has not been given one by pymachine.
        Raises `DriverError` if the command fails, and `PymachineError` if there is no connection.
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
    wait_for_engine: Callable[[], None] = lambda: None
    """Block until the engine answers; a driver may call it early to overlap waits. The core calls it afterwards."""
    timings: dict[str, float] = field(default_factory=dict)
    """The driver may note how many seconds each part took; `create --timings` prints it."""


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
        self.run_in_guest: RunInGuest = _no_guest
        """Run a command in a guest over SSH. Set by the core."""

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


def _no_guest(
    endpoint: Endpoint,  # noqa: ARG001
    command: str,
    *,
    stdin: bytes = b"",  # noqa: ARG001
    timeout: float | None = None,  # noqa: ARG001
    pinned: bool = True,  # noqa: ARG001
) -> str:
    raise DriverError(f"no SSH to run {command!r} with: this driver was not made by pymachine's core")
