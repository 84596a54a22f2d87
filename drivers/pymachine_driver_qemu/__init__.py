"""The embedded default driver: one rootless QEMU process a machine."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pymachine_driver_qemu.driver import QemuDriver as Driver

__all__ = ["Driver"]


def __getattr__(name: str) -> object:
    """The driver, once it is asked for: the port forwarder of each machine lives in this package too, and is small."""
    if name == "Driver":
        from pymachine_driver_qemu.driver import QemuDriver  # noqa: PLC0415

        return QemuDriver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
