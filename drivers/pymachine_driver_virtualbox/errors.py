"""What can go wrong with VirtualBox."""

from __future__ import annotations

from pymachine.driver.errors import DriverError


class VirtualBoxError(DriverError):
    """VBoxManage did not do as told; `details` has its own words."""

    code = "virtualbox"

    def __init__(self, brief: str, *, details: str = "", hint: str = "", reason: str = "") -> None:
        super().__init__(brief, details=details, hint=hint)
        self.reason = reason
        """VirtualBox's own code for it (``VBOX_E_OBJECT_NOT_FOUND``, ``VERR_DISK_FULL``), or nothing."""


class NotInstalledError(VirtualBoxError):
    """There is no VBoxManage on this host."""

    code = "virtualbox-missing"


class VmNotFoundError(VirtualBoxError):
    """VirtualBox has no machine of that name or UUID."""

    code = "virtualbox-no-vm"


class VirtualizationError(VirtualBoxError):
    """The processor's virtualisation cannot be used: off, missing, or another hypervisor has it."""

    code = "virtualbox-vtx"


class HostNetworkError(VirtualBoxError):
    """The host-only network cannot be had as asked for."""

    code = "virtualbox-network"


class GuestError(VirtualBoxError):
    """The guest did not come up."""

    code = "virtualbox-guest"
