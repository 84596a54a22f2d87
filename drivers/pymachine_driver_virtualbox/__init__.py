"""The driver ``virtualbox``: VirtualBox machines, including those that docker-machine created."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pymachine_driver_virtualbox.driver import VirtualBoxDriver as Driver

__all__ = ["Driver"]


def __getattr__(name: str) -> object:
    """Import the driver when it is first used: `create` looks at each package for the default driver."""
    if name == "Driver":
        from pymachine_driver_virtualbox.driver import VirtualBoxDriver  # noqa: PLC0415

        return VirtualBoxDriver
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
