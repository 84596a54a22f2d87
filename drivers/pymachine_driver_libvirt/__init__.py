"""The driver ``libvirt``: a machine is a QEMU domain of a libvirt on this host or another."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pymachine_driver_libvirt.driver import LibvirtDriver as Driver

__all__ = ["Driver"]


def __getattr__(name: str) -> object:
    """Import the driver when it is first used: `create` looks at each package for the default driver."""
    if name == "Driver":
        from pymachine_driver_libvirt.driver import LibvirtDriver  # noqa: PLC0415

        return LibvirtDriver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
