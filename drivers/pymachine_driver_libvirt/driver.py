"""The driver's main class: each operation on a machine, in terms of the other modules.

Commands that only read (`status`, `ls`, `ip`) load this module too, so modules for `create` and `start` are imported
where they are used.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pymachine.driver.abilities import ForwardedPort
from pymachine.driver.contract import (
    BootRequest,
    Config,
    DriverInfo,
    Endpoint,
    Health,
    ImageRequest,
    Json,
    MachineRef,
    State,
    Trait,
)
from pymachine.driver.errors import EXIT_PRECREATE, DriverError, PymachineError
from pymachine.driver.kit import option_checks
from pymachine.driver.options import Option
from pymachine_driver_libvirt import connection as libvirts, modify, options

if TYPE_CHECKING:
    from pymachine_driver_libvirt.connection import Connection, Domain
    from pymachine_driver_libvirt.volumes import ImageSet

# QEMU's prefix, in the range of locally administered addresses.
_MAC_PREFIX = "52:54:00"
_DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
_SET = re.compile(r"/(pymachine-[0-9a-f]{12}-[0-9a-f]{8})\.iso")


class LibvirtDriver(modify.ModifiableMachine):
    """A machine as a domain, with a disk in a storage pool and an address reserved in a network."""

    config_fields = options.FIELDS
    info: ClassVar[DriverInfo] = DriverInfo(
        "libvirt",
        "QEMU/KVM through libvirt, on this host or on another",
        Trait.IDENTITY | Trait.FIXED_ADDRESS,
        variables=("LIBVIRT_DEFAULT_URI",),
    )

    @classmethod
    def options(cls) -> Sequence[Option]:
        """Return the driver's options."""
        return options.OPTIONS

    @classmethod
    def health(cls) -> Health:
        """Report whether libvirt's library is installed. It connects nowhere, since the URI is not known."""
        try:
            libvirt = libvirts.library()
        except PymachineError as error:
            return Health(usable=False, problem=error.brief, fix=error.hint)
        number = int(libvirt.getVersion())
        return Health(usable=True, version=f"libvirt {number // 1000000}.{number // 1000 % 1000}.{number % 1000}")

    @classmethod
    def configure(cls, machine: MachineRef, values: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
        """Check the options, and choose a free address of libvirt's network."""
        import uuid  # noqa: PLC0415

        from pymachine_driver_libvirt import hosts, listen_address, volumes  # noqa: PLC0415

        choices = options.check(values)
        host, uri = hosts.resolve(choices.host, machine.store)
        try:
            connection = libvirts.connect(uri)
            found = listen_address.choose(connection, uri, choices.network, siblings)
            with libvirts.wrap_errors("cannot read libvirt's host"):
                model, _, processors, *_ = connection.getInfo()
        except DriverError as error:
            # The options are right; the problem is on the host.
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
            "CPU": option_checks.cpus_of_host(
                choices.cpus, host=processors, default=options.DEFAULT_CPUS, most=options.MOST_CPUS
            ),
            "Memory": choices.memory_mib,
            "DiskSize": choices.disk_mb,
            "StoragePool": choices.pool,
            "DiskVolume": volumes.disk_name(machine.name, str(machine_id)),
            "MachineType": choices.machine_type,
            "CPUMode": choices.cpu_mode,
            "Accelerator": choices.accelerator,
            "XMLPatches": list(choices.patches),
            "NoASLR": choices.no_aslr,
            "Autostart": choices.autostart,
            "Boot2DockerURL": choices.image,
            "Arch": _DEBIAN.get(model, "amd64"),
        }

    def image_request(self) -> ImageRequest:
        """Return the chosen image, for the architecture of libvirt's host."""
        return ImageRequest(source=str(self.config.get("Boot2DockerURL", "")), architecture=self._architecture)

    def location(self) -> str:
        """Return the host's name in config.toml, else its address, or "" for this host."""
        from pymachine_driver_libvirt import hosts  # noqa: PLC0415

        return str(self.config.get("Host") or hosts.address(self._uri))

    def precreate_check(self) -> None:
        """Check the connection, that the name is free, the space in the pool, and the address and ports."""
        from pymachine.driver.kit.machine_files import FIRST_NEED  # noqa: PLC0415
        from pymachine_driver_libvirt import volumes  # noqa: PLC0415

        connection = self._connect()
        self._check_name(connection)
        volumes.check_pool(connection, self._pool_name, may_make=bool(self._default_pool_path()), need=FIRST_NEED)
        self._check_listen_address(connection)

    def create(self, request: BootRequest) -> None:
        """Create the volumes, the reservation and the domain; return once the guest runs with its identity."""
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
            # From now on, a domain uses the set. Before, its uploader may have removed it: then upload it again.
            found = volumes.find_set(pool, request.image.digest)
            if found is not None and found.name == image.name:
                break
        self._boot(connection, request)

    def start(self, request: BootRequest) -> None:
        """Start the machine's domain, or resume it if it is paused or saved."""
        from pymachine_driver_libvirt import state  # noqa: PLC0415

        connection = self._connect()
        domain = self._own_domain(connection)
        current = state.of(domain)
        if current is State.PAUSED and domain is not None:
            with libvirts.wrap_errors("cannot resume the machine"):
                domain.resume()
            return
        if current is State.ERROR and domain is not None:
            # It crashed, and libvirt kept it for inspection.
            state.switch_off(domain)
        elif current not in {State.STOPPED, State.SAVED}:
            raise DriverError(f"{self.machine.name} already has a running domain; it is {current.word}")
        if current is not State.SAVED:
            self._prepare_start(connection, domain)
        self._boot(connection, request, resumed=current is State.SAVED)

    def stop(self, timeout: float) -> None:
        """Press the machine's power button; switch it off after `timeout` seconds."""
        from pymachine.driver.kit.system import Deadline  # noqa: PLC0415
        from pymachine_driver_libvirt import guest, state  # noqa: PLC0415

        connection = self._connect()
        domain = self._own_domain(connection)
        current = state.of(domain)
        if domain is None or current in {State.STOPPED, State.SAVED}:
            return
        if current is State.PAUSED:
            # A paused guest does not notice the power button.
            with libvirts.wrap_errors("cannot resume the machine"):
                domain.resume()
        if not guest.power_down(connection, domain, Deadline(timeout)):
            self.reporter.warn(f"The guest did not shut down within {timeout:g} seconds. Switching the machine off.")
            self.kill()

    def kill(self) -> None:
        """Switch the machine off ("destroy" in libvirt's terms)."""
        from pymachine_driver_libvirt import state  # noqa: PLC0415

        domain = self._own_domain(self._connect())
        if domain is not None:
            state.switch_off(domain)

    def remove(self) -> None:
        """Remove the machine's domain, volumes and reservation, and the image if no other machine uses it."""
        from pymachine_driver_libvirt import network, state, volumes  # noqa: PLC0415

        connection = self._connect()
        domain = self._own_domain(connection)
        sets = {str(each.get("ImageSet", "")) for each in (self.config, self.config.get("PreviousImage", {}))}
        if domain is not None:
            with libvirts.wrap_errors("cannot read the machine's domain"):
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
            self.reporter.warn(f"Storage pool {self._pool_name} is gone: the machine's volumes cannot be removed.")
        if not self._listen_address.is_forwarded:
            network.release(
                connection, self._listen_address.network, str(self.config["MACAddress"]), machine_id=self._id
            )
        # Last: as long as the domain exists, it shows other processes that the image is in use.
        if domain is not None:
            state.undefine(domain)

    def state(self) -> State:
        """Return the state of the machine's domain."""
        from pymachine_driver_libvirt import state  # noqa: PLC0415

        return state.of(state.find(self._connect(), self._id))

    def endpoint(self) -> Endpoint:
        """Return the address that `configure` chose."""
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

    def host_loopback(self) -> str:
        """Return the gateway of QEMU's user network, if the machine has one on this host."""
        from pymachine_driver_libvirt import hosts  # noqa: PLC0415

        return "10.0.2.2" if self._listen_address.is_forwarded and hosts.is_local(self._uri) else ""

    def _check_ports(self) -> None:
        """In user networking on this host, raise `NetworkError` if another program listens at the machine's ports."""
        from pymachine.driver.kit import listen_address  # noqa: PLC0415
        from pymachine_driver_libvirt import hosts, network  # noqa: PLC0415

        listen = self._listen_address
        ports = (listen.docker_port, listen.ssh_port) if listen.is_forwarded and hosts.is_local(self._uri) else ()
        for port in ports:
            if not listen_address.is_free(listen.address, port):
                raise network.NetworkError(
                    f"{listen.address}:{port} is in use by another program",
                    hint=f"Find it: ss -ltnp 'sport = :{port}'",
                )

    def _make(self, connection: Connection, pool: Any, image: ImageSet, request: BootRequest) -> None:
        """Create the machine's lasting parts: the disk, the reservation, the domain."""
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
        """Restore a lost reservation or domain, and define the domain again if the accelerator changed."""
        from pymachine_driver_libvirt import define, volumes  # noqa: PLC0415

        self._check_ports()
        pool = volumes.ready_pool(connection, self._pool_name, make_at="", reporter=self.reporter)
        image = volumes.set_paths(pool, str(self.config.get("ImageSet", "")))
        disk = volumes.path_of(pool, self._disk_name)
        self._reserve(connection)
        accelerator = self._choose_accelerator(connection, image)
        if domain is None:
            self._check_name(connection)
            self.reporter.warn("The domain was removed from libvirt. Defining it again, as it was created.")
        elif accelerator != self.config.get("AcceleratorInUse"):
            self.reporter.info(f"Defining the domain again, for {accelerator}.")
        else:
            if self._listen_address.is_forwarded:
                define.add_containers_port(domain)
            return
        self.config["AcceleratorInUse"] = accelerator
        self._define(connection, image, disk)

    def _boot(self, connection: Connection, request: BootRequest, *, resumed: bool = False) -> None:
        """Start the domain and send the guest its identity. On failure, switch it off.

        A domain that is `resumed` from a saved state keeps running on failure, since its memory exists only there.
        """
        from pymachine.driver.kit import crashes  # noqa: PLC0415

        domain = self._own_domain(connection)
        if domain is None:
            raise DriverError(f"the domain of {self.machine.name} is gone from libvirt")
        if resumed:
            self._boot_domain(connection, domain, request, resumed=True)
            return
        with crashes.ended_on_failure(self.kill):
            crashes.retry_once(
                lambda: self._boot_domain(connection, domain, request, resumed=False), reporter=self.reporter
            )

    def _boot_domain(self, connection: Connection, domain: Domain, request: BootRequest, *, resumed: bool) -> None:
        from pymachine.driver.kit.system import Deadline  # noqa: PLC0415

        deadline = Deadline(request.timeout)
        began = time.monotonic()
        with libvirts.wrap_errors("cannot start the machine's domain"):
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
            error.hint = error.hint or f"See the console log, {console}."
            if isinstance(error, GuestEndedError) and state.has_crashed(domain):
                raise CrashedError("the machine's QEMU crashed", details=error.details) from error
            raise

    def forwarded_ports(self) -> Sequence[ForwardedPort]:
        """Return the ports that the port forwarder forwards; none outside user networking."""
        from pymachine.driver.kit import forwarded_ports  # noqa: PLC0415

        return forwarded_ports.load(self.machine.directory)

    def _watch_ports(self) -> None:
        """In user networking, start the port forwarder."""
        from pymachine_driver_libvirt import ports  # noqa: PLC0415

        forwards = self._listen_address.forwards(self._uri)
        if forwards is not None:
            ports.start(self.machine.directory.absolute(), uri=self._uri, machine_id=self._id, forwards=forwards)
