"""Lock files: the exact packages of an image, so that another host builds the same bytes at any time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pymachine.image.debian.resolve import Package
from pymachine.image.errors import RecipeError
from pymachine.system import os_errors
from pymachine.system.files import atomic_write

FIELDS = ("name", "version", "architecture", "sha256", "size", "filename", "source")


def to_json(package: Package) -> dict[str, Any]:
    """Return the JSON that identifies one package and its source."""
    return {name: value for name, value in asdict(package).items() if name in FIELDS}


def read(path: Path, *, architecture: str) -> list[Package]:
    """Read the packages of the lock file at `path`. Raises `RecipeError` if it is invalid or for another architecture.

    The digests in it are trusted as the user's own file is: no index is asked, so that packages which the
    mirror has replaced since can come from the cache.
    """
    try:
        document = json.loads(path.read_text())
        packages = [Package(**{name: entry[name] for name in FIELDS}) for entry in document["packages"]]
        locked = str(document["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{path}: not a lock file",
            details=f"{type(error).__name__}: {error}",
            hint="Make one with: pymachine image build --write-lock FILE",
        ) from error
    if locked != architecture:
        raise RecipeError(f"{path}: locks an image for {locked}, not for {architecture}")
    return sorted(packages, key=lambda package: package.name)


def write(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write the packages of an image's manifest to a lock file. Raises `RecipeError` if that fails."""
    document = {"architecture": manifest["architecture"], "packages": manifest["packages"]}
    try:
        atomic_write(path, json.dumps(document, indent=1) + "\n", mode=0o644)
    except OSError as error:
        raise os_errors.wrapped(RecipeError, f"{path}: cannot be written", error) from error
