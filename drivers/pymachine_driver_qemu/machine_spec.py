"""A machine's spec, and its translation into QEMU's command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pymachine.driver.contract import Json
from pymachine.driver.kit import kernel_parameters
from pymachine.driver.kit.listen_address import ListenAddress
from pymachine.driver.kit.user_network import Published
from pymachine.driver.shares import Share
from pymachine_driver_qemu import command_line, disk, options, process, shares
from pymachine_driver_qemu.binary import Qemu


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    """A QEMU and a machine's configuration. Keys that a later version added may be missing."""

    qemu: Qemu
    accelerator: str
    architecture: str
    config: Mapping[str, Json]
    shares: Sequence[Share] = ()
    ipv6: bool = False
    has_shares_port: bool = True
    """False for the memory of an older version's snapshot; see `command_line.MachineLine`."""
    published: Sequence[Published] = ()
    """Ports that are forwarded from the start, besides the machine's own."""
    isolated: bool = False
    """Whether the guest reaches no network."""

    def as_machine(self, machine_id: str) -> MachineSpec:
        """Return the same spec with another machine id."""
        return replace(self, config={**self.config, "MachineID": machine_id})

    def as_template(self) -> MachineSpec:
        """Return the spec of the template for this machine, without what only the machine itself has."""
        return replace(self, shares=(), ipv6=False)

    def argv(
        self,
        name: str,
        folder: Path,
        sockets: Path,
        *,
        listen: ListenAddress | None,
        memory: command_line.Memory | None = None,
        resumed: bool = False,
    ) -> list[str]:
        """Return the whole command for a machine whose files are in `folder`."""
        hardware = command_line.Hardware(
            architecture=self.architecture,
            accelerator=self.accelerator,
            cpus=int(self.config.get("CPU", options.DEFAULT_CPUS)),
            memory_mib=int(self.config.get("Memory", options.RECORDED_MEMORY_MIB)),
            tb_mib=int(self.config.get("TBSize", options.DEFAULT_TB_MIB)),
        )
        boot = command_line.Boot(
            kernel=folder / disk.KERNEL,
            initrd=folder / disk.INITRD,
            append=append(
                hardware, str(self.config.get("KernelCommandLine", "")), no_aslr=bool(self.config.get("NoASLR"))
            ),
        )
        data_disk = disk.parts(folder)
        line = command_line.MachineLine(
            name=name,
            machine_id=str(self.config.get("MachineID", "")),
            iso=folder / disk.ISO,
            disk=folder / data_disk[0],
            base=folder / data_disk[1] if len(data_disk) > 1 else None,
            console=folder / process.CONSOLE_LOG,
            sockets=sockets,
            listen=listen,
            ipv6=self.ipv6,
            sandbox=self.qemu.sandbox,
            isolated=self.isolated,
            published=self.published,
            exports=shares.exports(self.shares, sockets) if self.qemu.has_9p else (),
            has_shares_port=self.has_shares_port,
            memory=memory,
            resumed=resumed,
        )
        return [str(self.qemu.path), *self.qemu.arguments, *command_line.machine(hardware, boot, line)]


def append(hardware: command_line.Hardware, of_image: str, *, no_aslr: bool = False) -> str:
    """Return the kernel's parameters; `of_image` are those that the image needs."""
    extra: list[str] = []
    if hardware.accelerator == "tcg":
        # Huge pages do not help the emulator: it flushes all cached addresses when one of them changes. Security
        # modules without a policy are omitted, since the emulator would translate and keep their code.
        extra = ["transparent_hugepage=never", "lsm=lockdown,capability,landlock,yama,apparmor,bpf"]
        extra += kernel_parameters.emulated(no_aslr=no_aslr)
    return kernel_parameters.for_machine(hardware.architecture, of_image, extra=extra)
