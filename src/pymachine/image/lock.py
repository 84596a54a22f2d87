"""Lock files: the exact packages of an image, so that another host, or another day, builds the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pymachine.image.errors import RecipeError
from pymachine.image.resolve import Package

FIELDS = ("name", "version", "architecture", "sha256", "size", "filename", "source")


def to_json(package: Package) -> dict[str, Any]:
    """What names one package exactly, and where it was found."""
    return {name: value for name, value in asdict(package).items() if name in FIELDS}


def text(packages: Iterable[Package], *, architecture: str) -> str:
    """A lock file's contents."""
    document = {"architecture": architecture, "packages": [to_json(package) for package in packages]}
    return json.dumps(document, indent=1) + "\n"


def read(path: Path, *, architecture: str) -> list[Package]:
    """The packages of the lock file at `path`. Raises `RecipeError` if it is not one, or for another architecture.

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
