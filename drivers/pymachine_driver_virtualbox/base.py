"""What all parts of the driver know of a machine."""

from __future__ import annotations

from pymachine.driver.contract import Driver
from pymachine_driver_virtualbox.vboxmanage import VBoxManage


class VirtualBoxMachine(Driver):
    """A machine in VirtualBox, by its record."""

    @property
    def vm(self) -> str:
        """What VBoxManage calls the machine by: our UUID, or the name for docker-machine's own."""
        return str(self.config.get("VMUUID") or self.machine.name)

    @property
    def front_end(self) -> str:
        """How VirtualBox shows the machine."""
        return str(self.config.get("UIType") or "headless")

    @property
    def unmade(self) -> bool:
        """Whether `create` never came to make it; a machine of docker-machine's was made by that."""
        return "VMUUID" in self.config and not self.config.get("Made")

    @property
    def image(self) -> str:
        """The digest of the image that it boots, as noted; nothing for boot2docker's own."""
        return str(self.config.get("ImageDigest", ""))

    @staticmethod
    def vbox() -> VBoxManage:
        """VirtualBox's command line. Raises `NotInstalledError`."""
        return VBoxManage()
