"""The host-only network, found or created, and the machines' fixed addresses in it.

Interfaces and DHCP servers belong to the host. They are read and changed under a lock between processes, and only
those created here are ever removed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymachine_driver_virtualbox import output
from pymachine_driver_virtualbox.errors import HostNetworkError, VirtualBoxError
from pymachine_driver_virtualbox.vboxmanage import VBoxManage, lock

LOCK = "network"
NETWORKS_CONF = Path("/etc/vbox/networks.conf")
# What VirtualBox allows if there is no networks.conf. Source: its manual, "Host-Only Networking".
ALLOWED = (ipaddress.IPv4Network("192.168.56.0/21"),)
DHCP_PREFIX = "HostInterfaceNetworking-"
# docker-machine's DHCP range, from the network's hundredth address on. Fixed addresses are below and above it.
DHCP_FIRST, DHCP_LAST = 100, 254
_CREATED = re.compile(r"Interface '([^']+)' was successfully created")
_MAX_SCAN = 4096


@dataclass(frozen=True)
class Interface:
    """One host-only interface or network."""

    name: str
    address: ipaddress.IPv4Interface | None


def interfaces(text: str) -> list[Interface]:
    """Parse the output of ``list hostonlyifs`` (or ``bridgedifs``)."""
    return [
        Interface(block["Name"], _interface(block.get("IPAddress", ""), block.get("NetworkMask", "")))
        for block in output.blocks(text)
        if "Name" in block
    ]


def networks(text: str) -> list[Interface]:
    """Parse the output of ``list hostonlynets`` (macOS). The host has the first address of the range."""
    return [
        Interface(block["Name"], _interface(block.get("LowerIP", ""), block.get("NetworkMask", "")))
        for block in output.blocks(text)
        if "Name" in block
    ]


def _interface(address: str, mask: str) -> ipaddress.IPv4Interface | None:
    # Some versions print the mask as hexadecimal digits in the wrong order: 0f000000 for 255.255.255.0.
    mask = "255.255.255.0" if mask == "0f000000" else mask
    try:
        found = ipaddress.IPv4Interface(f"{address}/{mask}")
    except ValueError:
        return None
    return found if int(found.ip) else None


def choose(found: Sequence[Interface], wanted: ipaddress.IPv4Interface) -> Interface | None:
    """Return the interface that has exactly the address `wanted`, or None.

    Raises `HostNetworkError` if two interfaces share a name or an address (with docker-machine's text), and if another
    interface's network overlaps.
    """
    for attribute, values in (("name", [each.name for each in found]), ("IP", _addresses(found))):
        duplicate = next((value for value in values if values.count(value) > 1), None)
        if duplicate is not None:
            raise HostNetworkError(
                f'VirtualBox is configured with multiple host-only adapters with the same {attribute} "{duplicate}". '
                "Please remove one",
                hint="List them: VBoxManage list hostonlyifs; remove one: VBoxManage hostonlyif remove NAME.",
            )
    for interface in found:
        if interface.address == wanted:
            return interface
    for interface in found:
        if interface.address is not None and interface.address.network.overlaps(wanted.network):
            raise HostNetworkError(
                f"the host-only adapter {interface.name} has {interface.address}, which overlaps with {wanted}",
                hint=f"Use it (--virtualbox-hostonly-cidr {interface.address}), or choose another network.",
            )
    return None


def _addresses(found: Sequence[Interface]) -> list[str]:
    return [str(each.address.ip) for each in found if each.address is not None]


def check_allowed(wanted: ipaddress.IPv4Interface, *, conf: Path = NETWORKS_CONF) -> None:
    """Raise `HostNetworkError` if VirtualBox (6.1.28 or later, not on Windows) would refuse `wanted`."""
    allowed = allowed_networks(conf)
    if allowed is None or any(wanted.network.subnet_of(network) for network in allowed):
        return
    raise HostNetworkError(
        f"VirtualBox refuses {wanted} for a host-only network: it allows {', '.join(map(str, allowed)) or 'none'}",
        hint=f"Choose one of these with --virtualbox-hostonly-cidr, or add this line to {conf} (as root): "
        f"* {wanted.network}",
    )


def allowed_networks(conf: Path = NETWORKS_CONF) -> list[ipaddress.IPv4Network] | None:
    """Return the networks that VirtualBox allows on this host; None means all.

    The format of the file is described in VirtualBox's manual, "Host-Only Networking".
    """
    try:
        lines = conf.read_text(errors="replace").splitlines()
    except OSError:
        return list(ALLOWED)
    found: list[ipaddress.IPv4Network] = []
    for line in lines:
        words = line.partition("#")[0].split()
        if not words or words[0] != "*":
            continue
        for word in words[1:]:
            if ":" not in word:
                try:
                    found.append(ipaddress.IPv4Network(word, strict=False))
                except ValueError:
                    continue  # VirtualBox ignores it too
    return None if ipaddress.IPv4Network("0.0.0.0/0") in found else found


def check_collisions(vbox: VBoxManage, wanted: ipaddress.IPv4Interface) -> None:
    """Raise `HostNetworkError` if another network of this host overlaps with `wanted`."""
    host_only = {interface.name for interface in interfaces(vbox("list", "hostonlyifs"))}
    for interface in interfaces(vbox("list", "bridgedifs")):
        if interface.name in host_only or interface.address is None:
            continue
        if interface.address.network.overlaps(wanted.network):
            raise HostNetworkError(
                f"host-only cidr conflicts with the network address of a host interface: {interface.name} has "
                f"{interface.address}",
                hint="Choose another network with --virtualbox-hostonly-cidr.",
            )


def ensure(vbox: VBoxManage, wanted: ipaddress.IPv4Interface) -> tuple[Interface, bool]:
    """Return the host-only interface (or network) with the address `wanted`, and whether it had to be created."""
    with lock(LOCK):
        if vbox.traits.host_only_networks:
            return _ensure_network(vbox, wanted)
        if found := choose(interfaces(vbox("list", "hostonlyifs")), wanted):
            return found, False
        return _create(vbox, wanted), True


def _create(vbox: VBoxManage, wanted: ipaddress.IPv4Interface) -> Interface:
    if vbox.traits.limits_host_only:
        check_allowed(wanted)
    try:
        printed = vbox("hostonlyif", "create")
    except VirtualBoxError as error:
        error.hint = error.hint or _interface_hint(error)
        raise
    match = _CREATED.search(printed)
    if match is None:
        raise HostNetworkError(f"VirtualBox created a host-only adapter, but did not print its name: {printed.strip()}")
    try:
        vbox("hostonlyif", "ipconfig", match[1], "--ip", str(wanted.ip), "--netmask", str(wanted.netmask))
    except VirtualBoxError as error:
        vbox("hostonlyif", "remove", match[1])
        if error.reason == "E_ACCESSDENIED":
            error.hint = f"VirtualBox allows only some addresses: see {NETWORKS_CONF} and VirtualBox's manual."
        raise
    return Interface(match[1], wanted)


def _interface_hint(error: VirtualBoxError) -> str:
    text = error.brief + error.details
    if "vboxnetctl" in text:
        return "VirtualBox's kernel modules are not loaded (as root): modprobe vboxnetadp, or /sbin/vboxconfig."
    return "Try this command: VBoxManage hostonlyif create. On macOS, allow VirtualBox's system extension."


def _ensure_network(vbox: VBoxManage, wanted: ipaddress.IPv4Interface) -> tuple[Interface, bool]:
    if found := choose(networks(vbox("list", "hostonlynets")), wanted):
        return found, False
    name = f"pymachine-{wanted.ip}"
    last = str(wanted.network.broadcast_address - 1)
    arguments = ["--name", name, "--netmask", str(wanted.netmask), "--lower-ip", str(wanted.ip), "--upper-ip", last]
    vbox("hostonlynet", "add", *arguments, "--enable")
    return Interface(name, wanted), True


def ensure_dhcp(vbox: VBoxManage, interface: Interface) -> None:
    """Provide a DHCP server on `interface`, for machines that docker-machine created.

    An existing server is enabled and otherwise left as it is.
    """
    if interface.address is None or vbox.traits.host_only_networks:
        return
    with lock(LOCK):
        name = DHCP_PREFIX + interface.name
        servers = output.blocks(vbox("list", "dhcpservers"))
        server = next((server for server in servers if server.get("NetworkName") == name), None)
        if server is not None and server.get("Enabled", "").lower() == "yes":
            return
        if server is not None:
            vbox("dhcpserver", "modify", "--netname", name, "--enable")
            return
        server_address, first, last = dhcp_range(interface.address)
        arguments = ["--netname", name, "--ip", str(server_address), "--netmask", str(interface.address.netmask)]
        vbox("dhcpserver", "add", *arguments, "--lowerip", str(first), "--upperip", str(last), "--enable")


def dhcp_range(host: ipaddress.IPv4Interface) -> tuple[ipaddress.IPv4Address, ...]:
    """Return the DHCP server's own address and the first and last address that it leases, for any mask."""
    network = host.network
    size = network.num_addresses
    first = min(DHCP_FIRST + 1, size // 2)
    last = min(DHCP_LAST, size - 2)
    usable = [network.network_address + number for number in range(first - 1, last + 1)]
    usable = [address for address in usable if address != host.ip]
    return usable[0], usable[1], usable[-1]


def allocate(host: ipaddress.IPv4Interface, taken: Iterable[str], *, seed: int) -> str:
    """Choose a fixed address in the host's network: not the host's, not one of `taken`, not in the DHCP range.

    The search begins at a place that depends on `seed`, so that two stores seldom choose the same address. Raises
    `HostNetworkError` if the network is full.
    """
    network, used = host.network, set(taken)
    first_dynamic = min(DHCP_FIRST, network.num_addresses // 2 - 1)
    numbers = range(1, min(network.num_addresses - 1, _MAX_SCAN))
    fixed = [number for number in numbers if number < first_dynamic or number > DHCP_LAST]
    for index in range(len(fixed)):
        address = network.network_address + fixed[(seed + index) % len(fixed)]
        if address != host.ip and str(address) not in used:
            return str(address)
    raise HostNetworkError(
        f"no address is left for a machine in {network}",
        hint="Choose a larger network with --virtualbox-hostonly-cidr.",
    )
