"""The driver ``virtualbox``: machines in VirtualBox, docker-machine's own among them."""

from pymachine_driver_virtualbox.driver import VirtualBoxDriver as Driver

__all__ = ["Driver"]
