"""From a machine's configuration to QEMU's command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pymachine.driver import Json
from pymachine_driver_qemu import command_line, disk, options, process
from pymachine_driver_qemu.address import Place
from pymachine_driver_qemu.binary import Qemu


def argv(
    qemu: Qemu,
    *,
    accelerator: str,
    architecture: str,
    name: str,
    folder: Path,
    sockets: Path,
    place: Place | None,
    config: Mapping[str, Json],
    memory: command_line.Memory | None = None,
    resumed: bool = False,
) -> list[str]:
    """The whole command; `config` is the machine's, perhaps with keys missing that a later version brought."""
    hardware = command_line.Hardware(
        architecture=architecture,
        accelerator=accelerator,
        cpus=int(config.get("CPU", options.DEFAULT_CPUS)),
        memory_mib=int(config.get("Memory", options.DEFAULT_MEMORY_MIB)),
    )
    boot = command_line.Boot(
        kernel=folder / disk.KERNEL,
        initrd=folder / disk.INITRD,
        append=append(architecture, str(config.get("KernelCommandLine", ""))),
    )
    line = command_line.MachineLine(
        name=name,
        machine_id=str(config["MachineID"]),
        mac=str(config["MACAddress"]),
        iso=folder / disk.ISO,
        disk=folder / disk.DISK,
        console=folder / process.CONSOLE_LOG,
        sockets=sockets,
        place=place,
        sandbox=qemu.sandbox,
        memory=memory,
        resumed=resumed,
    )
    return [str(qemu.path), *qemu.arguments, *command_line.machine(hardware, boot, line)]


def append(architecture: str, of_image: str) -> str:
    """The kernel's parameters; `of_image` are those that the image itself needs."""
    words = [
        f"console={command_line.kernel_console(architecture)}",
        "quiet",
        "loglevel=3",
        "pymachine.identity=channel",
        *of_image.split(),
    ]
    return " ".join(words)
