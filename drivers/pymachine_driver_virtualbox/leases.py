"""Find the DHCP address of a machine that docker-machine created."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path

from pymachine.driver.contract import Json
from pymachine.driver.errors import CommandError
from pymachine.driver.kit.system import run
from pymachine_driver_virtualbox import output
from pymachine_driver_virtualbox.errors import HostNetworkError, VirtualBoxError
from pymachine_driver_virtualbox.vboxmanage import VBoxManage

SSH_SECONDS = 15.0
# docker-machine's own options: the host keys of its machines are not known.
_SSH = (
    *("-F", os.devnull, "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "LogLevel=quiet"),
    *("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={os.devnull}", "-o", "IdentitiesOnly=yes"),
)
_INTERFACE = re.compile(r"^\d+: ", re.MULTILINE)
_ETHER = re.compile(r"link/ether ([0-9a-f:]{17})")
_INET = re.compile(r"inet (\d+\.\d+\.\d+\.\d+)")


def address(vbox: VBoxManage, machine: str, info: Mapping[str, str], config: Mapping[str, Json], *, key: Path) -> str:
    """Return the guest's address on its host-only interface.

    Sources, in this order: the guest additions, ``ip addr`` over SSH, VirtualBox's DHCP leases. Raises
    `HostNetworkError` if none has an address.
    """
    mac, network = _host_only(info)
    found = _by_property(vbox, machine, mac) or _by_ssh(config, mac, key) or _by_lease(vbox, network, mac)
    if found is None:
        raise HostNetworkError(
            "the guest has no address on its host-only interface yet",
            hint="Wait a moment. If that does not help, check that there is a DHCP server: VBoxManage list "
            "dhcpservers.",
        )
    return found


def _host_only(info: Mapping[str, str]) -> tuple[str, str]:
    """Return the MAC address (twelve digits) and the host's interface name of the machine's host-only network."""
    for number in range(1, 9):
        if info.get(f"nic{number}") in {"hostonly", "hostonlynet"}:
            name = info.get(f"hostonlyadapter{number}") or info.get(f"hostonly-network{number}", "")
            return info.get(f"macaddress{number}", "").upper(), name
    raise HostNetworkError("the machine has no host-only interface", hint="Start it with pymachine, which adds one.")


def _by_property(vbox: VBoxManage, machine: str, mac: str) -> str | None:
    """Return the address that the guest additions report."""
    printed = vbox("guestproperty", "enumerate", machine)
    values = dict(re.findall(r"/VirtualBox/GuestInfo/Net/(\d+/\w+(?:/\w+)?)\W+(?:value: |= ')([^,']+)", printed))
    for name, value in values.items():
        if name.endswith("/MAC") and value.upper() == mac:
            found = values.get(name.replace("/MAC", "/V4/IP"), "")
            return found if _is_address(found) else None
    return None


def _by_ssh(config: Mapping[str, Json], mac: str, key: Path) -> str | None:
    """Ask the guest over SSH for the address of its interface with that MAC address."""
    ssh = run.which("ssh")
    if ssh is None:
        return None
    user = ("-l", str(config.get("SSHUser") or "docker"))
    port = ("-p", str(config.get("SSHPort") or 22))
    argv: list[str | Path] = [ssh, *_SSH, "-i", key, *port, *user, "--", "127.0.0.1", "ip addr show"]
    try:
        printed = run.run(argv, timeout=SSH_SECONDS).stdout
    except CommandError:
        return None
    for part in _INTERFACE.split(printed):
        ether, inet = _ETHER.search(part), _INET.search(part)
        if ether and inet and ether[1].replace(":", "").upper() == mac:
            return inet[1]
    return None


def _by_lease(vbox: VBoxManage, interface: str, mac: str) -> str | None:
    """Return the address that VirtualBox's DHCP server leased last."""
    dashed = ":".join(mac[index : index + 2] for index in range(0, 12, 2))
    try:
        printed = vbox("dhcpserver", "findlease", "--interface", interface, "--mac-address", dashed)
    except VirtualBoxError:
        return None  # VirtualBox is older than 6.1, or there is no lease
    found = next(iter(output.blocks(printed)), {}).get("IP Address", "")
    return found if _is_address(found) else None


def _is_address(text: str) -> bool:
    try:
        return int(ipaddress.IPv4Address(text)) != 0
    except ValueError:
        return False
