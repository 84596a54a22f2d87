"""The embedded default driver: one rootless QEMU process a machine."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pymachine_driver_qemu.driver import QemuDriver as Driver

__all__ = ["IS_DEFAULT", "Driver"]

IS_DEFAULT = True
"""`create` uses this driver if none is named: see `pymachine.driver.registry.default_name`."""


def __getattr__(name: str) -> object:
    """Import the driver when it is first used: the port forwarder of each machine is in this package too, and small."""
    if name == "Driver":
        from pymachine_driver_qemu.driver import QemuDriver  # noqa: PLC0415

        return QemuDriver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
