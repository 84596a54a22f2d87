"""What is in an image, as data: sources, packages, what is left out, and which kernel modules are kept."""

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
    """One apt repository. `url` may be ``main`` or ``security``: the chosen Debian mirror's."""

    name: str
    url: str
    suite: str
    components: tuple[str, ...] = ("main",)
    keyring: tuple[Path, ...]
    """OpenPGP keys, binary or ASCII-armoured, one of which must have signed."""


DEBIAN = (
    Source(name="debian", url="main", suite=RELEASE, keyring=ARCHIVE_KEYS),
    Source(name="debian-updates", url="main", suite=f"{RELEASE}-updates", keyring=ARCHIVE_KEYS),
    Source(name="debian-security", url="security", suite=f"{RELEASE}-security", keyring=SECURITY_KEYS),
)

# The kernel's parameters that the image needs wherever it runs. A kernel that panics starts again after two seconds,
# with the machine's identity and data. It does once in a hundred boots on QEMU 7.2: while it starts it rewrites code of
# its own, and an emulator with several processors may run on one of them what another has just replaced, an `int3`
# that is nobody's. (A start with `maxcpus=1` prevents it, but to bring in the others takes each boot three seconds.)
COMMAND_LINE = "panic=2"
# The kernel's parameters where the ISO starts by itself, beside its consoles. Without audit, and without tests of each
# cipher by itself, it is up a minute sooner where a hypervisor is emulated.
BOOT_COMMAND_LINE = f"quiet loglevel=3 audit=0 cryptomgr.notests=1 {COMMAND_LINE}"

LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/sbin",
    "lib": "usr/lib",
    # update-alternatives' part. Legacy: dockerd has its chains up a second sooner than with nft, in emulation.
    "usr/sbin/iptables": "iptables-legacy",
    "usr/sbin/iptables-restore": "iptables-legacy-restore",
    "usr/sbin/iptables-save": "iptables-legacy-save",
    "usr/sbin/ip6tables": "ip6tables-legacy",
    "usr/sbin/ip6tables-restore": "ip6tables-legacy-restore",
    "usr/sbin/ip6tables-save": "ip6tables-legacy-save",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that an image's bytes depend on, besides the packages themselves and the files of ``rootfs/``."""

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
        """The packages that are asked for by name, the kernel's and the boot loaders' among them."""
        return (*self.packages, KERNEL[self.architecture], *self.loaders[self.architecture])

    def digest(self) -> str:
        """SHA-256 over the recipe's data, to tell whether an image is of this recipe."""
        text = json.dumps(asdict(self), sort_keys=True, default=lambda path: path.name)
        return hashlib.sha256(text.encode()).hexdigest()

    def whole_digest(self) -> str:
        """SHA-256 over the recipe and the files of ``rootfs/``: what an image is made of besides its packages."""
        digest = hashlib.sha256(f"{__version__}\n{self.digest()}\n".encode())
        for path in sorted(path for path in ROOTFS.rglob("*") if path.is_file()):
            name = path.relative_to(ROOTFS).as_posix()
            executable = path.stat().st_mode & 0o100
            digest.update(f"{name}\0{executable}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return digest.hexdigest()
