"""The driver's main class: each operation on a machine, in terms of the other modules.

Commands that only read (`status`, `ls`, `ip`) load this module too, so modules for `create` and `start` are imported
where they are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

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
    """A VirtualBox machine with two networks: NAT to the outside, and a host-only network to the host."""

    config_fields = options.FIELDS
    info: ClassVar[DriverInfo] = DriverInfo(
        "virtualbox",
        "VirtualBox machines, including those of docker-machine",
        Trait.IDENTITY | Trait.FIXED_ADDRESS,
        variables=("VBOX_USER_HOME", "PYMACHINE_VBOXMANAGE_TIMEOUT"),
    )

    @classmethod
    def options(cls) -> Sequence[Option]:
        """Return the driver's options."""
        return options.OPTIONS

    @classmethod
    def health(cls) -> Health:
        """Report whether VirtualBox is installed and can run 64-bit guests."""
        from pymachine_driver_virtualbox import checks  # noqa: PLC0415

        return checks.health()

    @classmethod
    def configure(cls, machine: MachineRef, values: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
        """Check the options; choose a UUID, a MAC address, an IP address and an SSH port for the machine."""
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
        """Return the chosen image; by default, one is built."""
        return ImageRequest(source=str(self.config.get("Boot2DockerURL", "")), architecture="amd64")

    def precreate_check(self) -> None:
        """Check for disk space, for 64-bit guests, and that the host-only network can be created."""
        from pymachine.driver.kit import machine_files  # noqa: PLC0415
        from pymachine_driver_virtualbox import checks  # noqa: PLC0415

        machine_files.check_space(self.machine.directory)
        checks.before_create(self.vbox(), self.config, reporter=self.reporter)

    def create(self, request: BootRequest) -> None:
        """Create the machine in VirtualBox and start it; return once the guest's SSH answers."""
        from pymachine_driver_virtualbox import boot, vm  # noqa: PLC0415

        if request.image is None:
            raise DriverError("the virtualbox driver needs an image to create a machine")
        vbox = self.vbox()
        # First of all: whatever follows needs the network, which may have to be created.
        interface = boot.host_network(vbox, self.config)
        boot.check_address(self.config)
        vm.make(self, vbox, request)
        boot.start_machine(self, vbox, request, interface=interface)

    def start(self, request: BootRequest) -> None:
        """Start a machine that is off, saved or paused."""
        from pymachine_driver_virtualbox import boot, files, machine, shared_folders  # noqa: PLC0415

        refuse_links(self.machine.directory, (files.ISO, files.DISK, files.CONSOLE))
        vbox = self.vbox()
        info = vbox.info(self.vm)
        state = output.state(info)
        if state is State.STOPPED:
            shared_folders.update(vbox, self.vm, info, request.shares)
            # VirtualBox may be newer than the machine.
            if vbox.traits.hides_loopback:
                vbox(*machine.reach_loopback(self.vm))
        elif state in {State.PAUSED, State.SAVED}:
            shared_folders.check_resumable(
                self.machine.name,
                shared_folders.existing(info),
                request.shares,
                what="its memory",
                hint=f"To discard the memory and start again: pymachine kill {self.machine.name}",
                reporter=self.reporter,
            )
        if state is State.PAUSED:
            self.reporter.info("Resuming VM ...")
            vbox("controlvm", self.vm, "resume")
        elif state in {State.STOPPED, State.SAVED}:
            boot.start_machine(self, vbox, request, saved=state is State.SAVED)
        else:
            raise DriverError(f"{self.machine.name} cannot be started: it is {state.word.lower()}")

    def stop(self, timeout: float) -> None:
        """Press the machine's power button; switch it off after `timeout` seconds."""
        from pymachine_driver_virtualbox import power  # noqa: PLC0415

        power.down(self.vbox(), self.vm, timeout=timeout, front_end=self.front_end, reporter=self.reporter)

    def kill(self) -> None:
        """Switch the machine off. A saved machine loses its memory."""
        from pymachine_driver_virtualbox import power  # noqa: PLC0415

        power.off(self.vbox(), self.vm)

    def remove(self) -> None:
        """Remove the machine and its files from VirtualBox. Succeed if it is gone already."""
        from pymachine_driver_virtualbox import files, vm  # noqa: PLC0415

        try:
            vbox = self.vbox()
        except NotInstalledError:
            if not self.is_unregistered:
                raise
            return  # without VirtualBox, nothing was created
        vm.remove(vbox, self.vm, files.of(self.machine.directory))
        self.config.pop("Made", None)

    def state(self) -> State:
        """Return the machine's state. A machine that was never created, or was removed, counts as stopped."""
        try:
            return output.state(self.vbox().info(self.vm))
        except VmNotFoundError:
            if self.is_unregistered:
                return State.STOPPED
            raise

    def endpoint(self) -> Endpoint:
        """Return the address that `configure` chose, or the current DHCP address if docker-machine created it."""
        address = str(self.config.get("IPAddress", "")) if self.config.get("FixedAddress") else self._leased_address()
        return Endpoint(
            address,
            ssh_host=SSH_HOST,
            ssh_port=int(self.config.get("SSHPort") or 22),
            ssh_user=str(self.config.get("SSHUser") or SSH_USER),
        )

    def host_loopback(self) -> str:
        """Return the router of VirtualBox's NAT, which reaches the host's loopback: see `machine.reach_loopback`."""
        return "10.0.2.2"

    def peer_network(self) -> str:
        """Return the host-only network, or "" for a machine of docker-machine, which has its address by DHCP."""
        from pymachine_driver_virtualbox import boot  # noqa: PLC0415

        if not self.config.get("FixedAddress"):
            return ""
        return str(options.cidr(str(self.config.get("HostOnlyCIDR") or boot.OLD_CIDR)).network)

    def _leased_address(self) -> str:
        from pymachine_driver_virtualbox import leases  # noqa: PLC0415

        vbox = self.vbox()
        info = vbox.info(self.vm)
        if output.state(info) is not State.RUNNING:
            raise HostNotRunningError(name=self.machine.name)
        return leases.address(vbox, self.vm, info, self.config, key=self.machine.ssh_key)
