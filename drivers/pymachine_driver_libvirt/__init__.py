"""The driver ``libvirt``: a machine is a domain of QEMU's that libvirt keeps, on this host or on another."""

from pymachine_driver_libvirt.driver import LibvirtDriver as Driver

__all__ = ["Driver"]
