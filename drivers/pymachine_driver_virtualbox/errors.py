"""Errors of the virtualbox driver."""

from __future__ import annotations

from pymachine.driver.errors import DriverError


class VirtualBoxError(DriverError):
    """VBoxManage failed; `details` has its own messages."""

    code = "virtualbox"

    def __init__(self, brief: str, *, details: str = "", hint: str = "", reason: str = "") -> None:
        super().__init__(brief, details=details, hint=hint)
        self.reason = reason
        """VirtualBox's own error code (``VBOX_E_OBJECT_NOT_FOUND``, ``VERR_DISK_FULL``), or ""."""


class NotInstalledError(VirtualBoxError):
    """VBoxManage is not installed on this host."""

    code = "virtualbox-missing"


class VmNotFoundError(VirtualBoxError):
    """VirtualBox has no machine of that name or UUID."""

    code = "virtualbox-no-vm"


class VirtualizationError(VirtualBoxError):
    """The processor's virtualisation cannot be used: it is off, missing, or used by another hypervisor."""

    code = "virtualbox-vtx"


class HostNetworkError(VirtualBoxError):
    """The host-only network cannot be set up as requested."""

    code = "virtualbox-network"


class GuestError(VirtualBoxError):
    """The guest did not start."""

    code = "virtualbox-guest"
