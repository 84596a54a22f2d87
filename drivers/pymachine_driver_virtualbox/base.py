"""The base class of the driver: a machine's basic facts, read from its record."""

from __future__ import annotations

from pymachine.driver.contract import Driver
from pymachine_driver_virtualbox.vboxmanage import VBoxManage


class VirtualBoxMachine(Driver):
    """A VirtualBox machine, described by its record."""

    @property
    def vm(self) -> str:
        """The identifier to pass to VBoxManage: the recorded UUID, or the name if docker-machine created it."""
        return str(self.config.get("VMUUID") or self.machine.name)

    @property
    def front_end(self) -> str:
        """The VirtualBox front end to start the machine with: ``headless`` by default."""
        return str(self.config.get("UIType") or "headless")

    @property
    def is_unregistered(self) -> bool:
        """Whether `create` has not registered the machine yet. Always false if docker-machine created it."""
        return "VMUUID" in self.config and not self.config.get("Made")

    @property
    def image(self) -> str:
        """The recorded digest of the machine's image, or "" for a boot2docker image."""
        return str(self.config.get("ImageDigest", ""))

    @staticmethod
    def vbox() -> VBoxManage:
        """Return a client for VBoxManage. Raises `NotInstalledError`."""
        return VBoxManage()
