"""The VBoxManage commands that create a machine, as data, in docker-machine's order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver.contract import Json
from pymachine_driver_virtualbox.shares import Share

CONTROLLER = "SATA"
ISO_PORT, DISK_PORT = "0", "1"
SSH_RULE = "ssh"
OS_TYPE = "Linux26_64"
# docker-machine's settings. Logo and boot menu would only take time.
FIRMWARE = (
    *("--firmware", "bios", "--bioslogofadein", "off", "--bioslogofadeout", "off"),
    *("--bioslogodisplaytime", "0", "--biosbootmenu", "disabled"),
)
HARDWARE = (
    *("--acpi", "on", "--ioapic", "on", "--rtcuseutc", "on", "--cpuhotplug", "off", "--pae", "on", "--hpet", "on"),
    *("--hwvirtex", "on", "--nestedpaging", "on", "--largepages", "on", "--vtxvpid", "on", "--accelerate3d", "off"),
    *("--boot1", "dvd"),
)
# The guest's console is on the PC's first serial port.
SERIAL = ("--uart1", "0x3F8", "4", "--uartmode1", "file")


@dataclass(frozen=True, kw_only=True)
class Files:
    """The machine's files in its folder."""

    folder: Path
    iso: Path
    disk: Path
    console: Path


def creation_commands(
    machine: str, name: str, config: Mapping[str, Json], files: Files, shares: Sequence[Share]
) -> Iterator[list[str]]:
    """Yield the commands that create the machine with UUID `machine`.

    The host-only network and the forwarded SSH port are set at each start.
    """
    yield ["createvm", "--basefolder", str(files.folder), "--name", name, "--uuid", machine, "--register"]
    yield ["modifyvm", machine, *FIRMWARE, "--ostype", OS_TYPE, *size_options(config), *HARDWARE]
    yield ["modifyvm", machine, *_dns(config)]
    yield ["modifyvm", machine, *SERIAL, str(files.console)]
    yield ["modifyvm", machine, "--nic1", "nat", "--nictype1", str(config["NatNicType"]), "--cableconnected1", "on"]
    yield ["storagectl", machine, "--name", CONTROLLER, "--add", "sata", "--hostiocache", "on"]
    yield attach(machine, ISO_PORT, "dvddrive", str(files.iso))
    yield attach(machine, DISK_PORT, "hdd", str(files.disk))
    for share in shares:
        yield from share.commands(machine)


def size_options(config: Mapping[str, Json]) -> list[str]:
    """Return processors and memory as options of ``modifyvm``."""
    return ["--cpus", str(config["CPU"]), "--memory", str(config["Memory"])]


def _dns(config: Mapping[str, Json]) -> list[str]:
    resolver = "on" if config.get("HostDNSResolver") else "off"
    proxy = "on" if config.get("DNSProxy", True) else "off"
    return ["--natdnshostresolver1", resolver, "--natdnsproxy1", proxy]


def attach(machine: str, port: str, kind: str, medium: str) -> list[str]:
    """Return the command that attaches a medium (a path, or ``none``) to a port of the controller."""
    arguments = ["storageattach", machine, "--storagectl", CONTROLLER, "--port", port, "--device", "0"]
    return [*arguments, "--type", kind, "--medium", medium]


def host_only(machine: str, config: Mapping[str, Json], interface: str, *, network: bool) -> list[str]:
    """Return the command that connects the machine's second interface to the host-only `interface`.

    With `network`, `interface` is the name of a host-only network, as on macOS.
    """
    kind, option = ("hostonlynet", "--host-only-net2") if network else ("hostonly", "--hostonlyadapter2")
    arguments = ["modifyvm", machine, "--nic2", kind, "--nictype2", str(config.get("HostOnlyNicType") or "82540EM")]
    arguments += ["--nicpromisc2", str(config.get("HostOnlyPromiscMode") or "deny"), option, interface]
    arguments += ["--cableconnected2", "on"]
    mac = str(config.get("MACAddress", ""))
    return [*arguments, "--macaddress2", mac.replace(":", "").upper()] if mac else arguments


def reach_loopback(machine: str) -> list[str]:
    """Return the command that lets the guest reach services on the host's loopback, at its NAT's router."""
    return ["modifyvm", machine, "--nat-localhostreachable1", "on"]


def forward_ssh(machine: str, port: int) -> list[str]:
    """Return the command that forwards a port of the host's loopback to the guest's SSH."""
    return ["modifyvm", machine, "--natpf1", f"{SSH_RULE},tcp,127.0.0.1,{port},,22"]


def drop_ssh(machine: str) -> list[str]:
    """Return the command that removes the forwarding of `forward_ssh`."""
    return ["modifyvm", machine, "--natpf1", "delete", SSH_RULE]
