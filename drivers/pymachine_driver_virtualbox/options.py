"""The driver's options, which are docker-machine's, and their checks."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pymachine.driver import fields
from pymachine.driver.abilities import HardwareChange, PortableField
from pymachine.driver.contract import Config, Json, MachineRef
from pymachine.driver.errors import UsageError
from pymachine.driver.kit import option_checks
from pymachine.driver.options import Option, OptionKind
from pymachine_driver_virtualbox import shares

DEFAULT_MEMORY_MIB = 1024
DEFAULT_DISK_MB = 20000
DEFAULT_NIC_TYPE = "82540EM"
# VirtualBox's own default. It refuses docker-machine's 192.168.99.1/24 since 6.1.28.
DEFAULT_CIDR = "192.168.56.1/24"
# VirtualBox's own prefix.
MAC_PREFIX = "08:00:27"
MOST_CPUS = 32
LEAST_MEMORY_MIB = 512
LEAST_DISK_MB = 1000
NIC_TYPES = ("Am79C970A", "Am79C973", "82540EM", "82543GC", "82545EM", "virtio")
PROMISCUOUS = ("deny", "allow-vms", "allow-all")
FRONT_ENDS = ("gui", "sdl", "headless", "separate")
MOST_MEMORY_MIB = 2 << 20
MOST_DISK_MB = 64 << 20

_SWITCH = PortableField(kind=bool)
_NIC_TYPE = PortableField(kind=str, pattern="|".join(NIC_TYPES))
_DIGEST = PortableField(kind=str, pattern="[0-9a-f]{64}|")
# The fields that an import copies from the export. Addresses and ids (None) are chosen again.
PORTABLE: dict[str, PortableField | None] = {
    "CPU": PortableField(kind=int, least=1, most=MOST_CPUS),
    "Memory": PortableField(kind=int, least=LEAST_MEMORY_MIB, most=MOST_MEMORY_MIB),
    "DiskSize": PortableField(kind=int, least=LEAST_DISK_MB, most=MOST_DISK_MB),
    "NatNicType": _NIC_TYPE,
    "HostOnlyNicType": _NIC_TYPE,
    "HostDNSResolver": _SWITCH,
    "DNSProxy": _SWITCH,
    "NoVTXCheck": _SWITCH,
    "ImageDigest": _DIGEST,
    "IdentityDigest": _DIGEST,
    "FixedAddress": None,
    "MACAddress": None,
    "Made": None,
    "VMUUID": None,
}
# The other settings of an imported machine. It shares no folder: the host's user did not choose one.
IMPORTED: Config = {
    "SSHUser": "docker",
    "CPU": 1,
    "Memory": DEFAULT_MEMORY_MIB,
    "DiskSize": DEFAULT_DISK_MB,
    "NatNicType": DEFAULT_NIC_TYPE,
    "Boot2DockerURL": "",
    "Boot2DockerImportVM": "",
    "HostDNSResolver": False,
    "HostOnlyCIDR": DEFAULT_CIDR,
    "HostOnlyNicType": DEFAULT_NIC_TYPE,
    "HostOnlyPromiscMode": "deny",
    "UIType": "headless",
    "HostOnlyNoDHCP": False,
    "NoShare": True,
    "DNSProxy": True,
    "NoVTXCheck": False,
    "ShareFolder": "",
}

OPTIONS = (
    Option(
        name="virtualbox-memory",
        kind=OptionKind.SIZE,
        default=DEFAULT_MEMORY_MIB,
        env="VIRTUALBOX_MEMORY_SIZE",
        help="Size of memory for host in MB, or such as 4g",
    ),
    Option(
        name="virtualbox-cpu-count",
        kind=OptionKind.INTEGER,
        default=1,
        env="VIRTUALBOX_CPU_COUNT",
        help="number of CPUs for the machine (-1 to use the number of CPUs available)",
    ),
    Option(
        name="virtualbox-disk-size",
        kind=OptionKind.SIZE,
        default=DEFAULT_DISK_MB,
        env="VIRTUALBOX_DISK_SIZE",
        help="Size of disk for host in MB, or such as 60g",
    ),
    Option(
        name="virtualbox-boot2docker-url",
        default="",
        env="VIRTUALBOX_BOOT2DOCKER_URL",
        help="Path or URL of the image; by default, one is built on this host",
    ),
    Option(
        name="virtualbox-import-boot2docker-vm",
        default="",
        env="VIRTUALBOX_BOOT2DOCKER_IMPORT_VM",
        help="The name of a Boot2Docker VM to import",
    ),
    Option(
        name="virtualbox-host-dns-resolver",
        kind=OptionKind.BOOLEAN,
        default=False,
        env="VIRTUALBOX_HOST_DNS_RESOLVER",
        help="Use the host DNS resolver",
    ),
    Option(
        name="virtualbox-nat-nictype",
        default=DEFAULT_NIC_TYPE,
        env="VIRTUALBOX_NAT_NICTYPE",
        help="Specify the Network Adapter Type",
    ),
    Option(
        name="virtualbox-hostonly-cidr",
        default=DEFAULT_CIDR,
        env="VIRTUALBOX_HOSTONLY_CIDR",
        help="Specify the Host Only CIDR: the host's address in it, and the length of its mask",
    ),
    Option(
        name="virtualbox-hostonly-nictype",
        default=DEFAULT_NIC_TYPE,
        env="VIRTUALBOX_HOSTONLY_NIC_TYPE",
        help="Specify the Host Only Network Adapter Type",
    ),
    Option(
        name="virtualbox-hostonly-nicpromisc",
        default="deny",
        env="VIRTUALBOX_HOSTONLY_NIC_PROMISC",
        help="Specify the Host Only Network Adapter Promiscuous Mode",
    ),
    Option(
        name="virtualbox-ui-type",
        default="headless",
        env="VIRTUALBOX_UI_TYPE",
        help="Specify the UI Type: (gui|sdl|headless|separate)",
    ),
    Option(
        name="virtualbox-hostonly-no-dhcp",
        kind=OptionKind.BOOLEAN,
        default=False,
        env="VIRTUALBOX_HOSTONLY_NO_DHCP",
        help="Disable the Host Only DHCP Server (machines have fixed addresses and need none)",
    ),
    Option(
        name="virtualbox-no-share",
        kind=OptionKind.BOOLEAN,
        default=False,
        env="VIRTUALBOX_NO_SHARE",
        help="Disable the mount of your home directory",
    ),
    Option(
        name="virtualbox-no-dns-proxy",
        kind=OptionKind.BOOLEAN,
        default=False,
        env="VIRTUALBOX_NO_DNS_PROXY",
        help="Disable proxying all DNS requests to the host",
    ),
    Option(
        name="virtualbox-no-vtx-check",
        kind=OptionKind.BOOLEAN,
        default=False,
        env="VIRTUALBOX_NO_VTX_CHECK",
        help="Disable checking for the availability of hardware virtualization before the vm is started",
    ),
    Option(
        name="virtualbox-share-folder",
        default="",
        env="VIRTUALBOX_SHARE_FOLDER",
        help="Mount the specified directory instead of the default home location. Format: dir:name",
    ),
)

_KEPT_FIELDS = {
    "ImageDigest": fields.DIGEST,
    "IdentityDigest": fields.DIGEST,
    "FixedAddress": fields.BOOLEAN,
    "IPAddress": fields.HOST,
}
# docker-machine's records are accepted too. In them, a CPU count below 1 means all of the host's CPUs.
FIELDS = {
    **_KEPT_FIELDS,
    "VMUUID": fields.UUID,
    "MACAddress": fields.MAC_OR_NONE,
    "CPU": fields.integer(-1, 4096),
    "Memory": fields.MEMORY_MIB,
    "DiskSize": fields.DISK_MB,
    "NatNicType": fields.WORD,
    "Boot2DockerURL": fields.PATH,
    "Boot2DockerImportVM": fields.NAME,
    "HostDNSResolver": fields.BOOLEAN,
    "HostOnlyCIDR": fields.matching(re.compile(r"(?:[0-9.]+/[0-9]+)?\Z"), "an address and the length of its network"),
    "HostOnlyNicType": fields.WORD,
    "HostOnlyPromiscMode": fields.WORD,
    "UIType": fields.WORD,
    "HostOnlyNoDHCP": fields.BOOLEAN,
    "NoShare": fields.BOOLEAN,
    "DNSProxy": fields.BOOLEAN,
    "NoVTXCheck": fields.BOOLEAN,
    "ShareFolder": fields.PATH,
    "Made": fields.BOOLEAN,
    "PreviousImage": fields.section(_KEPT_FIELDS),
}


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The checked values of the options."""

    cpus: int
    memory_mib: int
    disk_mb: int
    image: str
    import_vm: str
    nat_nic_type: str
    host_only: ipaddress.IPv4Interface
    host_only_nic_type: str
    promiscuous: str
    front_end: str
    share_folder: str


def check(values: Mapping[str, Json]) -> Choices:
    """Check `values`, which maps each option's name to its value. Raises `UsageError` that names the wrong option."""
    return Choices(
        cpus=_cpus("virtualbox-cpu-count", values["virtualbox-cpu-count"]),
        memory_mib=option_checks.integer(
            "virtualbox-memory", values["virtualbox-memory"], least=LEAST_MEMORY_MIB, most=MOST_MEMORY_MIB
        ),
        disk_mb=option_checks.integer(
            "virtualbox-disk-size", values["virtualbox-disk-size"], least=LEAST_DISK_MB, most=MOST_DISK_MB
        ),
        image=option_checks.image_source(values["virtualbox-boot2docker-url"]),
        import_vm=str(values["virtualbox-import-boot2docker-vm"] or ""),
        nat_nic_type=_one_of(values, "virtualbox-nat-nictype", NIC_TYPES),
        host_only=cidr(str(values["virtualbox-hostonly-cidr"] or DEFAULT_CIDR)),
        host_only_nic_type=_one_of(values, "virtualbox-hostonly-nictype", NIC_TYPES),
        promiscuous=_one_of(values, "virtualbox-hostonly-nicpromisc", PROMISCUOUS),
        front_end=_one_of(values, "virtualbox-ui-type", FRONT_ENDS),
        share_folder=_share(str(values["virtualbox-share-folder"] or "")),
    )


def cidr(text: str) -> ipaddress.IPv4Interface:
    """Parse the host's address in its host-only network. Raises `UsageError`."""
    try:
        interface = ipaddress.IPv4Interface(text)
    except ValueError as error:
        raise UsageError(f"--virtualbox-hostonly-cidr {text}: {error}") from error
    network = interface.network
    if "/" not in text or network.prefixlen > 29 or network.prefixlen < 8:
        raise UsageError(f"--virtualbox-hostonly-cidr {text}: expected ADDRESS/LENGTH with a length of 8 to 29")
    if interface.ip in {network.network_address, network.broadcast_address}:
        raise UsageError(
            f"--virtualbox-hostonly-cidr {text}: the address must be a host address in that network, "
            f"such as {network.network_address + 1}/{network.prefixlen}"
        )
    return interface


def own(machine: MachineRef, config: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
    """Choose the values that no two machines share: UUID, MAC address, fixed IP address, SSH port."""
    import uuid  # noqa: PLC0415 (reading commands make none)
    import zlib  # noqa: PLC0415

    from pymachine_driver_virtualbox import network, ports  # noqa: PLC0415

    machine_id = uuid.uuid4()
    host = cidr(str(config.get("HostOnlyCIDR") or DEFAULT_CIDR))
    taken = [str(sibling.get("IPAddress", "")) for sibling in siblings]
    seed = zlib.crc32(str(machine.directory.absolute()).encode())
    return {
        "VMUUID": str(machine_id),
        "MACAddress": ":".join([MAC_PREFIX, *(f"{byte:02x}" for byte in machine_id.bytes[:3])]),
        "FixedAddress": True,
        "IPAddress": network.allocate(host, taken, seed=seed),
        "SSHPort": ports.free({port for sibling in siblings if isinstance(port := sibling.get("SSHPort"), int)}),
    }


def changed_hardware(config: Mapping[str, Json], change: HardwareChange) -> Config:
    """Return the fields of `config` that `change` changes. Raises `UsageError`."""
    return option_checks.changed_hardware(
        config,
        change,
        cpus=_cpus,
        least_memory_mib=LEAST_MEMORY_MIB,
        most_memory_mib=MOST_MEMORY_MIB,
        most_disk_mb=MOST_DISK_MB,
        default_disk_mb=DEFAULT_DISK_MB,
    )


def host_cpus() -> int:
    """Return the host's number of CPUs, but at most `MOST_CPUS`."""
    return min(os.cpu_count() or 1, MOST_CPUS)


def _cpus(flag: str, value: Json) -> int:
    count = option_checks.integer(flag, value)
    if count > MOST_CPUS:
        raise UsageError(f"--{flag} is {count}, expected at most {MOST_CPUS}")
    return count if count >= 1 else host_cpus()


def _one_of(values: Mapping[str, Json], flag: str, allowed: tuple[str, ...]) -> str:
    return option_checks.one_of(flag, values[flag] or "", allowed)


def _share(text: str) -> str:
    if not text:
        return ""
    folder, _ = shares.parse(text)
    if not folder.is_dir():
        raise UsageError(f"--virtualbox-share-folder {text}: the folder {folder} does not exist")
    return text
