"""The contents of an image, as data: sources, packages, omitted files, and kernel modules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pymachine import __version__
from pymachine.image.errors import RecipeError
from pymachine.image.kernel.module_list import INITRD_MODULES, INITRD_MORE_MODULES, MODULES
from pymachine.image.packages import EXCLUDED, KERNEL, LEFT_OUT, LOADERS, PACKAGES

KEYS = Path(__file__).parent / "keys"
ROOTFS = Path(__file__).parent / "rootfs"
RELEASE = "trixie"
# Raise it when a change of the code gives the same recipe other bytes, so that existing images are not reused.
FORMAT = 3
ARCHITECTURES = ("amd64", "arm64")
# The archive key signs trixie and trixie-updates (a point release also with the stable key), the other one security.
ARCHIVE_KEYS = (KEYS / "debian-archive-trixie-automatic.asc", KEYS / "debian-archive-trixie-stable.asc")
SECURITY_KEYS = (KEYS / "debian-archive-trixie-security-automatic.asc",)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One apt repository. `url` may be ``main`` or ``security``, for the chosen Debian mirror."""

    name: str
    url: str
    suite: str
    components: tuple[str, ...] = ("main",)
    keyring: tuple[Path, ...]
    """OpenPGP keys, binary or ASCII-armoured. One of them must have signed InRelease."""


DEBIAN = (
    Source(name="debian", url="main", suite=RELEASE, keyring=ARCHIVE_KEYS),
    Source(name="debian-updates", url="main", suite=f"{RELEASE}-updates", keyring=ARCHIVE_KEYS),
    Source(name="debian-security", url="security", suite=f"{RELEASE}-security", keyring=SECURITY_KEYS),
)

# Kernel parameters that the image needs everywhere. A kernel that panics reboots after two seconds, with the machine's
# identity and data. That happens once in a hundred boots on QEMU 7.2: the kernel patches its own code while it starts,
# and in an emulator with several processors one may run an `int3` that another has just replaced, which no handler
# expects. (`maxcpus=1` prevents it, but enabling the other processors later costs each boot three seconds.)
# The kernel's self-tests of ciphers take a second of processor time in software emulation.
COMMAND_LINE = "panic=2 cryptomgr.notests=1"
# Further kernel parameters where the ISO boots with its own loaders. Without audit and those self-tests, the guest
# boots a minute faster in an emulated hypervisor.
BOOT_COMMAND_LINE = f"quiet loglevel=3 audit=0 {COMMAND_LINE}"

LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    # Debian's alternatives. In emulation dockerd sets up its chains a second faster with legacy iptables than with nft.
    "usr/sbin/iptables": "iptables-legacy",
    "usr/sbin/iptables-restore": "iptables-legacy-restore",
    "usr/sbin/iptables-save": "iptables-legacy-save",
    "usr/sbin/ip6tables": "ip6tables-legacy",
    "usr/sbin/ip6tables-restore": "ip6tables-legacy-restore",
    "usr/sbin/ip6tables-save": "ip6tables-legacy-save",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that determines an image's bytes, except the packages' content and the files of ``rootfs/``."""

    architecture: str
    sources: tuple[Source, ...] = DEBIAN
    packages: tuple[str, ...] = PACKAGES
    excluded: tuple[str, ...] = EXCLUDED
    left_out: tuple[str, ...] = LEFT_OUT
    modules: tuple[str, ...] = MODULES
    initrd_modules: tuple[str, ...] = INITRD_MODULES
    initrd_more_modules: tuple[str, ...] = INITRD_MORE_MODULES
    loaders: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: dict(LOADERS))
    command_line: str = COMMAND_LINE
    boot_command_line: str = BOOT_COMMAND_LINE
    format: int = FORMAT
    links: Mapping[str, str] = field(default_factory=lambda: dict(LINKS))

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise RecipeError(
                f"no image can be built for the architecture {self.architecture}",
                hint=f"Choose one of: {', '.join(ARCHITECTURES)}",
            )

    @property
    def roots(self) -> tuple[str, ...]:
        """The packages requested by name, including the kernel's and the boot loaders'."""
        return (*self.packages, KERNEL[self.architecture], *self.loaders[self.architecture])

    def digest(self) -> str:
        """Return the SHA-256 of the recipe's data."""
        text = json.dumps(asdict(self), sort_keys=True, default=lambda path: path.name)
        return hashlib.sha256(text.encode()).hexdigest()

    def whole_digest(self) -> str:
        """Return the SHA-256 of the recipe and the files of ``rootfs/``, which identifies the images built from it."""
        digest = hashlib.sha256(f"{__version__}\n{self.digest()}\n".encode())
        for path in sorted(path for path in ROOTFS.rglob("*") if path.is_file()):
            name = path.relative_to(ROOTFS).as_posix()
            executable = path.stat().st_mode & 0o100
            digest.update(f"{name}\0{executable}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return digest.hexdigest()
