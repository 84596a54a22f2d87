"""The driver: a machine's life in terms of the other modules.

Loaded by reading commands too (`status`, `ls`, `ip`), so that what only `create` and `start` need is imported there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from pymachine.driver.abilities import ForwardedPort
from pymachine.driver.contract import (
    BootRequest,
    Capability,
    Config,
    DriverInfo,
    Endpoint,
    Health,
    ImageRequest,
    Json,
    MachineRef,
    State,
)
from pymachine.driver.errors import EXIT_PRECREATE, DriverError, PymachineError
from pymachine.driver.options import Option
from pymachine_driver_libvirt import connection as libvirts, modify, options

if TYPE_CHECKING:
    from pymachine_driver_libvirt.connection import Connection, Domain
    from pymachine_driver_libvirt.volumes import ImageSet

# A range for private use, with QEMU's own prefix.
_MAC_PREFIX = "52:54:00"
_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
_SET = re.compile(r"/(pymachine-[0-9a-f]{12}-[0-9a-f]{8})\.iso")


class LibvirtDriver(modify.ModifiableMachine):
    """One machine is one domain, with a disk in a storage pool and an address reserved in a network."""

    config_fields = options.FIELDS
    info: ClassVar[DriverInfo] = DriverInfo(
        "libvirt",
        "QEMU/KVM through libvirt, on this host or on another",
        Capability.IMAGE | Capability.IDENTITY | Capability.FIXED_ADDRESS,
    )

    @classmethod
    def options(cls) -> Sequence[Option]:
        """The flags; see `pymachine_driver_libvirt.options`."""
        return options.OPTIONS

    @classmethod
    def health(cls) -> Health:
        """Whether libvirt's library is there; a libvirt is asked for only where a machine's URI is known."""
        try:
            libvirt = libvirts.library()
        except PymachineError as error:
            return Health(usable=False, problem=error.brief, fix=error.hint)
        number = int(libvirt.getVersion())
        return Health(usable=True, version=f"libvirt {number // 1000000}.{number // 1000 % 1000}.{number % 1000}")

    @classmethod
    def configure(cls, machine: MachineRef, values: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
        """Check the flags, and ask libvirt for an address that nobody has."""
        import uuid  # noqa: PLC0415

        from pymachine_driver_libvirt import hosts, listen_address, volumes  # noqa: PLC0415

        choices = options.check(values)
        host, uri = hosts.resolve(choices.host, machine.store)
        try:
            connection = libvirts.connect(uri)
            found = listen_address.choose(connection, uri, choices.network, siblings)
            with libvirts.doing("cannot ask libvirt for its host"):
                model, _, processors, *_ = connection.getInfo()
        except DriverError as error:
            # Nothing is wrong with the flags: what is missing is missing there.
            error.exit_code = EXIT_PRECREATE
            raise
        machine_id = uuid.uuid4()
        return {
            "ConnectionURI": uri,
            "Host": host,
            "IPAddress": found.address,
            "EnginePort": found.docker_port,
            "SSHPort": found.ssh_port,
            "SSHUser": listen_address.SSH_USER,
            "Network": found.network,
            "MachineID": str(machine_id),
            "MACAddress": ":".join([_MAC_PREFIX, *(f"{byte:02x}" for byte in machine_id.bytes[:3])]),
            "CPU": options.cpu_count(choices.cpus, processors),
            "Memory": choices.memory_mib,
            "DiskSize": choices.disk_mb,
            "StoragePool": choices.pool,
            "DiskVolume": volumes.disk_name(machine.name, str(machine_id)),
            "MachineType": choices.machine_type,
            "CPUMode": choices.cpu_mode,
            "Accelerator": choices.accelerator,
            "XMLPatches": list(choices.patches),
            "Autostart": choices.autostart,
            "Boot2DockerURL": choices.image,
            "Arch": _DEBIAN.get(model, "amd64"),
        }

    def image_request(self) -> ImageRequest:
        """The image that was asked for, of the architecture of libvirt's host."""
        return ImageRequest(source=str(self.config.get("Boot2DockerURL", "")), architecture=self._architecture)

    def location(self) -> str:
        """The host's name in config.toml, else its address; empty for this host."""
        from pymachine_driver_libvirt import hosts  # noqa: PLC0415

        return str(self.config.get("Host") or hosts.address(self._uri))

    def precreate_check(self) -> None:
        """A libvirt that lets us in, a name that is free, a pool with room, a network with our address free."""
        from pymachine_driver_libvirt import volumes  # noqa: PLC0415

        connection = self._connect()
        self._check_name(connection)
        volumes.check_pool(
            connection, self._pool_name, may_make=bool(self._default_pool_path()), need=volumes.FIRST_NEED
        )
        self._check_listen_address(connection)

    def create(self, request: BootRequest) -> None:
        """Make the volumes, the reservation and the domain; returns once the guest has its identity and is up."""
        from pymachine_driver_libvirt import volumes  # noqa: PLC0415

        if request.image is None:
            raise DriverError("the libvirt driver needs an image to create a machine")
        self.config.update(ImageDigest=request.image.digest, KernelCommandLine=request.image.command_line)
        connection = self._connect()
        began = time.monotonic()
        pool = volumes.ready_pool(
            connection, self._pool_name, make_at=self._default_pool_path(), reporter=self.reporter
        )
        found = volumes.find_set(pool, request.image.digest)
        while True:
            image = found or volumes.bring_image(
                connection,
                pool,
                request.image,
                volumes.set_name(request.image.digest, self._id),
                reporter=self.reporter,
            )
            request.timings["image"] = round(time.monotonic() - began, 2)
            self._make(connection, pool, image, request)
            # From now on the set has a user. Before that, whoever had brought it may have removed it.
            found = volumes.find_set(pool, request.image.digest)
            if found is not None and found.name == image.name:
                break
        self._boot(connection, request)

    def start(self, request: BootRequest) -> None:
        """Start the machine's domain, or let one that is paused or saved go on."""
        from pymachine_driver_libvirt import state  # noqa: PLC0415

        connection = self._connect()
        domain = self._own_domain(connection)
        now = state.of(domain)
        if now is State.PAUSED and domain is not None:
            with libvirts.doing("cannot resume the machine"):
                domain.resume()
            return
        if now is State.ERROR and domain is not None:
            # Crashed, and kept for whoever wanted to look at it.
            state.switch_off(domain)
        elif now not in {State.STOPPED, State.SAVED}:
            raise DriverError(f"{self.machine.name} has a running domain already; it is {now.word}")
        if now is not State.SAVED:
            self._prepare_start(connection, domain)
        self._boot(connection, request, resumed=now is State.SAVED)

    def stop(self, timeout: float) -> None:
        """Press the power button; after `timeout` seconds, switch off."""
        from pymachine.driver.kit.system import Deadline  # noqa: PLC0415
        from pymachine_driver_libvirt import guest, state  # noqa: PLC0415

        connection = self._connect()
        domain = self._own_domain(connection)
        now = state.of(domain)
        if domain is None or now in {State.STOPPED, State.SAVED}:
            return
        if now is State.PAUSED:
            # A paused guest cannot see the power button.
            with libvirts.doing("cannot resume the machine"):
                domain.resume()
        if not guest.power_down(connection, domain, Deadline(timeout)):
            self.reporter.warn(f"The guest did not shut down within {timeout:g} seconds: switching it off.")
            self.kill()

    def kill(self) -> None:
        """Destroy the domain, as libvirt calls switching it off."""
        from pymachine_driver_libvirt import state  # noqa: PLC0415

        domain = self._own_domain(self._connect())
        if domain is not None:
            state.switch_off(domain)

    def remove(self) -> None:
        """Remove the machine's domain, volumes and reservation; an image's volumes when no other machine uses them."""
        from pymachine_driver_libvirt import network, state, volumes  # noqa: PLC0415

        connection = self._connect()
        domain = self._own_domain(connection)
        sets = {str(each.get("ImageSet", "")) for each in (self.config, self.config.get("PreviousImage", {}))}
        if domain is not None:
            with libvirts.doing("cannot read the machine's domain"):
                sets.update(_SET.findall(domain.XMLDesc()))
            state.switch_off(domain)
        pool = volumes.find_pool(connection, self._pool_name)
        if pool is not None:
            volumes.clear(
                connection,
                pool,
                disk=self._disk_name,
                sets=sets - {""},
                machine_id=self._id,
            )
        elif sets - {""}:
            self.reporter.warn(f"Storage pool {self._pool_name} is gone: what the machine had in it cannot be removed.")
        if not self._listen_address.is_forwarded:
            network.release(
                connection, self._listen_address.network, str(self.config["MACAddress"]), machine_id=self._id
            )
        # Last: as long as it is there, others see who uses the image.
        if domain is not None:
            state.undefine(domain)

    def state(self) -> State:
        """What libvirt says of the domain."""
        from pymachine_driver_libvirt import state  # noqa: PLC0415

        return state.of(state.find(self._connect(), self._id))

    def endpoint(self) -> Endpoint:
        """The address that `configure` chose."""
        return self._listen_address.endpoint

    # -- parts -----------------------------------------------------------------------------------------------------

    def _check_listen_address(self, connection: Connection) -> None:
        from pymachine_driver_libvirt import hosts, network  # noqa: PLC0415

        listen = self._listen_address
        if not listen.is_forwarded:
            found = network.find(connection, listen.network)
            if not hosts.is_local(self._uri) and not found.reached_by_others:
                self.reporter.warn(
                    f"Network {listen.network} is not routed: unless this host reaches {listen.address} in some other "
                    "way, use --libvirt-network user, or a network with <forward mode='route'/>."
                )
        self._check_ports()

    def _check_ports(self) -> None:
        """In user networking on this host: nobody else may listen where QEMU is to."""
        from pymachine.driver.kit import listen_address  # noqa: PLC0415
        from pymachine_driver_libvirt import hosts, network  # noqa: PLC0415

        listen = self._listen_address
        ports = (listen.docker_port, listen.ssh_port) if listen.is_forwarded and hosts.is_local(self._uri) else ()
        for port in ports:
            if not listen_address.is_free(listen.address, port):
                raise network.NetworkError(
                    f"{listen.address}:{port} is taken by another program",
                    hint=f"See which one: ss -ltnp 'sport = :{port}'",
                )

    def _make(self, connection: Connection, pool: Any, image: ImageSet, request: BootRequest) -> None:
        """Everything that lasts: the disk, the reservation, the domain."""
        from pymachine_driver_libvirt import volumes  # noqa: PLC0415

        self.config["ImageSet"] = image.name
        began = time.monotonic()
        self.config["AcceleratorInUse"] = self._choose_accelerator(connection, image)
        request.timings["accelerator"] = round(time.monotonic() - began, 2)
        began = time.monotonic()
        disk = volumes.make_disk(
            connection,
            pool,
            self._disk_name,
            size_mb=int(self.config.get("DiskSize", options.DEFAULT_DISK_MB)),
        )
        self._reserve(connection)
        self._define(connection, image, disk)
        request.timings["define"] = round(time.monotonic() - began, 2)

    def _prepare_start(self, connection: Connection, domain: Domain | None) -> None:
        """Make good what was lost behind our back, and follow a change of what the host can do."""
        from pymachine_driver_libvirt import define, volumes  # noqa: PLC0415

        self._check_ports()
        pool = volumes.ready_pool(connection, self._pool_name, make_at="", reporter=self.reporter)
        image = volumes.set_paths(pool, str(self.config.get("ImageSet", "")))
        disk = volumes.path_of(pool, self._disk_name)
        self._reserve(connection)
        accelerator = self._choose_accelerator(connection, image)
        if domain is None:
            self._check_name(connection)
            self.reporter.warn("The domain was removed from libvirt: defining it again, as it was created.")
        elif accelerator != self.config.get("AcceleratorInUse"):
            self.reporter.info(f"Defining the domain again, for {accelerator}.")
        else:
            if self._listen_address.is_forwarded:
                define.add_containers_port(domain)
            return
        self.config["AcceleratorInUse"] = accelerator
        self._define(connection, image, disk)

    def _boot(self, connection: Connection, request: BootRequest, *, resumed: bool = False) -> None:
        """Start the domain and give the guest its identity. Nothing is left running on failure.

        `resumed`: it goes on where it was saved, and is left to that on failure, since its memory is nowhere else.
        """
        from pymachine.driver.kit import crashes  # noqa: PLC0415

        domain = self._own_domain(connection)
        if domain is None:
            raise DriverError(f"the domain of {self.machine.name} is gone from libvirt")
        if resumed:
            self._boot_domain(connection, domain, request, resumed=True)
            return
        with self._ended_on_failure():
            crashes.retry_once(
                lambda: self._boot_domain(connection, domain, request, resumed=False), reporter=self.reporter
            )

    def _boot_domain(self, connection: Connection, domain: Domain, request: BootRequest, *, resumed: bool) -> None:
        from pymachine.driver.kit.system import Deadline  # noqa: PLC0415

        deadline = Deadline(request.timeout)
        began = time.monotonic()
        with libvirts.doing("cannot start the machine's domain"):
            domain.create()
        request.timings["qemu"] = round(time.monotonic() - began, 2)
        self._deliver(connection, domain, request, deadline, resumed=resumed)
        self._watch_ports()

    def _deliver(
        self, connection: Connection, domain: Domain, request: BootRequest, deadline: Any, *, resumed: bool
    ) -> None:
        from pymachine.driver.kit.crashes import CrashedError  # noqa: PLC0415
        from pymachine.driver.kit.identity_channel import GuestEndedError, GuestError  # noqa: PLC0415
        from pymachine_driver_libvirt import guest, state  # noqa: PLC0415

        console = self.console_log()
        try:
            with self.reporter.task("Waiting for the machine to start") as task:
                guest.deliver(
                    connection,
                    domain,
                    self._identity(request),
                    console=console,
                    deadline=deadline,
                    task=task,
                    timings=request.timings,
                    resumed=resumed,
                )
        except GuestError as error:
            error.details = "\n".join(filter(None, (error.details, guest.tail(console))))
            error.hint = error.hint or f"The console, as far as it was read, is in {console}"
            if isinstance(error, GuestEndedError) and state.has_crashed(domain):
                raise CrashedError("the machine's QEMU crashed", details=error.details) from error
            raise

    def forwarded_ports(self) -> Sequence[ForwardedPort]:
        """What the port forwarder noted; nothing outside user networking."""
        from pymachine.driver.kit import forwarded_ports  # noqa: PLC0415

        return forwarded_ports.load(self.machine.directory)

    def _watch_ports(self) -> None:
        """In user networking: have what listens in the guest forwarded too."""
        from pymachine_driver_libvirt import ports  # noqa: PLC0415

        forwards = self._listen_address.forwards(self._uri)
        if forwards is not None:
            ports.start(self.machine.directory.absolute(), uri=self._uri, machine_id=self._id, forwards=forwards)

    @contextmanager
    def _ended_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.kill()
            raise
