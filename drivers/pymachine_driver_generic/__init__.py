"""The driver ``generic``: a Linux host that is there already and can be reached over SSH."""

from pymachine_driver_generic.driver import Driver

__all__ = ["Driver"]
