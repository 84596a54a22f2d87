"""pymachine's image as the ISO of a machine whose program expects boot2docker's.

The program gets the URL of a file in the machine's folder, and copies it to ``boot2docker.iso`` in the same folder, as
docker-machine's package libmachine/mcnutils does. The same package replaces that copy in an upgrade.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from pymachine.driver.contract import Config, ImageFiles, MachineRef
from pymachine.driver.errors import DriverError

OURS = "pymachine.iso"
"""The image for the program to copy, which stays for docker-machine's `upgrade`."""
COPY = "boot2docker.iso"
"""The program's copy, which the machine boots."""
_BEFORE = ".before"
# docker-machine's name of the field with the URL of an image that the user chose.
_URL_FIELD = "Boot2DockerURL"


class MachineIso:
    """The images in a machine's folder."""

    def __init__(self, machine: MachineRef) -> None:
        self._ours = machine.directory / OURS
        self._copy = machine.directory / COPY

    @property
    def url(self) -> str:
        """The URL that the program gets."""
        return self._ours.as_uri()

    def boots_ours(self, config: Config) -> bool:
        """Return whether the program of the machine got `url`."""
        return self.url in config.values()

    def can_be_replaced(self, config: Config) -> bool:
        """Return whether `replace` works: the machine boots the program's copy of ours, or of boot2docker's default."""
        return self._copy.is_file() and (self.boots_ours(config) or not config.get(_URL_FIELD))

    def offer(self, image: ImageFiles) -> None:
        """Put our image where the program expects it."""
        _link_or_copy(image.iso, self._ours)

    def digest(self) -> str:
        """Return the SHA-256 of the copy, in hexadecimal."""
        with self._copy.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def replace(self, image: ImageFiles) -> None:
        """Boot `image` from the next start on, and keep the current images."""
        if not self._copy.is_file():
            raise DriverError(f"{self._copy} does not exist, so the machine boots another image")
        for path in (self._copy, self._ours):
            if path.exists() and not _kept(path).exists():
                path.replace(_kept(path))
        # No link: docker-machine overwrites the file in an upgrade.
        shutil.copyfile(image.iso, self._copy)
        self.offer(image)

    def commit(self) -> None:
        """Delete the previous images."""
        for path in (self._copy, self._ours):
            _kept(path).unlink(missing_ok=True)

    def roll_back(self) -> None:
        """Restore the previous images."""
        for path in (self._copy, self._ours):
            if _kept(path).exists():
                _kept(path).replace(path)


def _kept(path: Path) -> Path:
    return path.with_name(path.name + _BEFORE)


def _link_or_copy(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
