"""A machine's domain as XML. These are pure functions of the machine's description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element, SubElement, indent, register_namespace, tostring

from pymachine.driver.contract import DOCKER_PORT
from pymachine.driver.kit import identity_channel
from pymachine.driver.names import host_name
from pymachine_driver_libvirt import patch

NAMESPACE = "urn:pymachine:libvirt:1"
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
NETDEV = "pymachine"
GUEST_SSH_PORT = 22

# A PCI slot that libvirt leaves free: it uses low ones and 0x1f.
_USER_NETWORK_SLOT = "0x1e"
# Limit translated code to 256 MiB: QEMU's default of 1 GiB makes an idle machine twice as large, but not faster.
_TRANSLATED_MIB = 256
_EMULATED_ARCHITECTURE = {"amd64": "x86_64", "arm64": "aarch64"}
_MACHINE_TYPES = {"amd64": "q35", "arm64": "virt"}
_MODES = ("host-passthrough", "host-model", "maximum")

register_namespace("pymachine", NAMESPACE)
register_namespace("qemu", QEMU_NAMESPACE)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The hardware that decides how a kernel boots. The trial of an accelerator uses it too."""

    architecture: str
    """Debian's name for it."""
    accelerator: str
    """``kvm`` or ``tcg``."""
    cpus: int
    memory_mib: int
    machine_type: str = ""
    cpu_mode: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Boot:
    """The kernel to boot, as paths on libvirt's host."""

    kernel: str
    initrd: str
    command_line: str


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The owner of a domain, for users and for other stores on the same libvirt."""

    name: str
    store: str
    client: str
    """The name of the host with the store."""


@dataclass(frozen=True, kw_only=True)
class Forwards:
    """Where QEMU listens on libvirt's host for a machine in user networking."""

    address: str
    """Empty for all addresses of the host."""
    docker_port: int
    ssh_port: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The rest of a machine's domain, besides hardware and kernel."""

    name: str
    machine_id: str
    mac: str
    image: str
    """The image's path on libvirt's host."""
    disk: str
    owner: Owner
    network: str = ""
    """The network it joins, unless it has `forwards`."""
    forwards: Forwards | None = None
    patches: Sequence[str] = field(default_factory=tuple)


def machine(hardware: Hardware, boot: Boot, made: Machine) -> str:
    """Return the XML of a machine's domain."""
    domain = _hardware(hardware, made.name, made.machine_id)
    _describe(domain, made.owner)
    _add_boot(domain, hardware, boot)
    for event, action in (("poweroff", "destroy"), ("reboot", "restart"), ("crash", "destroy")):
        _add(domain, f"on_{event}", action)
    devices = _add(domain, "devices")
    _storage(devices, made)
    _add(devices, "controller", type="usb", model="none")
    if made.forwards is None:
        _interface(devices, made)
    else:
        _user_network(domain, made, made.forwards)
    # The console; `virsh console` shows it.
    _add(devices, "serial", type="pty")
    devices.append(_port(identity_channel.PORT))
    if made.forwards is not None:
        devices.append(_port(identity_channel.CONTAINERS_PORT))
    _helpers(domain, devices, hardware.architecture)
    for text in made.patches:
        patch.merge(domain, patch.parse(text))
    return text_of(domain)


def trial(hardware: Hardware, boot: Boot, *, name: str, machine_id: str) -> str:
    """Return the XML of a domain that only boots a kernel, with its output on the console, and ends at a reset."""
    domain = _hardware(hardware, name, machine_id)
    _add(domain, "description", "A trial of hardware virtualisation by pymachine; gone in a few seconds")
    _add_boot(domain, hardware, boot)
    for event in ("poweroff", "reboot", "crash"):
        _add(domain, f"on_{event}", "destroy")
    devices = _add(domain, "devices")
    _add(devices, "controller", type="usb", model="none")
    _add(devices, "serial", type="pty")
    _add(devices, "memballoon", model="none")
    return text_of(domain)


def containers_port() -> str:
    """Return the XML of the port on which a guest in user networking reports its open ports."""
    return text_of(_port(identity_channel.CONTAINERS_PORT))


def virtualisation(accelerator: str) -> str:
    """Return libvirt's name for an accelerator."""
    return "kvm" if accelerator == "kvm" else "qemu"


def emulated(architecture: str) -> str:
    """Return libvirt's name for one of Debian's architectures."""
    return _EMULATED_ARCHITECTURE[architecture]


def machine_type(architecture: str, asked: str) -> str:
    """Return `asked`, or the default type of the architecture."""
    return asked or _MACHINE_TYPES[architecture]


def description(owner: Owner) -> str:
    """Return the text that describes a machine's domain to users."""
    return (
        f"Docker host made by pymachine: machine {owner.name} of the store {owner.store} on {owner.client}. "
        "Use pymachine to stop or remove it."
    )


def mark(owner: Owner) -> str:
    """Return the mark that programs read, as XML for a call of libvirt that adds the namespace."""
    return text_of(_mark(owner, ""))


def marked_name(xml: str) -> str:
    """Return the name of the machine in a domain's mark, or "" if it has no mark."""
    # In a mark that `mark` wrote, only the outermost element is in the namespace.
    found = patch.parse(xml).find(f"metadata/{{{NAMESPACE}}}machine")
    return "" if found is None else found.findtext("{*}name", "")


def _mark(owner: Owner, namespace: str = f"{{{NAMESPACE}}}") -> Element:
    element = Element(f"{namespace}machine")
    for name, value in (("name", owner.name), ("store", owner.store), ("client", owner.client)):
        SubElement(element, f"{namespace}{name}").text = value
    return element


def text_of(element: Element) -> str:
    """Return an element as indented XML."""
    indent(element)
    return tostring(element, encoding="unicode") + "\n"


def _hardware(hardware: Hardware, name: str, machine_id: str) -> Element:
    domain = Element("domain", type=virtualisation(hardware.accelerator))
    _add(domain, "name", name)
    _add(domain, "uuid", machine_id)
    _add(domain, "memory", str(hardware.memory_mib), unit="MiB")
    _add(domain, "vcpu", str(hardware.cpus))
    features = _add(domain, "features")
    _add(features, "acpi")
    if hardware.architecture == "amd64":
        _add(features, "apic")
        _add(features, "vmport", state="off")
    if hardware.accelerator == "tcg":
        _add(_add(features, "tcg"), "tb-cache", str(_TRANSLATED_MIB), unit="MiB")
    domain.append(_cpu(hardware))
    _add(domain, "clock", offset="utc")
    return domain


def _cpu(hardware: Hardware) -> Element:
    automatic = "maximum" if hardware.accelerator == "tcg" else "host-passthrough"
    mode = automatic if hardware.cpu_mode == "auto" else hardware.cpu_mode
    if mode not in _MODES:
        cpu = Element("cpu", mode="custom", match="exact", check="none")
        _add(cpu, "model", mode, fallback="forbid")
    else:
        # libvirt's check of the CPU does not support emulated ones.
        cpu = Element("cpu", {"mode": mode} if mode == "host-model" else {"mode": mode, "check": "none"})
    if hardware.accelerator == "tcg" and mode == "maximum" and hardware.architecture == "amd64":
        # Page tables of five levels only slow emulation down.
        _add(cpu, "feature", policy="disable", name="la57")
    return cpu


def _describe(domain: Element, owner: Owner) -> None:
    _add(domain, "description", description(owner))
    _add(domain, "metadata").append(_mark(owner))


def _add_boot(domain: Element, hardware: Hardware, boot: Boot) -> None:
    system = _add(domain, "os")
    kind = machine_type(hardware.architecture, hardware.machine_type)
    _add(system, "type", "hvm", arch=emulated(hardware.architecture), machine=kind)
    _add(system, "kernel", boot.kernel)
    _add(system, "initrd", boot.initrd)
    _add(system, "cmdline", boot.command_line)


def _storage(devices: Element, made: Machine) -> None:
    """Add the image (vda in the guest) and the data disk (vdb), whose discarded blocks are freed on the host."""
    image = _add(devices, "disk", type="file", device="disk")
    _add(image, "driver", name="qemu", type="raw")
    _add(image, "source", file=made.image)
    _add(image, "target", dev="vda", bus="virtio")
    _add(image, "readonly")
    disk = _add(devices, "disk", type="file", device="disk")
    _add(disk, "driver", name="qemu", type="raw", discard="unmap")
    _add(disk, "source", file=made.disk)
    _add(disk, "target", dev="vdb", bus="virtio")


def _interface(devices: Element, made: Machine) -> None:
    interface = _add(devices, "interface", type="network")
    _add(interface, "mac", address=made.mac)
    _add(interface, "source", network=made.network)
    _add(interface, "model", type="virtio")
    # Nothing is booted from the network.
    _add(interface, "rom", enabled="no")


def _user_network(domain: Element, made: Machine, forwards: Forwards) -> None:
    """Add QEMU's user network. libvirt itself supports it only without forwarded ports."""
    parts = [
        # With IPv6, the guest would wait for an address that most hosts cannot route.
        f"user,id={NETDEV},ipv6=off,hostname={host_name(made.name)}",
        f"hostfwd=tcp:{forwards.address}:{forwards.docker_port}-:{DOCKER_PORT}",
        f"hostfwd=tcp:{forwards.address}:{forwards.ssh_port}-:{GUEST_SSH_PORT}",
    ]
    device = f"virtio-net-pci,netdev={NETDEV},mac={made.mac},addr={_USER_NETWORK_SLOT},romfile="
    line = SubElement(domain, f"{{{QEMU_NAMESPACE}}}commandline")
    for argument in ("-netdev", ",".join(parts), "-device", device):
        SubElement(line, f"{{{QEMU_NAMESPACE}}}arg", value=argument)


def _port(name: str) -> Element:
    """Return a virtio-serial port of the guest. libvirt chooses the path of its socket."""
    port = Element("channel", type="unix")
    _add(port, "target", type="virtio", name=name)
    return port


def _helpers(domain: Element, devices: Element, architecture: str) -> None:
    random = _add(devices, "rng", model="virtio")
    _add(random, "backend", "/dev/urandom", model="random")
    # The guest reports free pages, and the host reclaims them.
    _add(devices, "memballoon", model="virtio", autodeflate="on", freePageReporting="on")
    if architecture == "amd64":
        # A machine resumed from a snapshot gets a new id, from which its kernel reseeds its random numbers.
        _add(domain, "genid")


def _add(parent: Element, tag: str, text: str = "", **attributes: str) -> Element:
    element = SubElement(parent, tag, attributes)
    if text:
        element.text = text
    return element
