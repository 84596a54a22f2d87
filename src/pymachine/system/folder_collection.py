"""Collections of folders with a manifest, such as images, templates and snapshots.

Each folder is renamed into place when it is whole, and its files never change after that.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pymachine.errors import PymachineError
from pymachine.system import atomic_dirs, files, manifests, os_errors
from pymachine.system.progress import Reporter

DIGITS = 12
"""How many digits of a digest are in the name of a folder that is named by its content."""
LOCK_SECONDS = 3600.0
LONGEST_MANIFEST = 1 << 20


@dataclass(frozen=True)
class ManifestFolder:
    """A folder of a collection."""

    directory: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """The name in commands."""
        return self.directory.name


FolderT = TypeVar("FolderT", bound=ManifestFolder)


class FolderCollection(ABC, Generic[FolderT]):
    """The folders of one kind below `root`. Nothing is created on disk before the first `making` or `locked`."""

    noun: ClassVar[str]
    manifest_name: ClassVar[str]
    error: ClassVar[type[PymachineError]]
    is_private: ClassVar[bool] = True
    elsewhere: ClassVar[str] = os_errors.STORE_OPTION
    """The option or variable that chooses another place, for hints."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def parse(self, directory: Path, manifest: Any) -> FolderT | None:
        """Return the folder with that manifest, or None if it is incomplete.

        May raise ValueError, KeyError, TypeError or OverflowError, which mean the same.
        """

    def open(self, name: str) -> FolderT | None:
        """Return the folder of that name, or None if there is none or its manifest cannot be read."""
        directory = self.root / name
        try:
            manifest = json.loads(files.read_regular(directory / self.manifest_name, longest=LONGEST_MANIFEST))
            return self.parse(directory, manifest)
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None

    def all(self) -> list[FolderT]:
        """Return all folders by name. Skip what has no readable manifest."""
        return [found for path in sorted(self.root.glob("[!.]*")) if (found := self.open(path.name))]

    def making(self) -> AbstractContextManager[Path]:
        """Return a context with an empty folder, to be filled and given to `publish`. Raises OSError."""
        return atomic_dirs.making(self.root, private=self.is_private)

    def publish(self, folder: Path, name: str) -> None:
        """Put a folder from `making` in place, replacing an older one of that name. Raises OSError."""
        atomic_dirs.publish(folder, self.root / name)

    def remove(self, name: str) -> bool:
        """Remove a folder and return whether it existed. Raises `error`."""
        try:
            atomic_dirs.retire(self.root / name)
        except FileNotFoundError:
            return False
        except OSError as error:
            where = f"cannot remove {self.root / name}"
            raise os_errors.wrapped(self.error, where, error, elsewhere=self.elsewhere) from error
        return True

    def has_linked_files(self, found: FolderT) -> bool:  # noqa: ARG002
        """Return whether hard links to the files of a folder come and go; see `manifests.check`."""
        return False

    def digest(self, path: Path) -> str:
        """Return the digest of a file, as the manifest has it. Raises OSError."""
        return manifests.sparse_digest(path)

    def check(self, found: FolderT) -> None:
        """Raise `ContentError` if one of the folder's files is damaged."""
        described = found.manifest["files"]
        linked = self.has_linked_files(found)
        manifests.check(found.directory, self.manifest_name, described, digest=self.digest, linked=linked)

    def intact(self, found: FolderT | None, reporter: Reporter) -> FolderT | None:
        """Return `found`, or None if one of its files is damaged. A damaged folder is removed with a warning.

        Raises `error` if it cannot be removed.
        """
        if found is None:
            return None
        try:
            self.check(found)
        except manifests.ContentError as error:
            reporter.warn(f"The {self.noun} {found.name} is removed: {error.brief}.")
            self.remove(found.name)
            return None
        return found

    @contextmanager
    def locked(
        self, key: str, *, what: str, waiting: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> Iterator[None]:
        """Hold the lock under which folders of `key` are made.

        `what` is being made, for messages. `waiting` is entered while another process holds the lock. Raises `error`
        after `LOCK_SECONDS`, or if there can be no lock file.
        """
        path = self.root / f".{key}.lock"
        try:
            try:
                held = files.acquire_lock(path, timeout=0)
            except TimeoutError:
                with waiting():
                    held = files.acquire_lock(path, timeout=LOCK_SECONDS)
        except TimeoutError as error:
            raise self.error(f"another pymachine has been making {what} for {LOCK_SECONDS:g} seconds") from error
        except OSError as error:
            where = f"cannot write in {self.root}"
            raise os_errors.wrapped(self.error, where, error, elsewhere=self.elsewhere) from error
        with held:
            yield
