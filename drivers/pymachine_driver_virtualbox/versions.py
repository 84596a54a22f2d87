"""The differences between VirtualBox's versions that concern this driver."""

from __future__ import annotations

import sys
from dataclasses import dataclass

Version = tuple[int, int, int]

# docker-machine's own limits: versions before OLDEST are refused, those before SUPPORTED cause a warning.
OLDEST: Version = (5, 0, 0)
SUPPORTED: Version = (6, 1, 0)
TESTED: tuple[Version, ...] = ((7, 2, 22),)
# Options such as --natpf1, --nictype1 and --rtcuseutc need no entry here: all of 5.0 to 7.2 accept docker-machine's
# spellings, though newer ones exist.
SINCE: dict[str, Version] = {
    "networks.conf limits host-only addresses": (6, 1, 28),  # VirtualBox's changelog for 6.1.28
    "NAT hides the host's loopback": (7, 0, 0),  # from new machines, unless an option is set
    "hostonlynet in place of hostonlyif on macOS": (7, 0, 0),
    "hypervisors beside Hyper-V": (6, 0, 0),
    "takes turns with KVM": (7, 2, 0),  # its kernel module requests the processor from KVM's
}


@dataclass(frozen=True)
class Traits:
    """The properties of a version on a platform (`sys.platform`)."""

    version: Version
    platform: str = sys.platform

    def since(self, what: str) -> bool:
        """Return whether this version has that feature of `SINCE`."""
        return self.version >= SINCE[what]

    @property
    def limits_host_only(self) -> bool:
        """Whether it refuses host-only addresses that its networks.conf does not allow. Never on Windows."""
        return self.platform != "win32" and self.since("networks.conf limits host-only addresses")

    @property
    def host_only_networks(self) -> bool:
        """Whether it has host-only networks in place of interfaces, as on macOS without kernel extensions."""
        return self.platform == "darwin" and self.since("hostonlynet in place of hostonlyif on macOS")

    @property
    def hides_loopback(self) -> bool:
        """Whether guests reach the host's loopback only if an option allows it."""
        return self.since("NAT hides the host's loopback")

    @property
    def runs_beside_kvm(self) -> bool:
        """Whether machines start while the KVM module is loaded, if KVM runs no machines."""
        return self.since("takes turns with KVM")

    @property
    def runs_beside_hyper_v(self) -> bool:
        """Whether 64-bit guests run while Hyper-V uses the processor, even if slowly."""
        return self.since("hypervisors beside Hyper-V")


def text(version: Version) -> str:
    """Format a version, such as ``7.2.22``."""
    return ".".join(str(number) for number in version)
