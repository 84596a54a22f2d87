"""What all of the driver stands on: the machine's configuration in libvirt's terms, and the steps that several need."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from pymachine.driver.contract import BootRequest, Driver
from pymachine.driver.errors import DriverError
from pymachine.driver.names import host_name
from pymachine_driver_libvirt import connection as libvirts, options

if TYPE_CHECKING:
    from pymachine_driver_libvirt.connection import Connection, Domain
    from pymachine_driver_libvirt.listen_address import ListenAddress
    from pymachine_driver_libvirt.volumes import ImageSet


class NameTakenError(DriverError):
    """Another domain has the machine's name."""

    code = "libvirt-name-taken"


class ForeignDomainError(DriverError):
    """The domain that the record names is not the machine's: it has another mark, or none."""

    code = "libvirt-foreign"


class Base(Driver):
    """A machine and its libvirt."""

    @property
    def _uri(self) -> str:
        return str(self.config.get("ConnectionURI") or options.DEFAULT_URI)

    @property
    def _id(self) -> str:
        return str(self.config["MachineID"])

    @property
    def _pool_name(self) -> str:
        return str(self.config.get("StoragePool") or options.DEFAULT_POOL)

    @property
    def _disk_name(self) -> str:
        """The volume keeps its name when the machine is renamed: volumes cannot be."""
        from pymachine_driver_libvirt import volumes  # noqa: PLC0415

        name = str(self.config.get("DiskVolume") or volumes.disk_name(self.machine.name, self._id))
        if not name.endswith(volumes.disk_name("", self._id)) or "/" in name:
            # It is removed with the machine, and replaced by `create`: it must not be another one's.
            raise DriverError(f"the volume {name!r} in the record is not that of the machine {self._id}")
        return name

    @property
    def _architecture(self) -> str:
        return str(self.config.get("Arch") or "amd64")

    @property
    def _listen_address(self) -> ListenAddress:
        from pymachine_driver_libvirt import listen_address  # noqa: PLC0415

        return listen_address.of(self.config)

    def _identity(self, request: BootRequest) -> bytes:
        """Return what the guest is sent: with this host's search domains where it resolves names as this host does."""
        from pymachine.driver.kit import search_domains  # noqa: PLC0415
        from pymachine_driver_libvirt import hosts  # noqa: PLC0415

        if self._listen_address.is_forwarded and hosts.is_local(self._uri):
            return search_domains.identity(request, self.endpoint())
        return request.identity(self.endpoint())

    def _connect(self) -> Connection:
        """The host's name goes before the URI in the record: the user may have moved the host since."""
        from pymachine_driver_libvirt import hosts  # noqa: PLC0415

        host = str(self.config.get("Host") or "")
        if host:
            with suppress(hosts.HostsError):
                self.config["ConnectionURI"] = hosts.resolve(host, self.machine.store)[1]
        return libvirts.connect(self._uri)

    def _default_pool_path(self) -> str:
        """Where the pool may be made if it is missing; empty if it may not."""
        from pymachine_driver_libvirt import hosts, volumes  # noqa: PLC0415

        session = hosts.is_session(self._uri)
        if self._pool_name != options.DEFAULT_POOL or (session and not hosts.is_local(self._uri)):
            return ""
        return volumes.default_pool_path(session=session)

    def _own_domain(self, connection: Connection, *, formerly: str = "") -> Domain | None:
        """Return the machine's domain, or None. `formerly` is another name that the machine had.

        Raises `ForeignDomainError` for a domain without the machine's mark: a record may name any domain.
        """
        from pymachine_driver_libvirt import domain as domains, state  # noqa: PLC0415

        domain = state.find(connection, self._id)
        if domain is None:
            return None
        with libvirts.doing("cannot read the machine's domain"):
            # The configuration of a domain that runs is apart from it, and is what `virsh metadata --config` changes.
            xml = domain.XMLDesc(libvirts.library().VIR_DOMAIN_XML_INACTIVE)
            name, found = domain.name(), domains.marked_name(xml)
        if found and found in {self.machine.name, formerly}:
            return domain
        whose = f'it belongs to the machine "{found}"' if found else "pymachine did not make it"
        raise ForeignDomainError(
            f'the domain {name} ({self._id}), which the record of "{self.machine.name}" names, is not its own: {whose}',
            hint=f"Look at it: virsh -c '{self._uri}' dumpxml {self._id}\n"
            f"To remove only what is in the store: pymachine rm -f {self.machine.name}\n"
            f"If it is this machine's all the same, mark it: virsh -c '{self._uri}' metadata {self._id} --config "
            f"--uri {domains.NAMESPACE} --key pymachine --set '<machine><name>{self.machine.name}</name></machine>'",
        )

    def _check_name(self, connection: Connection) -> None:
        libvirt = libvirts.library()
        try:
            other = connection.lookupByName(self.machine.name)
        except libvirt.libvirtError as error:
            if libvirts.is_error(error, "NO_DOMAIN"):
                return
            raise libvirts.LibvirtError(f"cannot look for a domain of that name: {libvirts.message(error)}") from error
        if other.UUIDString() == self._id:
            return
        from pymachine_driver_libvirt import patch  # noqa: PLC0415

        description = patch.parse(other.XMLDesc()).findtext("description", "")
        raise NameTakenError(
            f"libvirt at {self._uri} has a domain called {self.machine.name} already, which is not this machine's",
            details=description,
            hint="Choose another name for the machine.",
        )

    def _choose_accelerator(self, connection: Connection, image: ImageSet) -> str:
        from pymachine_driver_libvirt import accelerator  # noqa: PLC0415

        trial = accelerator.Trial(
            connection=connection,
            uri=self._uri,
            architecture=self._architecture,
            image=image,
            digest=str(self.config.get("ImageDigest", "")),
            store=self.machine.store,
        )
        return accelerator.choose(str(self.config.get("Accelerator", "auto")), trial, reporter=self.reporter)

    def _reserve(self, connection: Connection) -> None:
        from pymachine_driver_libvirt import network  # noqa: PLC0415

        listen = self._listen_address
        if not listen.is_forwarded:
            wanted = network.Reservation(str(self.config["MACAddress"]), listen.address, host_name(self.machine.name))
            network.reserve(connection, listen.network, wanted)

    def _define(self, connection: Connection, image: ImageSet, disk: str) -> None:
        from pymachine_driver_libvirt import define  # noqa: PLC0415

        xml = define.xml(self.machine, self.config, self._listen_address, image, disk, uri=self._uri)
        libvirt = libvirts.library()
        with libvirts.doing("libvirt does not take the machine's domain"):
            domain = connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
            if self.config.get("Autostart"):
                domain.setAutostart(1)
