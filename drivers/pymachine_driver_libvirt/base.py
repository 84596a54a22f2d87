"""The driver's base class: the machine's configuration in libvirt's terms, and steps that several operations share."""

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
    """The domain that the record names belongs to another machine, or not to pymachine."""

    code = "libvirt-foreign"


class Base(Driver):
    """A machine and its connection to libvirt."""

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
        """The name of the data disk's volume. It stays when the machine is renamed: libvirt cannot rename volumes."""
        from pymachine_driver_libvirt import volumes  # noqa: PLC0415

        name = str(self.config.get("DiskVolume") or volumes.disk_name(self.machine.name, self._id))
        if not name.endswith(volumes.disk_name("", self._id)) or "/" in name:
            # The volume is deleted with the machine and replaced by `create`, so it must not be another machine's.
            raise DriverError(f"the volume {name!r} in the record does not belong to the machine {self._id}")
        return name

    @property
    def _architecture(self) -> str:
        return str(self.config.get("Arch") or "amd64")

    @property
    def _listen_address(self) -> ListenAddress:
        from pymachine_driver_libvirt import listen_address  # noqa: PLC0415

        return listen_address.of(self.config)

    def _identity(self, request: BootRequest) -> bytes:
        """Build the identity, with this host's search domains and names if the guest uses this host's resolver."""
        from pymachine.driver.kit import name_resolution  # noqa: PLC0415
        from pymachine_driver_libvirt import hosts  # noqa: PLC0415

        if self._listen_address.is_forwarded and hosts.is_local(self._uri):
            return name_resolution.identity(request, self.endpoint())
        return request.identity(self.endpoint())

    def _connect(self) -> Connection:
        """Connect to libvirt. A host's name takes precedence over the recorded URI, which may have changed since."""
        from pymachine_driver_libvirt import hosts  # noqa: PLC0415

        host = str(self.config.get("Host") or "")
        if host:
            with suppress(hosts.HostsError):
                self.config["ConnectionURI"] = hosts.resolve(host, self.machine.store)[1]
        return libvirts.connect(self._uri)

    def _default_pool_path(self) -> str:
        """Return the path at which to create the pool if it is missing, or "" if it must exist."""
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
        with libvirts.wrap_errors("cannot read the machine's domain"):
            # The persistent configuration, which `virsh metadata --config` changes even while the domain runs.
            xml = domain.XMLDesc(libvirts.library().VIR_DOMAIN_XML_INACTIVE)
            name, found = domain.name(), domains.marked_name(xml)
        if found and found in {self.machine.name, formerly}:
            return domain
        owner = f'it belongs to the machine "{found}"' if found else "pymachine did not create it"
        raise ForeignDomainError(
            f'the record of "{self.machine.name}" names the domain {name} ({self._id}), which is not its own: {owner}',
            hint=f"To inspect it: virsh -c '{self._uri}' dumpxml {self._id}\n"
            f"To remove only the record: pymachine rm -f {self.machine.name}\n"
            f"If it does belong to this machine, mark it: virsh -c '{self._uri}' metadata {self._id} --config "
            f"--uri {domains.NAMESPACE} --key pymachine --set '<machine><name>{self.machine.name}</name></machine>'",
        )

    def _check_name(self, connection: Connection) -> None:
        libvirt = libvirts.library()
        try:
            other = connection.lookupByName(self.machine.name)
        except libvirt.libvirtError as error:
            if libvirts.is_error(error, "NO_DOMAIN"):
                return
            raise libvirts.LibvirtError(f"cannot look up the machine's name: {libvirts.message(error)}") from error
        if other.UUIDString() == self._id:
            return
        from pymachine_driver_libvirt import patch  # noqa: PLC0415

        description = patch.parse(other.XMLDesc()).findtext("description", "")
        raise NameTakenError(
            f"libvirt at {self._uri} already has another domain called {self.machine.name}",
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
        with libvirts.wrap_errors("libvirt rejects the definition of the machine's domain"):
            domain = connection.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
            if self.config.get("Autostart"):
                domain.setAutostart(1)
