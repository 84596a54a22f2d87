"""The driver's optional abilities: changing, renaming and upgrading a machine.

Users' changes to the domain (`virsh edit`) are kept: each operation changes only its own part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from pymachine.driver.abilities import HardwareChange
from pymachine.driver.contract import BootRequest, ImageFiles, MachineRef, State
from pymachine.driver.errors import DriverError, HostNotRunningError
from pymachine.driver.shares import Share
from pymachine_driver_libvirt import connection as libvirts
from pymachine_driver_libvirt.base import Base

if TYPE_CHECKING:
    from pymachine_driver_libvirt.connection import Connection, Domain

CONSOLE_LOG = "console.log"
_IMAGE_KEYS = ("ImageDigest", "KernelCommandLine", "ImageSet")


class ModifiableMachine(Base):
    """The optional abilities of `LibvirtDriver`."""

    def apply_identity(self, request: BootRequest) -> None:
        """Send the running guest its identity."""
        from pymachine.driver.kit.system import Deadline  # noqa: PLC0415
        from pymachine_driver_libvirt import guest, state  # noqa: PLC0415

        connection = self._connect()
        domain = self._own_domain(connection)
        if state.of(domain) is not State.RUNNING:
            raise HostNotRunningError(name=self.machine.name)
        with self.reporter.task("Waiting for the machine to apply its new identity") as task:
            guest.deliver(
                connection,
                domain,
                self._identity(request),
                console=self.console_log(),
                deadline=Deadline(request.timeout),
                task=task,
                timings={},
                resumed=True,
            )

    def check_shares(self, shares: Sequence[Share]) -> None:
        """Accept all folders: they are no devices of the domain, so there is no limit of their number."""

    def shares_over_ssh(self) -> bool:
        """Return true: neither 9p nor virtiofs, as libvirt sets them up, keeps owners as `Shareable` requires.

        In a domain of `qemu:///session`, `chown` fails with 9p, and the guest can make files setuid.
        `qemu:///system` runs QEMU as another user, who could not read the folders. See the driver's reference.
        """
        return True

    def resize(self, change: HardwareChange) -> None:
        """Change the domain and the volume. The disk's file system grows at the guest's next boot."""
        from pymachine.driver.kit.machine_files import MEBIBYTE  # noqa: PLC0415
        from pymachine_driver_libvirt import options  # noqa: PLC0415

        changed = options.changed_hardware(self.config, change)
        connection = self._connect()
        domain = self._domain(connection)
        libvirt = libvirts.library()
        with libvirts.wrap_errors("cannot change the machine's hardware"):
            if change.cpus is not None:
                domain.setVcpusFlags(changed["CPU"], libvirt.VIR_DOMAIN_AFFECT_CONFIG | libvirt.VIR_DOMAIN_VCPU_MAXIMUM)
                domain.setVcpusFlags(changed["CPU"], libvirt.VIR_DOMAIN_AFFECT_CONFIG)
            if change.memory_mib is not None:
                kibibytes = changed["Memory"] * 1024
                domain.setMemoryFlags(kibibytes, libvirt.VIR_DOMAIN_AFFECT_CONFIG | libvirt.VIR_DOMAIN_MEM_MAXIMUM)
                domain.setMemoryFlags(kibibytes, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
            if change.disk_mb is not None:
                pool = connection.storagePoolLookupByName(self._pool_name)
                pool.storageVolLookupByName(self._disk_name).resize(changed["DiskSize"] * MEBIBYTE)
        self.config.update(changed)

    def renamed(self, before: MachineRef) -> None:
        """Rename the domain, and update its description, its mark and its name in the network."""
        from pymachine_driver_libvirt import define, network  # noqa: PLC0415

        connection = self._connect()
        self._check_name(connection)
        domain = self._domain(connection, formerly=before.name)
        with ExitStack() as undo, libvirts.wrap_errors("cannot rename the machine's domain"):
            if domain.name() != self.machine.name:  # an earlier rename that was killed may have got this far
                domain.rename(self.machine.name, 0)
            undo.callback(domain.rename, before.name, 0)
            undo.callback(define.describe, domain, before)
            define.describe(domain, self.machine)
            if not self._listen_address.is_forwarded:
                mac = str(self.config["MACAddress"])
                network.release(connection, self._listen_address.network, mac, machine_id=self._id)
                self._reserve(connection)
            undo.pop_all()

    def image_digest(self) -> str:
        """Return the digest recorded by `create` or the last upgrade."""
        return str(self.config.get("ImageDigest", ""))

    def swap_image(self, image: ImageFiles) -> None:
        """Make the domain boot the new image; the old one stays in the pool."""
        from pymachine_driver_libvirt import volumes  # noqa: PLC0415

        connection = self._connect()
        pool = volumes.ready_pool(connection, self._pool_name, make_at="", reporter=self.reporter)
        found = volumes.find_set(pool, image.digest) or volumes.bring_image(
            connection, pool, image, volumes.set_name(image.digest, self._id), reporter=self.reporter
        )
        previous = {key: self.config.get(key, "") for key in _IMAGE_KEYS}
        following = {
            "ImageDigest": image.digest,
            "KernelCommandLine": image.command_line,
            "ImageSet": found.name,
        }
        self.config["PreviousImage"] = previous
        self._boot_from(connection, previous, following)

    def commit_image(self) -> None:
        """Remove the volumes of the image that was kept, unless another machine uses them."""
        connection = self._connect()
        previous = self.config.pop("PreviousImage", {})
        if previous:
            self._drop_image(connection, previous)

    def rollback_image(self) -> None:
        """Boot from the image that was kept, and remove the volumes of the new one."""
        connection = self._connect()
        previous = self.config.pop("PreviousImage", {})
        if previous:
            new = {key: self.config.get(key, "") for key in _IMAGE_KEYS}
            self._boot_from(connection, new, previous)
            self._drop_image(connection, new)

    def _drop_image(self, connection: Connection, image: Mapping[str, str]) -> None:
        from pymachine_driver_libvirt import volumes  # noqa: PLC0415

        pool = volumes.ready_pool(connection, self._pool_name, make_at="", reporter=self.reporter)
        volumes.remove_set(connection, pool, str(image["ImageSet"]), but_for=self._id)

    def console_log(self) -> Path:
        """Return the path of the console log, which records the console during each start."""
        return self.machine.directory / CONSOLE_LOG

    def _domain(self, connection: Connection, *, formerly: str = "") -> Domain:
        domain = self._own_domain(connection, formerly=formerly)
        if domain is None:
            raise DriverError(
                f"the domain of {self.machine.name} is gone from libvirt",
                hint=f"Starting the machine defines it again: pymachine start {self.machine.name}",
            )
        return domain

    def _boot_from(self, connection: Connection, old: dict[str, str], new: dict[str, str]) -> None:
        """Change the image that the domain boots. All of an image's paths contain the name of its set."""
        from pymachine_driver_libvirt import define  # noqa: PLC0415

        libvirt = libvirts.library()
        lines = [escape(define.command_line(self.config, str(each["KernelCommandLine"]))) for each in (old, new)]
        with libvirts.wrap_errors("cannot change the image of the machine's domain"):
            xml = self._domain(connection).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
            changed = xml.replace(str(old["ImageSet"]), str(new["ImageSet"])).replace(lines[0], lines[1])
            connection.defineXML(changed)
        self.config.update(new)
