"""The driver contract: the class `Driver`, with the types of its arguments and results.

A driver is a subclass of `Driver`, registered under the entry-point group ``pymachine.drivers``. Of pymachine it
imports only the package `pymachine.driver`, which lists its public modules. The core never imports a driver by name.
Optional abilities are in `pymachine.driver.abilities`.
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
from pymachine.driver.shares import Share, ShareEvents
from pymachine.errors import DriverError, UnsupportedError
from pymachine.system.progress import Reporter, Silent

API_VERSION = 1

# Any JSON value. A recursive alias would force every reader of a record to cast.
Json: TypeAlias = Any
Config: TypeAlias = dict[str, Json]
DOCKER_PORT = 2376
"""The port of an engine with TLS, by Docker's convention."""


class State(enum.IntEnum):
    """The state of a machine, with docker-machine's numbers."""

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
        """The state as `status` and `ls` print it."""
        return "" if self is State.NONE else self.name.capitalize()


class Trait(enum.Flag):
    """Facts about the machines of a driver, known before there is one. They decide which steps the core takes.

    Optional methods are abilities instead: see `pymachine.driver.abilities`.
    """

    NONE = 0
    IDENTITY = enum.auto()
    """The driver sends the identity to the guest, in `create` and `start`."""
    PROVISION = enum.auto()
    """The core installs and sets up the engine over SSH after `create`."""
    FIXED_ADDRESS = enum.auto()
    """`endpoint` is known after `configure` and never changes, so `env` may read it from the record."""
    NO_SSH = enum.auto()
    """The machine has no SSH."""
    NO_START = enum.auto()
    """`start` is not supported: the machine is switched on by others."""
    FOREIGN_CONFIG = enum.auto()
    """`config` belongs to another program, which reads and writes all of it. The core adds and drops no field."""


@dataclass(frozen=True)
class DriverInfo:
    """A driver's name, summary and traits."""

    name: str
    summary: str
    traits: Trait = Trait.NONE
    api_version: int = API_VERSION
    variables: tuple[str, ...] = ()
    """Environment variables that `start` and `stop` depend on, apart from PATH and those of pymachine."""


@dataclass(frozen=True)
class Note:
    """A limitation of a usable driver on this host, and how to fix it."""

    text: str
    fix: str = ""


@dataclass(frozen=True)
class Health:
    """Whether a driver can be used on this host, and if not, why and how to fix it."""

    usable: bool
    version: str = ""
    problem: str = ""
    fix: str = ""
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Endpoint:
    """The address and the ports of a machine."""

    address: str
    docker_port: int = DOCKER_PORT
    ssh_port: int = 22
    ssh_user: str = "docker"
    ssh_host: str = ""
    """The address of SSH, if it is not `address` (VirtualBox forwards SSH on 127.0.0.1)."""
    docker_url: str = ""
    """The engine's URL if the user gave one. It is printed unchanged."""
    printed_ip: str | None = None
    """The output of `ip`, if it is not `address` (docker-machine's driver `none` prints host and port)."""

    @property
    def url(self) -> str:
        """The engine's URL, for DOCKER_HOST."""
        return self.docker_url or f"tcp://{self.engine}"

    @property
    def engine(self) -> str:
        """Host and port of the engine, as in a URL."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.docker_port}"

    @property
    def ip(self) -> str:
        """The output of `ip`."""
        return self.address if self.printed_ip is None else self.printed_ip


@dataclass(frozen=True)
class MachineRef:
    """The name and the paths of a machine."""

    name: str
    directory: Path
    """The machine's folder in the store, with mode 0700. The driver may keep files and folders in it."""
    store: Path
    """The root of the store."""
    ssh_key: Path
    """The private key. Its public half is in ``<ssh_key>.pub`` when `create` is called."""


def refuse_links(folder: Path, names: Sequence[str]) -> None:
    """Raise `DriverError` if one of the files `names` in a machine's `folder` is a link.

    The folder may come from another computer. A hypervisor would write to the target of the link.
    """
    for name in names:
        path = folder / name
        if path.is_symlink():
            raise DriverError(
                f"{path} is a link to {str(path.readlink())!r}, not a file of the machine",
                hint="Replace the link by the file, or remove it.",
            )


@dataclass(frozen=True)
class ImageRequest:
    """The image that a machine needs."""

    source: str = ""
    """Path or URL of an ISO that `pymachine image export` wrote. If empty, the image is built or found in the cache."""
    architecture: str = ""
    """Debian's name of the architecture (``amd64``, ``arm64``). If empty, this host's."""


@dataclass(frozen=True)
class ImageFiles:
    """A guest image on this host. Its files never change, so hard links to them are safe."""

    digest: str
    """SHA-256 of the ISO, in hexadecimal."""
    architecture: str
    iso: Path
    kernel: Path
    initrd: Path
    command_line: str = ""
    """Kernel parameters that the image needs with every driver."""


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
        """Run `command` as the endpoint's user and return its output. `timeout` is in seconds.

        Without `pinned` the guest's host key is not checked, for a guest that has no host key of pymachine's yet.
        Raises `DriverError` if the command fails, and `PymachineError` if there is no connection.
        """


@dataclass(frozen=True)
class BootRequest:
    """The arguments of `create` and `start`."""

    identity: Callable[[Endpoint], bytes]
    """Build the machine's identity for an endpoint: one uncompressed tar (see `pymachine.hosts.identity`)."""
    image: ImageFiles | None = None
    """Set in `create` if the driver is `ImageBootable`. None in `start`, which uses the files that `create` kept."""
    seed: bytes = b""
    """The files that all machines of this driver share, as one uncompressed tar. A template gets them."""
    shares: Sequence[Share] = ()
    """The folders to share, for a driver that is `Shareable`. It leaves out those with a `shares.problem`."""
    share_events: ShareEvents | None = None
    """None if the host's changes in them shall raise no events in the guest."""
    ipv6: bool = False
    """Whether the guest uses this host's IPv6, for a driver that is `Ipv6Capable`."""
    ipv6_ports: bool = False
    """Whether the ports that it forwards are on ::1 too, for a driver that is `Ipv6Capable`."""
    timeout: float = 300.0
    """Seconds that a guest may take to come up."""
    wait_for_engine: Callable[[], None] = lambda: None
    """Block until the engine answers. A driver may call it early to overlap waits. The core calls it afterwards."""
    timings: dict[str, float] = field(default_factory=dict)
    """The driver may store the seconds that each step took. `create --timings` prints them."""


class Driver(ABC):
    """The operations of one machine's hypervisor.

    Methods raise `pymachine.driver.errors.DriverError` (or a subclass) if the hypervisor fails. The core saves `config`
    in the machine's record after any method that changes it.
    """

    info: ClassVar[DriverInfo]
    program: ClassVar[str] = ""
    """The text by which a record finds the program that has the driver, such as its path. It may be empty."""
    config_fields: ClassVar[Mapping[str, Field]] = {}
    """The type of each value in `config`, by its key: see `pymachine.driver.fields`.

    A record may come from another computer. The core checks it before it creates the driver, drops null values, and
    refuses a record with a wrong value. It checks docker-machine's base fields for every driver.
    """

    def __init__(self, machine: MachineRef, config: Config, *, reporter: Reporter | None = None) -> None:
        """`config` was returned by `configure`, perhaps of an older version, so keys may be missing."""
        self.machine = machine
        self.config = config
        self.reporter: Reporter = reporter or Silent()
        self.run_in_guest: RunInGuest = _no_guest
        """Run a command in a guest over SSH. Set by the core."""

    @classmethod
    @abstractmethod
    def options(cls) -> Sequence[Option]:
        """Return the options that this driver adds to `create`."""

    @classmethod
    @abstractmethod
    def health(cls) -> Health:
        """Return whether the driver can be used here. Takes less than a second, changes nothing, never raises."""

    @classmethod
    @abstractmethod
    def configure(cls, machine: MachineRef, options: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
        """Check `options` (all of them, by `Option.name`) and return the machine's configuration.

        This changes nothing else. `siblings` are the configurations of the store's other machines with this driver.
        Unique values, such as an address, must differ from theirs. The core holds a lock until it has saved the result.
        Raises `pymachine.driver.errors.UsageError` for a wrong value.

        The core adds missing base fields of docker-machine (IPAddress, MachineName, SSHUser, SSHPort, SSHKeyPath,
        StorePath) to the result. Those of SSH are empty with `Trait.NO_SSH`.
        """

    @abstractmethod
    def precreate_check(self) -> None:
        """Raise `pymachine.driver.errors.PrecreateError` if a create cannot work here. Changes nothing."""

    @abstractmethod
    def create(self, request: BootRequest) -> None:
        """Create the machine and start it, until its engine can answer (or be provisioned).

        If this raises, the core calls `remove`.
        """

    @abstractmethod
    def start(self, request: BootRequest) -> None:
        """Start a stopped machine. With `Trait.FIXED_ADDRESS`, its endpoint is the same as before."""

    @abstractmethod
    def stop(self, timeout: float) -> None:
        """Shut down gracefully. After `timeout` seconds, switch off and report that."""

    @abstractmethod
    def kill(self) -> None:
        """Switch off immediately."""

    @abstractmethod
    def remove(self) -> None:
        """Remove everything outside the machine's folder, running or not. Succeeds if nothing is left."""

    @abstractmethod
    def state(self) -> State:
        """Return the current state within a few seconds. Raises `DriverError` if it cannot be determined."""

    @abstractmethod
    def endpoint(self) -> Endpoint:
        """Return the endpoint. Raises `HostNotRunningError` if the machine only has an address while it runs."""

    def close(self) -> None:  # noqa: B027 (most drivers hold nothing)
        """Release what this object holds, such as a helper process. Its methods work afterwards, too.

        The core calls it after it has queried many machines. The end of pymachine's process must release the same.
        """

    def restart(self, request: BootRequest, timeout: float) -> None:
        """Shut down gracefully and start again."""
        if self.state() is State.RUNNING:
            self.stop(timeout)
        self.start(request)

    def unsupported(self, action: str) -> UnsupportedError:
        """Return the error for an action that this driver does not support."""
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
