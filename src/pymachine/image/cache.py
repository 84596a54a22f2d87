"""The images on this host: add, find, list, verify, remove and export them.

Layout: ``CACHE/images/<architecture>-<first 12 digits of the ISO's SHA-256>/``. A folder is renamed into place when
it is complete, and its files never change after that.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymachine.driver.contract import ImageFiles
from pymachine.image.errors import DigestError, ImageError, ImageNotFoundError, RecipeError
from pymachine.image.layout import INITRD, ISO, KERNEL, MANIFEST, describe_file
from pymachine.store import paths
from pymachine.system import atomic_dirs, os_errors
from pymachine.system.files import atomic_write
from pymachine.system.folder_collection import DIGITS, FolderCollection, ManifestFolder
from pymachine.system.progress import Reporter

# The time is kept in a file, since not every copy preserves files' times, and the newest image is used.
BUILT = "built"
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(frozen=True)
class Image(ManifestFolder):
    """One image in the cache."""

    @property
    def digest(self) -> str:
        """The SHA-256 of the ISO."""
        return str(self.manifest["digest"])

    @property
    def architecture(self) -> str:
        """Its architecture, by Debian's name."""
        return str(self.manifest["architecture"])

    @property
    def built(self) -> float:
        """When it was added, in seconds since the epoch."""
        try:
            return float((self.directory / BUILT).read_text())
        except (OSError, ValueError):  # an older version made it
            return self.directory.joinpath(MANIFEST).stat().st_mtime

    def files(self) -> ImageFiles:
        """Return the image's files in the form that drivers use."""
        return ImageFiles(
            digest=self.digest,
            architecture=self.architecture,
            iso=self.directory / ISO,
            kernel=self.directory / KERNEL,
            initrd=self.directory / INITRD,
            command_line=str(self.manifest.get("command_line", "")),
        )


class Images(FolderCollection[Image]):
    """The images below one folder."""

    noun = "image"
    manifest_name = MANIFEST
    error = ImageError
    is_private = False
    elsewhere = paths.ENV_CACHE

    def has_linked_files(self, found: Image) -> bool:  # noqa: ARG002
        """See `FolderCollection.has_linked_files`. Machines have links to the files of their images."""
        return True

    def parse(self, directory: Path, manifest: Any) -> Image | None:
        """See `FolderCollection.parse`."""
        sizes = [int(manifest["files"][name]["size"]) for name in (ISO, KERNEL, INITRD)]
        complete = manifest["digest"] and manifest["architecture"] and all(sizes)
        return Image(directory, manifest) if complete else None

    def digest(self, path: Path) -> str:
        """See `FolderCollection.digest`."""
        return str(describe_file(path)["sha256"])


def images_dir(store: Path) -> Path:
    """Return the folder of all images, for the store at `store`."""
    return paths.cache(store) / "images"


def host_architecture() -> str:
    """Return this host's architecture by Debian's name. Raises `RecipeError` if there is no image for it."""
    machine = platform.machine().lower()
    if machine not in ARCHITECTURES:
        raise RecipeError(f"no image can be built for this host's architecture, {machine}")
    return ARCHITECTURES[machine]


def newest(store: Path, architecture: str, *, recipe: str = "") -> Image | None:
    """Return the image that was added last, of that `recipe` digest if one is given."""
    matching = [
        image
        for image in list_images(store)
        if image.architecture == architecture and recipe in {"", image.manifest.get("recipe")}
    ]
    return max(matching, key=lambda image: image.built, default=None)


def intact(image: Image | None, reporter: Reporter) -> Image | None:
    """Return `image`, or None if one of its files is damaged. A damaged image is removed with a warning."""
    return Images(image.directory.parent).intact(image, reporter) if image else None


def list_images(store: Path) -> list[Image]:
    """Return all images by name. Folders that are not images are skipped."""
    return Images(images_dir(store)).all()


def find(store: Path, name: str) -> Image:
    """Return the image with this name, or whose digest begins with it. Raises `ImageNotFoundError`."""
    images = list_images(store)
    matching = [image for image in images if image.name == name] or [
        image for image in images if name and image.digest.startswith(name)
    ]
    if len(matching) == 1:
        return matching[0]
    problem = f'no image "{name}"' if not matching else f'"{name}" fits more than one image'
    raise ImageNotFoundError(problem, hint="List them: pymachine image ls")


def locked(store: Path, key: str) -> AbstractContextManager[None]:
    """Hold the lock for making images of `key`, which is an architecture or a source."""
    return Images(images_dir(store)).locked(key, what="an image")


def add(store: Path, fill: Callable[[Path], dict[str, Any]]) -> Image:
    """Add an image to the cache. `fill` writes its files into an empty folder and returns the manifest.

    The folder is removed if `fill` raises. Call this under `locked`.
    """
    images = Images(images_dir(store))
    try:
        with images.making() as folder:
            manifest = fill(folder)
            name = f"{manifest['architecture']}-{manifest['digest'][:DIGITS]}"
            if not images.open(name):
                images.publish(folder, name)
            # If the cache has this image already, it is now the newest.
            atomic_write(images.root / name / BUILT, f"{time.time()}\n", mode=0o644)
    except OSError as error:
        where = f"cannot make an image in {images.root}"
        failed = os_errors.wrapped(ImageError, where, error, elsewhere=paths.ENV_CACHE)
        if error.errno in os_errors.NO_SPACE:
            failed.hint = f"An image needs about 2 GB of free space while it is built. {failed.hint}"
        raise failed from error
    return Image(images.root / name, manifest)


def verify(image: Image) -> None:
    """Raise `DigestError`, naming the file, if a file differs from the manifest."""
    for name, expected in image.manifest["files"].items():
        path = image.directory / name
        if not path.is_file():
            raise DigestError(f"{path} is missing", hint=_rebuild(image))
        actual = describe_file(path)
        if actual != expected:
            raise DigestError(
                f"{path} is not the file that was built",
                details=f"expected {expected['sha256']} ({expected['size']} bytes)\n"
                f"found    {actual['sha256']} ({actual['size']} bytes)",
                hint=_rebuild(image),
            )


def _rebuild(image: Image) -> str:
    return f"Remove it (pymachine image rm {image.name}); the next create builds it again."


def remove(image: Image) -> None:
    """Remove an image. Machines keep their own hard links or copies. Raises OSError."""
    atomic_dirs.retire(image.directory)


def export(image: Image, target: Path) -> Path:
    """Copy the ISO to `target` (a file, or a folder for ``boot2docker.iso``) and return its path.

    The ISO contains kernel, RAM disk and manifest, and can be imported with `ImageRequest.source`.
    """
    path = target / ISO if target.is_dir() else target
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(image.directory / ISO, part)
        part.replace(path)
    except OSError as error:
        raise os_errors.wrapped(ImageError, f"cannot write {path}", error) from error
    finally:
        part.unlink(missing_ok=True)
    return path
