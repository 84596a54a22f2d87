"""The driver ``generic``: an existing Linux host that is reached over SSH."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pymachine_driver_generic.driver import Driver

__all__ = ["Driver"]


def __getattr__(name: str) -> object:
    """Import the driver when it is first used, since `create` imports each package to find the default driver."""
    if name == "Driver":
        from pymachine_driver_generic.driver import Driver  # noqa: PLC0415

        return Driver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
