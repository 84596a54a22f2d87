"""QEMU's command line, as pure functions of the machine's description.

All devices are explicit (``-nodefaults``), so that a machine is the same in every version of QEMU and for every user's
configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver.contract import DOCKER_PORT
from pymachine.driver.kit import identity_channel
from pymachine.driver.kit.listen_address import ListenAddress
from pymachine.driver.kit.user_network import Published
from pymachine.driver.names import host_name
from pymachine_driver_qemu import options, runtime, shares

NETDEV = "net"
MEMORY = "ram"
# The name that QEMU gives to the memory of a machine without a backend.
UNBACKED_MEMORY = {"amd64": "pc.ram", "arm64": "mach-virt.ram"}
CONTAINERS = "containers"
SHARES = "shares"
GUEST_SSH_PORT = 22

# QEMU's default, fec0::/64, is site-local. Linux then prefers the address of the containers' network for packets to
# other hosts, and answers to it do not come back.
_IPV6_NETWORK = "fd70:796d:6162::/64"

# All machines have the same MAC address, since each is alone in its network. A resumed guest has its template's. With a
# different one after a restart, QEMU would give the guest an IP address that is not forwarded to.
_MAC = "52:54:00:12:34:56"


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The hardware that decides how a kernel boots. The trial of an accelerator uses it too."""

    architecture: str
    """Debian's name for it."""
    accelerator: str
    cpus: int
    memory_mib: int
    tb_mib: int = options.DEFAULT_TB_MIB
    """The limit of translated code, which matters only in software emulation."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The memory of a template, or of a machine resumed from one."""

    path: Path | None = None
    """The file with the memory. None means anonymous memory, with the same devices as for a file."""
    shared: bool = False
    """Whether the machine writes to the file, as a template does. A clone only reads it, and keeps changes private."""
    name: str = MEMORY
    """The memory's name in a saved state."""
    reporting: bool = False
    """Whether the guest reports free pages, as without a `Memory`. QEMU punches holes into the file then."""


@dataclass(frozen=True, kw_only=True)
class Boot:
    """The kernel to boot."""

    kernel: Path
    initrd: Path
    append: str


@dataclass(frozen=True, kw_only=True)
class MachineLine:
    """The rest of a machine's command line, besides hardware and kernel."""

    name: str
    machine_id: str
    iso: Path
    disk: Path
    base: Path | None
    """The file that `disk` has the changes to; None if `disk` is the whole disk."""
    console: Path
    sockets: Path
    listen: ListenAddress | None
    """The machine's address and ports; None for a template, which has none."""
    sandbox: bool
    isolated: bool = False
    """Whether the guest reaches no network, as while a copy of a machine becomes a template."""
    published: Sequence[Published] = ()
    """Further ports that are forwarded from the start."""
    ipv6: bool = False
    """Whether the user network has IPv6. The saved state of a machine does not depend on it."""
    exports: Sequence[tuple[Path, bool]] = ()
    """The folder of each 9p device, and whether QEMU must enforce that it is read-only."""
    has_shares_port: bool = True
    """Whether it has the port of `identity_channel.SHARES_PORT`."""
    memory: Memory | None = None
    resumed: bool = False
    """Whether it waits for a saved state instead of booting."""


def machine(hardware: Hardware, boot: Boot, line: MachineLine) -> list[str]:
    """Return a machine's arguments, without the program."""
    return [
        *("-name", f"guest={escape(line.name)},process=pymachine-{line.machine_id[:8]}"),
        *("-uuid", line.machine_id),
        *_machine_and_cpu(hardware, line.memory),
        *_boot(boot),
        *_storage(line),
        *_network(line),
        *_channels(line),
        *_helpers(hardware.architecture, line.memory),
        *_shared_folders(line),
        *(SANDBOX if line.sandbox else ()),
        *(("-incoming", "defer") if line.resumed else ()),
    ]


def trial(hardware: Hardware, boot: Boot, *, console: Path) -> list[str]:
    """Return the arguments of a machine that only boots a kernel, with its output in `console`, and ends at a reset."""
    return [
        *_machine_and_cpu(hardware),
        *_boot(boot),
        *("-serial", f"file:{escape(str(console))}"),
        "-no-reboot",
    ]


def escape(value: str) -> str:
    """Escape `value` for a comma-separated option."""
    return value.replace(",", ",,")


def _machine_and_cpu(hardware: Hardware, memory: Memory | None = None) -> list[str]:
    machine_type = "q35,vmport=off" if hardware.architecture == "amd64" else "virt"
    if memory:
        machine_type += f",memory-backend={memory.name}"
    software = f"tcg,thread=multi,tb-size={hardware.tb_mib}"
    accelerator = software if hardware.accelerator == "tcg" else hardware.accelerator
    return [
        *("-machine", machine_type),
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
        return ["-object", f"memory-backend-ram,id={memory.name},size={size_mib}M"]
    share = "on" if memory.shared else "off"
    backing = f"mem-path={escape(str(memory.path))},share={share}"
    return ["-object", f"memory-backend-file,id={memory.name},size={size_mib}M,{backing}"]


def _cpu_model(hardware: Hardware) -> str:
    if hardware.accelerator != "tcg":
        return "host"
    # Page tables of five levels, and the architecture's algorithm for signing pointers, only slow emulation down.
    return "max,la57=off" if hardware.architecture == "amd64" else "max,pauth-impdef=on"


def _boot(boot: Boot) -> list[str]:
    return ["-kernel", str(boot.kernel), "-initrd", str(boot.initrd), "-append", boot.append]


def _storage(line: MachineLine) -> Sequence[str]:
    """Return the image (vda in the guest) and the data disk (vdb), whose discarded blocks are freed on the host."""
    return [
        *("-drive", f"if=none,id=iso,file={escape(str(line.iso))},format=raw,readonly=on"),
        *("-device", "virtio-blk-pci,drive=iso"),
        *("-drive", ",".join(_data_disk(line.disk, line.base))),
        *("-device", "virtio-blk-pci,drive=disk"),
    ]


def _data_disk(disk: Path, base: Path | None) -> list[str]:
    words = ["if=none", "id=disk", f"file={escape(str(disk))}"]
    if base is None:
        return [*words, "format=raw", "discard=unmap"]
    # Named here, so that QEMU opens no other base that the disk's header names.
    backing = ["driver=raw", "read-only=on", "file.driver=file", f"file.filename={escape(str(base))}"]
    return [*words, "format=qcow2", "discard=unmap", *(f"backing.{word}" for word in backing)]


def _network(line: MachineLine) -> Sequence[str]:
    # By default without IPv6, which most hosts cannot route. With `ipv6=on` alone, QEMU turns IPv4 off.
    protocols = ["ipv4=on", "ipv6=on", f"ipv6-net={_IPV6_NETWORK}"] if line.ipv6 else ["ipv6=off"]
    parts = ["user", f"id={NETDEV}", *protocols, f"hostname={host_name(line.name)}"]
    if line.isolated:
        parts.append("restrict=on")
    if line.listen:
        address = line.listen.address
        parts += [
            f"hostfwd=tcp:{address}:{line.listen.docker_port}-:{DOCKER_PORT}",
            f"hostfwd=tcp:{address}:{line.listen.ssh_port}-:{GUEST_SSH_PORT}",
            *(f"hostfwd={port.protocol}:{address}:{port.port}-:{port.port}" for port in line.published),
        ]
    return [
        *("-netdev", ",".join(parts)),
        # No boot ROM: machines do not boot from the network, and not every build of QEMU has the file.
        *("-device", f"virtio-net-pci,netdev={NETDEV},mac={_MAC},romfile="),
    ]


def _channels(line: MachineLine) -> Sequence[str]:
    """Return two monitors (each serves one client at a time), the console log, and the ports of the guest's reports."""
    control, ports, identity, containers, shared = (
        escape(str(line.sockets / name))
        for name in (runtime.CONTROL, runtime.PORTS, runtime.IDENTITY, runtime.CONTAINERS, runtime.SHARES)
    )
    shares_port = [
        *("-chardev", f"socket,id={SHARES},path={shared},server=on,wait=off"),
        *("-device", f"virtserialport,chardev={SHARES},name={identity_channel.SHARES_PORT}"),
    ]
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
        *(shares_port if line.has_shares_port else ()),
    ]


def _helpers(architecture: str, memory: Memory | None) -> Sequence[str]:
    # The guest reports free pages, and the host reclaims them. Not if the memory is a file: QEMU would punch holes into
    # it, even into a template's.
    reporting = "free-page-reporting=on," if memory is None or memory.reporting else ""
    arguments = [
        *("-rtc", "base=utc"),
        *("-object", "rng-random,id=random,filename=/dev/urandom"),
        *("-device", "virtio-rng-pci,rng=random"),
        *("-device", f"virtio-balloon-pci,{reporting}deflate-on-oom=on"),
    ]
    if architecture == "amd64":
        # A machine resumed from another's memory gets a new id, from which its kernel reseeds its random numbers.
        arguments += ["-device", "vmgenid,guid=auto"]
    return arguments


def _shared_folders(line: MachineLine) -> Sequence[str]:
    """Return the 9p devices. Files that the guest makes belong to QEMU's user: see `syscall_filter`."""
    arguments = []
    for number, (path, read_only) in enumerate(line.exports):
        name = f"{shares.TAG}{number}"
        mode = ",readonly=on" if read_only else ""
        arguments += [
            # A share may contain several file systems, whose inode numbers may be the same.
            *("-fsdev", f"local,id={name},path={escape(str(path))},security_model=none,multidevs=remap{mode}"),
            *("-device", f"virtio-9p-pci,fsdev={name},mount_tag={name}"),
        ]
    return arguments


# The same restrictions as libvirt's.
SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
