"""Fixed addresses, as reservations in the DHCP servers of libvirt's networks."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from pymachine.driver.errors import DriverError
from pymachine_driver_libvirt import connection as libvirts, patch, state
from pymachine_driver_libvirt.connection import Connection

# Short, so that the address is free soon after the machine is removed.
LEASE_MINUTES = 5
# Forward modes in which other hosts reach the machines. With nat or none, libvirt's filter rejects their packets.
_OPEN_MODES = frozenset({"route", "open"})


class NetworkError(DriverError):
    """The network does not exist, is not active, or cannot reserve an address."""

    code = "libvirt-network"


@dataclass(frozen=True)
class Reservation:
    """An address that the DHCP server keeps for one MAC address."""

    mac: str
    address: str
    name: str = ""


@dataclass(frozen=True)
class Network:
    """The parts of a network's XML that this driver uses."""

    name: str
    mode: str
    """``nat``, ``route``, ``open``, ``bridge``, ...; empty for an isolated network."""
    ranges: tuple[tuple[str, str], ...]
    reservations: tuple[Reservation, ...]

    @property
    def reached_by_others(self) -> bool:
        """Whether hosts other than libvirt's can reach its machines, given a route."""
        return self.mode in _OPEN_MODES


def parse(xml: str) -> Network:
    """Parse a network's XML."""
    root = patch.parse(xml)
    forward = root.find("forward")
    servers = [ip.find("dhcp") for ip in root.findall("ip") if ip.get("family", "ipv4") == "ipv4"]
    ranges = [
        (str(span.get("start")), str(span.get("end")))
        for server in servers
        if server is not None
        for span in server.findall("range")
    ]
    hosts = [host for server in servers if server is not None for host in server.findall("host")]
    return Network(
        name=root.findtext("name", ""),
        mode="" if forward is None else forward.get("mode", "nat"),
        ranges=tuple(ranges),
        reservations=tuple(
            Reservation(host.get("mac", "").lower(), host.get("ip", ""), host.get("name", "")) for host in hosts
        ),
    )


def choose(network: Network, taken: Collection[str]) -> str:
    """Choose an address of the network's ranges that is neither reserved nor in `taken`. Raises `NetworkError`.

    The choice is random, so that two stores that choose at the same time seldom choose the same one.
    """
    used = {*taken, *(reservation.address for reservation in network.reservations)}
    free = [address for address in _addresses(network.ranges) if address not in used]
    if not free:
        raise NetworkError(
            f"network {network.name} has no free address left",
            hint=f"Make its DHCP range larger (virsh net-edit {network.name}), or use another network.",
        )
    return random.choice(free)  # noqa: S311 (no secret)


def host_xml(reservation: Reservation) -> str:
    """Return a reservation as XML."""
    attributes = {"mac": reservation.mac, "name": reservation.name, "ip": reservation.address}
    host = Element("host", {key: value for key, value in attributes.items() if value})
    SubElement(host, "lease", expiry=str(LEASE_MINUTES), unit="minutes")
    return tostring(host, encoding="unicode")


def find(connection: Connection, name: str) -> Network:
    """Return the network `name`. Raises `NetworkError` unless it is active and has a DHCP server of libvirt."""
    handle = lookup(connection, name)
    if handle is None:
        with libvirts.wrap_errors("cannot list networks"):
            names = sorted(each.name() for each in connection.listAllNetworks())
        raise NetworkError(
            f"libvirt has no network called {name!r}",
            hint=f"Existing networks: {', '.join(names) or 'none'}. Choose one with --libvirt-network, or use "
            "--libvirt-network user.",
        )
    with libvirts.wrap_errors(f"cannot read network {name}"):
        active, network = handle.isActive(), parse(handle.XMLDesc())
    if not active:
        raise NetworkError(
            f"network {name} is not active",
            hint=f"Start it: virsh net-start {name}; and at each start of the host: virsh net-autostart {name}",
        )
    if not network.ranges:
        raise NetworkError(
            f"network {name} has no DHCP server of libvirt, so no address can be reserved in it",
            hint="Choose another network with --libvirt-network, or use --libvirt-network user.",
        )
    return network


def leased(connection: Connection, name: str) -> set[str]:
    """Return the addresses that machines on the network have now."""
    handle = lookup(connection, name)
    if handle is None:
        return set()
    with libvirts.wrap_errors(f"cannot read the leases of network {name}"):
        return {str(lease["ipaddr"]) for lease in handle.DHCPLeases()}


def reserve(connection: Connection, name: str, reservation: Reservation) -> None:
    """Reserve an address, unless this reservation exists. Raises `NetworkError` if another machine has it."""
    network = find(connection, name)
    for other in network.reservations:
        if other.mac == reservation.mac and other.address == reservation.address:
            return
        if reservation.address == other.address or reservation.mac == other.mac:
            raise NetworkError(
                f"{reservation.address} on network {name} is now reserved for another machine ({other.mac})",
                hint="Run the same command again: it chooses another address.",
            )
    names = {other.name for other in network.reservations}
    if reservation.name in names or not reservation.name[:1].isalpha():
        # The name, which is only for lookups within the network, must be unique and begin with a letter.
        reservation = Reservation(reservation.mac, reservation.address)
    _update(connection, name, "ADD_LAST", reservation)


def release(connection: Connection, name: str, mac: str, *, machine_id: str) -> None:
    """Remove the reservation for `mac`, if there is one. Raises `NetworkError` if another machine's domain has it."""
    handle = lookup(connection, name)
    if handle is None:
        return
    with libvirts.wrap_errors(f"cannot read network {name}"):
        found = parse(handle.XMLDesc(_inactive(handle))).reservations
    reservations = [reservation for reservation in found if reservation.mac == mac.lower()]
    if not reservations:
        return
    users = state.others(connection, machine_id, lambda xml: _has_mac(xml, mac))
    if users:
        raise NetworkError(
            f"the reservation for {mac} on network {name} is used by another domain, {users[0]}",
            hint=state.hint(connection, users[0]),
        )
    for reservation in reservations:
        _update(connection, name, "DELETE", reservation)


def _has_mac(domain: Element, mac: str) -> bool:
    return any(each.get("address", "").lower() == mac.lower() for each in domain.iter("mac"))


def lookup(connection: Connection, name: str) -> Any:
    """Return libvirt's object for the network, or None if it does not exist."""
    try:
        return connection.networkLookupByName(name)
    except libvirts.library().libvirtError as error:
        if libvirts.is_error(error, "NO_NETWORK"):
            return None
        raise libvirts.LibvirtError(f"cannot look up network {name}: {libvirts.message(error)}") from error


def _update(connection: Connection, name: str, command: str, reservation: Reservation) -> None:
    libvirt = libvirts.library()
    handle = connection.networkLookupByName(name)
    with libvirts.wrap_errors(f"cannot change the reservations of network {name}"):
        flags = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE if handle.isActive() else 0
        if handle.isPersistent():
            flags |= libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
        handle.update(
            getattr(libvirt, f"VIR_NETWORK_UPDATE_COMMAND_{command}"),
            libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST,
            -1,
            host_xml(reservation),
            flags,
        )


def _inactive(handle: Any) -> int:
    """Return the flag for the persistent definition, or 0 if the network has none."""
    return int(libvirts.library().VIR_NETWORK_XML_INACTIVE) if handle.isPersistent() else 0


def _addresses(ranges: Iterable[tuple[str, str]]) -> list[str]:
    found = []
    for start, end in ranges:
        first, last = int(ipaddress.IPv4Address(start)), int(ipaddress.IPv4Address(end))
        # 65536 addresses are enough to choose from.
        found += [str(ipaddress.IPv4Address(number)) for number in range(first, min(last, first + 65535) + 1)]
    return found
