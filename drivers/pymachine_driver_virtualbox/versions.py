"""How VirtualBox's versions differ, as far as this driver notices."""

from __future__ import annotations

import sys
from dataclasses import dataclass

Version = tuple[int, int, int]

# docker-machine's own bounds: older than the first is refused, older than the second warned of.
OLDEST: Version = (5, 0, 0)
SUPPORTED: Version = (6, 1, 0)
TESTED: tuple[Version, ...] = ((7, 2, 22),)
# What was never refused by an older version stays as docker-machine wrote it: --natpf1, --nictype1, --rtcuseutc and the
# like are understood by all of 5.0 to 7.2, beside newer spellings.
SINCE: dict[str, Version] = {
    "networks.conf limits host-only addresses": (6, 1, 28),  # VirtualBox's changelog for 6.1.28
    "hostonlynet in place of hostonlyif on macOS": (7, 0, 0),
    "hypervisors beside Hyper-V": (6, 0, 0),
    "takes turns with KVM": (7, 2, 0),  # its kernel module asks KVM's for the processor
}


@dataclass(frozen=True)
class Traits:
    """What a version on a platform (`sys.platform`) does."""

    version: Version
    platform: str = sys.platform

    def since(self, what: str) -> bool:
        """Whether this version is one of those in which that holds."""
        return self.version >= SINCE[what]

    @property
    def limits_host_only(self) -> bool:
        """Whether it refuses host-only addresses that its networks.conf does not allow; on Windows it never does."""
        return self.platform != "win32" and self.since("networks.conf limits host-only addresses")

    @property
    def host_only_networks(self) -> bool:
        """Whether host-only networks are called so, and not interfaces (macOS without kernel extensions)."""
        return self.platform == "darwin" and self.since("hostonlynet in place of hostonlyif on macOS")

    @property
    def runs_beside_kvm(self) -> bool:
        """Whether a KVM module that is loaded, without machines, is in nobody's way."""
        return self.since("takes turns with KVM")

    @property
    def runs_beside_hyper_v(self) -> bool:
        """Whether 64-bit guests run, if slowly, where Hyper-V has the processor."""
        return self.since("hypervisors beside Hyper-V")


def text(version: Version) -> str:
    """``7.2.22``."""
    return ".".join(str(number) for number in version)
