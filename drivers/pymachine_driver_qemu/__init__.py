"""The embedded default driver: one rootless QEMU process a machine."""

from pymachine_driver_qemu.driver import QemuDriver as Driver

__all__ = ["Driver"]
