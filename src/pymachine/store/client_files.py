"""The certificate files that a client of one machine uses."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pymachine.store import paths


class ClientFiles(NamedTuple):
    """The CA that signed the engine's certificate, and the client's certificate and key."""

    ca: Path
    cert: Path
    key: Path

    @classmethod
    def in_folder(cls, folder: Path) -> ClientFiles:
        """Return the files under the names that the docker client looks for in DOCKER_CERT_PATH."""
        return cls(folder / paths.CA_CERT, folder / paths.CLIENT_CERT, folder / paths.CLIENT_KEY)

    @property
    def folder(self) -> Path | None:
        """The folder for DOCKER_CERT_PATH, or None if the docker client would not find the files."""
        folder = self.ca.parent
        return folder if self == ClientFiles.in_folder(folder) else None

    def exist(self) -> bool:
        """Return whether all three files exist."""
        return all(path.is_file() for path in self)
