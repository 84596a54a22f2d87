"""The driver ``virtualbox``: VirtualBox machines, including those that docker-machine created."""

from pymachine_driver_virtualbox.driver import VirtualBoxDriver as Driver

__all__ = ["Driver"]
