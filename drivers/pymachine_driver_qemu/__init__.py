"""The default driver ``qemu``: each machine is a QEMU process without root."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pymachine_driver_qemu.driver import QemuDriver as Driver

__all__ = ["IS_DEFAULT", "Driver"]

IS_DEFAULT = True
"""`create` uses this driver if none is named: see `pymachine.driver.registry.default_name`."""


def __getattr__(name: str) -> object:
    """Import the driver when it is first used, to keep small the port forwarder, which is in this package too."""
    if name == "Driver":
        from pymachine_driver_qemu.driver import QemuDriver  # noqa: PLC0415

        return QemuDriver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
