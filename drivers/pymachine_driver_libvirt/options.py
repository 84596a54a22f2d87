"""The driver's options, their defaults and their checks."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver import fields
from pymachine.driver.abilities import HardwareChange
from pymachine.driver.contract import Json
from pymachine.driver.errors import UsageError
from pymachine.driver.options import Option, OptionKind

DEFAULT_URI = "qemu:///system"
DEFAULT_POOL = "default"
DEFAULT_NETWORK = "default"
USER_NETWORK = "user"
ACCELERATORS = ("auto", "kvm", "tcg")
AUTO = "auto"

DEFAULT_CPUS = 2
DEFAULT_MEMORY_MIB = 1024
DEFAULT_DISK_MB = 20000
# The kernel, the overlay in memory and dockerd need at least this.
LEAST_MEMORY_MIB = 512
LEAST_DISK_MB = 1000
MOST_CPUS = 255
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
        kind=OptionKind.INTEGER,
        default=DEFAULT_MEMORY_MIB,
        env="LIBVIRT_MEMORY_SIZE",
        help="Size of memory for the machine in MB",
    ),
    Option(
        name="libvirt-disk-size",
        kind=OptionKind.INTEGER,
        default=DEFAULT_DISK_MB,
        env="LIBVIRT_DISK_SIZE",
        help="Size of disk for the machine in MB; it uses space in the pool only as it fills",
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
    patches: tuple[str, ...]
    """The contents of the files."""
    autostart: bool


def check(values: Mapping[str, Json]) -> Choices:
    """Check `values`, which maps each option's name to its value. Raises `UsageError` that names the wrong option."""
    return Choices(
        host=str(values["libvirt-uri"] or DEFAULT_URI),
        cpus=_cpus(values["libvirt-cpu-count"]),
        memory_mib=_at_least(values, "libvirt-memory", LEAST_MEMORY_MIB),
        disk_mb=_at_least(values, "libvirt-disk-size", LEAST_DISK_MB),
        image=_image(values["libvirt-boot2docker-url"]),
        pool=str(values["libvirt-storage-pool"] or DEFAULT_POOL),
        network=str(values["libvirt-network"] or ""),
        machine_type=_word(values, "libvirt-machine-type"),
        cpu_mode=_word(values, "libvirt-cpu-mode") or AUTO,
        accelerator=_accelerator(values["libvirt-accelerator"]),
        patches=tuple(_patch(str(path)) for path in values["libvirt-xml-patch"] or ()),
        autostart=bool(values["libvirt-autostart"]),
    )


def cpu_count(asked: int, host: int) -> int:
    """Return the machine's number of CPUs on a host with `host` CPUs."""
    if asked == -1:
        return min(host, MOST_CPUS)
    # More CPUs than the host has only wait for each other, so the default does not exceed them.
    return min(asked, host) if asked == DEFAULT_CPUS else asked


def changed_hardware(config: Mapping[str, Json], change: HardwareChange) -> dict[str, int]:
    """Return the fields of `config` that `change` changes. Raises `UsageError`."""
    changed: dict[str, int] = {}
    if change.cpus is not None:
        if not 1 <= change.cpus <= MOST_CPUS:
            raise UsageError(f"{change.cpus} CPUs are not possible, expected 1 to {MOST_CPUS}")
        changed["CPU"] = change.cpus
    if change.memory_mib is not None:
        if change.memory_mib < LEAST_MEMORY_MIB:
            raise UsageError(f"{change.memory_mib} MB of memory are too little, expected at least {LEAST_MEMORY_MIB}")
        changed["Memory"] = change.memory_mib
    if change.disk_mb is not None:
        current_mb = int(config.get("DiskSize", DEFAULT_DISK_MB))
        if change.disk_mb < current_mb:
            raise UsageError(f"a disk of {current_mb} MB cannot shrink to {change.disk_mb} MB")
        changed["DiskSize"] = change.disk_mb
    return changed


def _cpus(value: Json) -> int:
    count = _integer("libvirt-cpu-count", value)
    if count != -1 and not 1 <= count <= MOST_CPUS:
        raise UsageError(f"--libvirt-cpu-count is {count}, expected 1 to {MOST_CPUS}, or -1 for all of the host's")
    return count


def _at_least(values: Mapping[str, Json], name: str, least: int) -> int:
    number = _integer(name, values[name])
    if number < least:
        raise UsageError(f"--{name} is {number}, expected at least {least} MB")
    return number


def _integer(name: str, value: Json) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"--{name} is {value!r}, expected a number")
    return value


def _word(values: Mapping[str, Json], name: str) -> str:
    word = str(values[name] or "")
    if word and not _WORD.match(word):
        raise UsageError(f"--{name} is {word!r}, expected a name that has only letters, digits, '.', '_' and '-'")
    return word


def _accelerator(value: Json) -> str:
    word = str(value or AUTO).lower()
    if word not in ACCELERATORS:
        raise UsageError(f"--libvirt-accelerator is {value!r}, expected one of {', '.join(ACCELERATORS)}")
    return word


def _image(value: Json) -> str:
    """Return the image's URL, or its path made absolute, since `start` may run in another directory."""
    text = str(value or "")
    return text if not text or "://" in text else os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111


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
