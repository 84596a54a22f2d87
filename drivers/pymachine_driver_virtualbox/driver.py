"""The driver: a machine's life in terms of the other modules.

Loaded by reading commands too (`status`, `ls`, `ip`), so that what only `create` and `start` need is imported there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

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
    refuse_links,
)
from pymachine.driver.errors import DriverError, HostNotRunningError
from pymachine.driver.options import Option
from pymachine_driver_virtualbox import options, output
from pymachine_driver_virtualbox.errors import NotInstalledError, VmNotFoundError
from pymachine_driver_virtualbox.modify import ModifiableMachine

SSH_USER = "docker"
SSH_HOST = "127.0.0.1"


class VirtualBoxDriver(ModifiableMachine):
    """One machine is one VirtualBox machine: NAT for the world, a host-only network for the host."""

    config_fields = options.FIELDS
    info: ClassVar[DriverInfo] = DriverInfo(
        "virtualbox",
        "VirtualBox machines, docker-machine's own among them",
        Capability.IMAGE | Capability.IDENTITY | Capability.FIXED_ADDRESS,
    )

    @classmethod
    def options(cls) -> Sequence[Option]:
        """The flags; see `pymachine_driver_virtualbox.options`."""
        return options.OPTIONS

    @classmethod
    def health(cls) -> Health:
        """Whether there is a VirtualBox here that can run 64-bit guests."""
        from pymachine_driver_virtualbox import checks  # noqa: PLC0415

        return checks.health()

    @classmethod
    def configure(cls, machine: MachineRef, values: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
        """Check the flags; choose a UUID, a MAC address and addresses for the machine."""
        choices = options.check(values)
        return {
            **options.own(machine, {"HostOnlyCIDR": str(choices.host_only)}, siblings),
            "SSHUser": SSH_USER,
            "CPU": choices.cpus,
            "Memory": choices.memory_mib,
            "DiskSize": choices.disk_mb,
            "NatNicType": choices.nat_nic_type,
            "Boot2DockerURL": choices.image,
            "Boot2DockerImportVM": choices.import_vm,
            "HostDNSResolver": bool(values["virtualbox-host-dns-resolver"]),
            "HostOnlyCIDR": str(choices.host_only),
            "HostOnlyNicType": choices.host_only_nic_type,
            "HostOnlyPromiscMode": choices.promiscuous,
            "UIType": choices.front_end,
            "HostOnlyNoDHCP": bool(values["virtualbox-hostonly-no-dhcp"]),
            "NoShare": bool(values["virtualbox-no-share"]),
            "DNSProxy": not values["virtualbox-no-dns-proxy"],
            "NoVTXCheck": bool(values["virtualbox-no-vtx-check"]),
            "ShareFolder": choices.share_folder,
        }

    def image_request(self) -> ImageRequest:
        """The image that was asked for."""
        return ImageRequest(source=str(self.config.get("Boot2DockerURL", "")), architecture="amd64")

    def precreate_check(self) -> None:
        """A VirtualBox that can run 64-bit guests, a host-only network that can be had, room on the disk."""
        from pymachine_driver_virtualbox import checks, files  # noqa: PLC0415

        files.check_space(self.machine.directory)
        checks.before_create(self.vbox(), self.config, reporter=self.reporter)

    def create(self, request: BootRequest) -> None:
        """Make the machine in VirtualBox and start it; returns once the guest's SSH answers."""
        from pymachine_driver_virtualbox import boot, vm  # noqa: PLC0415

        if request.image is None:
            raise DriverError("the virtualbox driver needs an image to create a machine")
        vbox = self.vbox()
        # Before anything that is made for the network: it may have to be made itself.
        interface = boot.host_network(vbox, self.config)
        boot.check_address(self.config)
        vm.make(self, vbox, request)
        boot.up(self, vbox, request, interface=interface)

    def start(self, request: BootRequest) -> None:
        """Bring a machine up that is off, saved or paused."""
        from pymachine_driver_virtualbox import boot, files  # noqa: PLC0415

        refuse_links(self.machine.directory, (files.ISO, files.DISK, files.CONSOLE))
        vbox = self.vbox()
        state = output.state(vbox.info(self.vm))
        if state is State.PAUSED:
            self.reporter.info("Resuming VM ...")
            vbox("controlvm", self.vm, "resume")
        elif state in {State.STOPPED, State.SAVED}:
            boot.up(self, vbox, request, saved=state is State.SAVED)
        else:
            raise DriverError(f"{self.machine.name} cannot be started: it is {state.word.lower()}")

    def stop(self, timeout: float) -> None:
        """Press the power button; after `timeout` seconds, switch off."""
        from pymachine_driver_virtualbox import power  # noqa: PLC0415

        power.down(self.vbox(), self.vm, timeout=timeout, front_end=self.front_end, reporter=self.reporter)

    def kill(self) -> None:
        """Switch off; what a saved machine has in memory is thrown away."""
        from pymachine_driver_virtualbox import power  # noqa: PLC0415

        power.off(self.vbox(), self.vm)

    def remove(self) -> None:
        """Remove the machine from VirtualBox with its files; that it is gone already is success."""
        from pymachine_driver_virtualbox import files, vm  # noqa: PLC0415

        try:
            vbox = self.vbox()
        except NotInstalledError:
            if not self.unmade:
                raise
            return  # nothing can be there
        vm.remove(vbox, self.vm, files.of(self.machine.directory))
        self.config.pop("Made", None)

    def state(self) -> State:
        """What VirtualBox says. A machine that was never made, or was removed, is stopped."""
        try:
            return output.state(self.vbox().info(self.vm))
        except VmNotFoundError:
            if self.unmade:
                return State.STOPPED
            raise

    def endpoint(self) -> Endpoint:
        """The address that `configure` chose; for a machine of docker-machine's, the one it has now."""
        address = str(self.config.get("IPAddress", "")) if self.config.get("FixedAddress") else self._leased_address()
        return Endpoint(
            address,
            ssh_host=SSH_HOST,
            ssh_port=int(self.config.get("SSHPort") or 22),
            ssh_user=str(self.config.get("SSHUser") or SSH_USER),
        )

    def _leased_address(self) -> str:
        from pymachine_driver_virtualbox import leases  # noqa: PLC0415

        vbox = self.vbox()
        info = vbox.info(self.vm)
        if output.state(info) is not State.RUNNING:
            raise HostNotRunningError(name=self.machine.name)
        return leases.address(vbox, self.vm, info, self.config, key=self.machine.ssh_key)
