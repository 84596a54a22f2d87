"""The driver's options, their defaults and their checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver import fields
from pymachine.driver.abilities import HardwareChange
from pymachine.driver.contract import Config, Json
from pymachine.driver.errors import UsageError
from pymachine.driver.kit import host_memory, kernel_parameters, option_checks
from pymachine.driver.options import Option, OptionKind

DEFAULT_URI = "qemu:///system"
DEFAULT_POOL = "default"
DEFAULT_NETWORK = "default"
USER_NETWORK = "user"
ACCELERATORS = ("auto", "kvm", "tcg")
AUTO = "auto"

DEFAULT_CPUS = 2
# Of a machine whose record does not say it.
RECORDED_MEMORY_MIB = 1024
DEFAULT_DISK_MB = 20000
# The kernel, the overlay in memory and dockerd need at least this.
LEAST_MEMORY_MIB = 512
LEAST_DISK_MB = 1000
MOST_CPUS = 255
# More than any host has, but within the range of QEMU's numbers.
MOST_MEMORY_MIB = 16 << 20
MOST_DISK_MB = 64 << 20
# Names of machine types, of CPU models and of libvirt's CPU modes.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")

OPTIONS = (
    Option(
        name="libvirt-uri",
        default=DEFAULT_URI,
        env="LIBVIRT_DEFAULT_URI",
        help="Connection URI of libvirt, or the name of a host in config.toml's [libvirt.hosts]",
    ),
    Option(
        name="libvirt-cpu-count",
        kind=OptionKind.INTEGER,
        default=DEFAULT_CPUS,
        env="LIBVIRT_CPU_COUNT",
        help="Number of CPUs for the machine (-1: as many as the libvirt host has)",
    ),
    Option(
        name="libvirt-memory",
        kind=OptionKind.SIZE,
        default=host_memory.default_mib(),
        default_text=host_memory.DEFAULT_TEXT,
        env="LIBVIRT_MEMORY_SIZE",
        help="Size of memory for the machine in MB, or such as 4g",
    ),
    Option(
        name="libvirt-disk-size",
        kind=OptionKind.SIZE,
        default=DEFAULT_DISK_MB,
        env="LIBVIRT_DISK_SIZE",
        help="Size of disk for the machine in MB, or such as 60g; it uses space in the pool only as it fills",
    ),
    Option(
        name="libvirt-boot2docker-url",
        default="",
        env="LIBVIRT_BOOT2DOCKER_URL",
        help="Path or URL of the image; by default, one is built on this host",
    ),
    Option(
        name="libvirt-storage-pool",
        default=DEFAULT_POOL,
        env="LIBVIRT_STORAGE_POOL",
        help="Storage pool for the machine's disk and the image",
    ),
    Option(
        name="libvirt-network",
        default="",
        env="LIBVIRT_NETWORK",
        help="libvirt network to join, or 'user' for forwarded ports; by default, one that this host can reach",
    ),
    Option(
        name="libvirt-machine-type",
        default="",
        env="LIBVIRT_MACHINE_TYPE",
        help="QEMU's machine type; by default, q35, or virt on arm64",
    ),
    Option(
        name="libvirt-cpu-mode",
        default=AUTO,
        env="LIBVIRT_CPU_MODE",
        help="auto, host-passthrough, host-model, maximum, or the name of a CPU model",
    ),
    Option(
        name="libvirt-accelerator",
        default=AUTO,
        env="LIBVIRT_ACCELERATOR",
        help="Hardware virtualisation to use: auto, kvm, or tcg for none",
    ),
    Option(
        name="libvirt-no-aslr",
        kind=OptionKind.BOOLEAN,
        default=False,
        env="LIBVIRT_NO_ASLR",
        help=kernel_parameters.NO_ASLR_HELP,
    ),
    Option(
        name="libvirt-xml-patch",
        kind=OptionKind.STRINGS,
        default=(),
        help="File with a <domain> element to merge into the machine's; can be repeated",
    ),
    Option(
        name="libvirt-autostart",
        kind=OptionKind.BOOLEAN,
        default=False,
        env="LIBVIRT_AUTOSTART",
        help="Start the machine when its host starts",
    ),
)


def _is_harmless_uri(value: Json) -> bool:
    from pymachine_driver_libvirt import hosts  # noqa: PLC0415

    try:
        return fields.TEXT.fits(value) and not hosts.runs_program(value)
    except ValueError:  # brackets that contain no address
        return False


_SET = fields.matching(re.compile(r"(?:pymachine-[0-9a-f]{12}-[0-9a-fA-F]{8})?\Z"), "the name of an image's volumes")
_IMAGE_FIELDS = {"ImageDigest": fields.DIGEST, "KernelCommandLine": fields.TEXT, "ImageSet": _SET}
FIELDS = {
    **_IMAGE_FIELDS,
    "ConnectionURI": fields.Field("a libvirt URI that names no program to run", _is_harmless_uri),
    "Host": fields.TEXT,
    "IPAddress": fields.HOST,
    "EnginePort": fields.PORT,
    "SSHPort": fields.PORT,
    "Network": fields.TEXT,
    "MachineID": fields.UUID.needed(),
    "MACAddress": fields.MAC.needed(),
    "CPU": fields.integer(1, MOST_CPUS),
    "Memory": fields.MEMORY_MIB,
    "DiskSize": fields.DISK_MB,
    "StoragePool": fields.TEXT,
    "DiskVolume": fields.TEXT,
    "MachineType": fields.WORD,
    "CPUMode": fields.WORD,
    "Accelerator": fields.one_of(*ACCELERATORS),
    "AcceleratorInUse": fields.one_of("", *ACCELERATORS),
    "NoASLR": fields.BOOLEAN,
    "XMLPatches": fields.STRINGS,
    "Autostart": fields.BOOLEAN,
    "Boot2DockerURL": fields.PATH,
    "Arch": fields.one_of("", "amd64", "arm64"),
    "PreviousImage": fields.section(_IMAGE_FIELDS),
}


@dataclass(frozen=True, kw_only=True)
class Choices:
    """The values of the options, checked as far as possible without a connection to libvirt."""

    host: str
    """A URI, or the name of a host."""
    cpus: int
    """-1 for all CPUs of the host."""
    memory_mib: int
    disk_mb: int
    image: str
    pool: str
    network: str
    """Empty for one that this host can reach."""
    machine_type: str
    cpu_mode: str
    accelerator: str
    no_aslr: bool
    patches: tuple[str, ...]
    """The contents of the files."""
    autostart: bool


def check(values: Mapping[str, Json]) -> Choices:
    """Check `values`, which maps each option's name to its value. Raises `UsageError` that names the wrong option."""
    return Choices(
        host=str(values["libvirt-uri"] or DEFAULT_URI),
        cpus=option_checks.cpu_count("libvirt-cpu-count", values["libvirt-cpu-count"], most=MOST_CPUS),
        memory_mib=option_checks.integer(
            "libvirt-memory", values["libvirt-memory"], least=LEAST_MEMORY_MIB, most=MOST_MEMORY_MIB
        ),
        disk_mb=option_checks.integer(
            "libvirt-disk-size", values["libvirt-disk-size"], least=LEAST_DISK_MB, most=MOST_DISK_MB
        ),
        image=option_checks.image_source(values["libvirt-boot2docker-url"]),
        pool=str(values["libvirt-storage-pool"] or DEFAULT_POOL),
        network=str(values["libvirt-network"] or ""),
        machine_type=_word(values, "libvirt-machine-type"),
        cpu_mode=_word(values, "libvirt-cpu-mode") or AUTO,
        accelerator=option_checks.one_of("libvirt-accelerator", values["libvirt-accelerator"] or AUTO, ACCELERATORS),
        no_aslr=bool(values["libvirt-no-aslr"]),
        patches=tuple(_patch(str(path)) for path in values["libvirt-xml-patch"] or ()),
        autostart=bool(values["libvirt-autostart"]),
    )


def changed_hardware(config: Mapping[str, Json], change: HardwareChange) -> Config:
    """Return the fields of `config` that `change` changes. Raises `UsageError`."""
    return option_checks.changed_hardware(
        config,
        change,
        cpus=_fixed_cpus,
        least_memory_mib=LEAST_MEMORY_MIB,
        most_memory_mib=MOST_MEMORY_MIB,
        most_disk_mb=MOST_DISK_MB,
        default_disk_mb=DEFAULT_DISK_MB,
    )


def _fixed_cpus(flag: str, count: int) -> int:
    if not 1 <= count <= MOST_CPUS:
        raise UsageError(f"--{flag} is {count}, expected 1 to {MOST_CPUS}")
    return count


def _word(values: Mapping[str, Json], name: str) -> str:
    word = str(values[name] or "")
    if word and not _WORD.match(word):
        raise UsageError(f"--{name} is {word!r}, expected a name that has only letters, digits, '.', '_' and '-'")
    return word


def _patch(path: str) -> str:
    """Return the file's text. The record keeps it, since `start` may define the domain again without the file."""
    from pymachine_driver_libvirt import patch  # noqa: PLC0415 (imports xml, which only `create` needs)

    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"--libvirt-xml-patch: cannot read {path}: {why}") from error
    patch.check(text, name=path)
    return text
