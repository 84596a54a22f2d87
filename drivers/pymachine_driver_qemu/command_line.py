"""QEMU's command line, as a pure function of what the machine is.

Each device is written out (``-nodefaults``), so that a machine is the same under every version of QEMU and under
every user's configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver.contract import DOCKER_PORT
from pymachine.driver.kit import identity_channel
from pymachine.driver.kit.listen_address import ListenAddress
from pymachine.driver.names import host_name
from pymachine_driver_qemu import options, runtime

NETDEV = "net"
MEMORY = "ram"
CONTAINERS = "containers"
GUEST_SSH_PORT = 22

# The same for all, each of which is alone in its network: a guest that was resumed still has its template's, and with
# another one after a restart QEMU would give it another address than the one that its forwards lead to.
_MAC = "52:54:00:12:34:56"
_CONSOLES = {"amd64": "ttyS0", "arm64": "ttyAMA0"}


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The machine's spec, as far as it decides how a kernel boots; the accelerator's trial uses it too."""

    architecture: str
    """Debian's word."""
    accelerator: str
    cpus: int
    memory_mib: int
    tb_mib: int = options.DEFAULT_TB_MIB
    """What translated code may take; it matters in software emulation only."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Where the memory of a machine is that comes from a template in the end."""

    path: Path | None = None
    """The file that it is in; None: anonymous memory, in a machine that is otherwise as if it were in a file."""
    shared: bool = False
    """Whether the machine writes to the file, as a template does; a clone only reads it, and keeps what it changes."""


@dataclass(frozen=True, kw_only=True)
class Boot:
    """What is booted."""

    kernel: Path
    initrd: Path
    append: str


@dataclass(frozen=True, kw_only=True)
class MachineLine:
    """All that a machine's command line says beyond its hardware and what it boots."""

    name: str
    machine_id: str
    iso: Path
    disk: Path
    console: Path
    sockets: Path
    listen: ListenAddress | None
    """Where it is reached; None for a machine that is not."""
    sandbox: bool
    memory: Memory | None = None
    resumed: bool = False
    """Whether it waits for a state instead of booting."""


def machine(hardware: Hardware, boot: Boot, line: MachineLine) -> list[str]:
    """The arguments, without the program, of a machine that runs."""
    return [
        *("-name", f"guest={escape(line.name)},process=pymachine-{line.machine_id[:8]}"),
        *("-uuid", line.machine_id),
        *_spec(hardware, line.memory),
        *_boot(boot),
        *_storage(line),
        *_network(line),
        *_channels(line),
        *_helpers(hardware.architecture, line.memory),
        *(_SANDBOX if line.sandbox else ()),
        *(("-incoming", "defer") if line.resumed else ()),
    ]


def trial(hardware: Hardware, boot: Boot, *, console: Path) -> list[str]:
    """The arguments of a machine that only boots a kernel, says on `console` how far it got, and ends at a reset."""
    return [
        *_spec(hardware),
        *_boot(boot),
        *("-serial", f"file:{escape(str(console))}"),
        "-no-reboot",
    ]


def kernel_console(architecture: str) -> str:
    """The kernel's name for the first serial port."""
    return _CONSOLES[architecture]


def escape(value: str) -> str:
    """`value` for use inside a comma-separated option."""
    return value.replace(",", ",,")


def _spec(hardware: Hardware, memory: Memory | None = None) -> list[str]:
    spec = "q35,vmport=off" if hardware.architecture == "amd64" else "virt"
    if memory:
        spec += f",memory-backend={MEMORY}"
    software = f"tcg,thread=multi,tb-size={hardware.tb_mib}"
    accelerator = software if hardware.accelerator == "tcg" else hardware.accelerator
    return [
        *("-machine", spec),
        *("-accel", accelerator),
        *("-cpu", _cpu_model(hardware)),
        *("-smp", str(hardware.cpus)),
        *("-m", f"{hardware.memory_mib}M"),
        *(_memory(memory, hardware.memory_mib) if memory else ()),
        "-nodefaults",
        "-no-user-config",
        *("-display", "none"),
    ]


def _memory(memory: Memory, size_mib: int) -> list[str]:
    if memory.path is None:
        return ["-object", f"memory-backend-ram,id={MEMORY},size={size_mib}M"]
    share = "on" if memory.shared else "off"
    backing = f"mem-path={escape(str(memory.path))},share={share}"
    return ["-object", f"memory-backend-file,id={MEMORY},size={size_mib}M,{backing}"]


def _cpu_model(hardware: Hardware) -> str:
    if hardware.accelerator != "tcg":
        return "host"
    # Page tables of five levels, and signing pointers as the architecture says, only cost an emulator time.
    return "max,la57=off" if hardware.architecture == "amd64" else "max,pauth-impdef=on"


def _boot(boot: Boot) -> list[str]:
    return ["-kernel", str(boot.kernel), "-initrd", str(boot.initrd), "-append", boot.append]


def _storage(line: MachineLine) -> Sequence[str]:
    """The image first (the guest's vda), the data disk second (vdb); what the guest discards is freed on the host."""
    return [
        *("-drive", f"if=none,id=iso,file={escape(str(line.iso))},format=raw,readonly=on"),
        *("-device", "virtio-blk-pci,drive=iso"),
        *("-drive", f"if=none,id=disk,file={escape(str(line.disk))},format=raw,discard=unmap"),
        *("-device", "virtio-blk-pci,drive=disk"),
    ]


def _network(line: MachineLine) -> Sequence[str]:
    # With IPv6 the guest would wait for an address that most hosts cannot route.
    words = ["user", f"id={NETDEV}", "ipv6=off", f"hostname={host_name(line.name)}"]
    if line.listen:
        words += [
            f"hostfwd=tcp:{line.listen.address}:{line.listen.docker_port}-:{DOCKER_PORT}",
            f"hostfwd=tcp:{line.listen.address}:{line.listen.ssh_port}-:{GUEST_SSH_PORT}",
        ]
    return [
        *("-netdev", ",".join(words)),
        # No boot ROM: nothing is booted from the network, and not every build of QEMU has the file.
        *("-device", f"virtio-net-pci,netdev={NETDEV},mac={_MAC},romfile="),
    ]


def _channels(line: MachineLine) -> Sequence[str]:
    """Two monitors, since each serves one client at a time; the console's log; the identity's way in; news out."""
    control, ports, identity, containers = (
        escape(str(line.sockets / name))
        for name in (runtime.CONTROL, runtime.PORTS, runtime.IDENTITY, runtime.CONTAINERS)
    )
    return [
        *("-qmp", f"unix:{control},server=on,wait=off"),
        *("-qmp", f"unix:{ports},server=on,wait=off"),
        *("-chardev", f"file,id=console,path={escape(str(line.console))},append=on"),
        *("-serial", "chardev:console"),
        *("-chardev", f"socket,id=identity,path={identity},server=on,wait=off"),
        *("-device", "virtio-serial-pci"),
        *("-device", f"virtserialport,chardev=identity,name={identity_channel.PORT}"),
        *("-chardev", f"socket,id={CONTAINERS},path={containers},server=on,wait=off"),
        *("-device", f"virtserialport,chardev={CONTAINERS},name={identity_channel.CONTAINERS_PORT}"),
    ]


def _helpers(architecture: str, memory: Memory | None) -> Sequence[str]:
    # The guest says which of its pages are free, and the host takes them back. Not where memory is a file: QEMU would
    # punch holes into it, a template's too.
    reporting = "" if memory else "free-page-reporting=on,"
    words = [
        *("-rtc", "base=utc"),
        *("-object", "rng-random,id=random,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=random"),
        *("-device", f"virtio-balloon-pci,{reporting}deflate-on-oom=on"),
    ]
    if architecture == "amd64":
        # A machine resumed from another's memory gets another number, and its kernel new randomness.
        words += ["-device", "vmgenid,guid=auto"]
    return words


# As libvirt confines its machines.
_SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
