"""The driver's options, their defaults and their checks."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

from pymachine.driver import fields
from pymachine.driver.abilities import HardwareChange, PortableField
from pymachine.driver.contract import Config, Json
from pymachine.driver.kit import host_memory, kernel_parameters, option_checks
from pymachine.driver.options import Option, OptionKind

ACCELERATORS = ("auto", "kvm", "hvf", "tcg")
# Debian's names for the architectures, by the names that users and `uname -m` use.
ARCHITECTURES = {"amd64": "amd64", "x86_64": "amd64", "arm64": "arm64", "aarch64": "arm64"}

DEFAULT_CPUS = 2
# Of a machine whose record does not say it.
RECORDED_MEMORY_MIB = 1024
DEFAULT_DISK_MB = 20000
# In software emulation, containers start no sooner with four times as much. With a tenth, they take more than twice as
# long, since QEMU discards all translated code when it runs out of space.
DEFAULT_TB_MIB = 256
LEAST_TB_MIB = 16
MOST_TB_MIB = 2047
# The kernel, the overlay in memory and dockerd need at least this.
LEAST_MEMORY_MIB = 512
LEAST_DISK_MB = 1000
# The limit of q35 and virt without further options.
MOST_CPUS = 255
# More than any host has, but within the range of QEMU's numbers.
MOST_MEMORY_MIB = 16 << 20
MOST_DISK_MB = 64 << 20

# The fields that an import copies from the export. Address and ids (None) are chosen again. Accelerator, program and
# the image's source depend on this host.
PORTABLE: dict[str, PortableField | None] = {
    "CPU": PortableField(kind=int, least=1, most=MOST_CPUS),
    "Memory": PortableField(kind=int, least=LEAST_MEMORY_MIB, most=MOST_MEMORY_MIB),
    "DiskSize": PortableField(kind=int, least=LEAST_DISK_MB, most=MOST_DISK_MB),
    "TBSize": PortableField(kind=int, least=LEAST_TB_MIB, most=MOST_TB_MIB),
    "NoASLR": PortableField(kind=bool),
    "Arch": PortableField(kind=str, pattern="amd64|arm64"),
    "ImageDigest": PortableField(kind=str, pattern="[0-9a-f]{64}|"),
    "KernelCommandLine": PortableField(kind=str, pattern="[ -~]{0,2000}"),
    "EnginePort": None,
    "MachineID": None,
}

OPTIONS = (
    Option(
        name="qemu-cpu-count",
        kind=OptionKind.INTEGER,
        default=DEFAULT_CPUS,
        env="QEMU_CPU_COUNT",
        help="Number of CPUs for the machine (-1: as many as the host has)",
    ),
    Option(
        name="qemu-memory",
        kind=OptionKind.SIZE,
        default=host_memory.default_mib(),
        default_text=host_memory.DEFAULT_TEXT,
        env="QEMU_MEMORY_SIZE",
        help="Size of memory for the machine in MB, or such as 4g",
    ),
    Option(
        name="qemu-disk-size",
        kind=OptionKind.SIZE,
        default=DEFAULT_DISK_MB,
        env="QEMU_DISK_SIZE",
        help="Size of disk for the machine in MB, or such as 60g; it uses space on the host only as it fills",
    ),
    Option(
        name="qemu-boot2docker-url",
        default="",
        env="QEMU_BOOT2DOCKER_URL",
        help="Path or URL of the image; by default, one is built on this host",
    ),
    Option(
        name="qemu-accelerator",
        default="auto",
        env="QEMU_ACCELERATOR",
        help="Hardware virtualisation to use: auto, kvm, hvf, or tcg for none",
    ),
    Option(
        name="qemu-binary",
        default="",
        env="QEMU_BINARY",
        help="QEMU to use, as a path or a name on PATH",
    ),
    Option(
        name="qemu-arch",
        default="",
        env="QEMU_ARCH",
        help="Architecture of the machine: amd64 or arm64; by default, the host's",
    ),
    Option(
        name="qemu-tb-size",
        kind=OptionKind.SIZE,
        default=DEFAULT_TB_MIB,
        env="QEMU_TB_SIZE",
        help="Size of QEMU's cache of translated code in MB, for software emulation; less saves memory, but is slower",
    ),
    Option(
        name="qemu-no-aslr",
        kind=OptionKind.BOOLEAN,
        default=False,
        env="QEMU_NO_ASLR",
        help=kernel_parameters.NO_ASLR_HELP,
    ),
)

_IMAGE_FIELDS = {"ImageDigest": fields.DIGEST, "KernelCommandLine": fields.TEXT}
# QEMU listens on the address, and the binary is run. The other values are arguments of QEMU's command line.
FIELDS = {
    **_IMAGE_FIELDS,
    "IPAddress": fields.LOOPBACK,
    "EnginePort": fields.PORT,
    "SSHPort": fields.PORT,
    "MachineID": fields.UUID,
    "CPU": fields.integer(1, MOST_CPUS),
    "Memory": fields.MEMORY_MIB,
    "DiskSize": fields.DISK_MB,
    "Boot2DockerURL": fields.PATH,
    "Accelerator": fields.one_of(*ACCELERATORS),
    "QemuBinary": fields.PATH,
    "Arch": fields.one_of("", *ARCHITECTURES.values()),
    "TBSize": fields.integer(LEAST_TB_MIB, MOST_TB_MIB),
    "NoASLR": fields.BOOLEAN,
    "PreviousImage": fields.section(_IMAGE_FIELDS),
}


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The checked values of the options."""

    cpus: int
    memory_mib: int
    disk_mb: int
    image: str
    accelerator: str
    binary: str
    architecture: str
    tb_mib: int
    no_aslr: bool


def check(values: Mapping[str, Json]) -> Choices:
    """Check `values`, which maps each option's name to its value. Raises `UsageError` that names the wrong option."""
    return Choices(
        cpus=_cpus("qemu-cpu-count", values["qemu-cpu-count"]),
        memory_mib=option_checks.integer(
            "qemu-memory", values["qemu-memory"], least=LEAST_MEMORY_MIB, most=MOST_MEMORY_MIB
        ),
        disk_mb=option_checks.integer(
            "qemu-disk-size", values["qemu-disk-size"], least=LEAST_DISK_MB, most=MOST_DISK_MB
        ),
        image=option_checks.image_source(values["qemu-boot2docker-url"]),
        accelerator=option_checks.one_of("qemu-accelerator", values["qemu-accelerator"] or "auto", ACCELERATORS),
        binary=str(values["qemu-binary"] or ""),
        architecture=_architecture(values["qemu-arch"]),
        tb_mib=option_checks.integer("qemu-tb-size", values["qemu-tb-size"], least=LEAST_TB_MIB, most=MOST_TB_MIB),
        no_aslr=bool(values["qemu-no-aslr"]),
    )


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


def new_ids() -> Config:
    """Choose the values that no two machines share."""
    import uuid  # noqa: PLC0415

    return {"MachineID": str(uuid.uuid4())}


def host_architecture() -> str:
    """Return Debian's name for this host's architecture, or amd64 (emulated) if the driver does not know it."""
    return ARCHITECTURES.get(platform.machine().lower(), "amd64")


def _cpus(flag: str, value: Json) -> int:
    count = option_checks.cpu_count(flag, value, most=MOST_CPUS)
    return option_checks.cpus_of_host(count, host=os.cpu_count() or 1, default=DEFAULT_CPUS, most=MOST_CPUS)


def _architecture(value: Json) -> str:
    if not value:
        return host_architecture()
    return ARCHITECTURES[option_checks.one_of("qemu-arch", value, tuple(ARCHITECTURES))]
