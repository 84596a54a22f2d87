"""The locks of the store: one for each machine, one for its `run`, and one for the store itself.

Locks are files in a folder of their own, since a machine's folder comes and goes. They are advisory, and the kernel
releases them when the process ends.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pymachine.driver import names
from pymachine.errors import LockedError, MachineNotFoundError, StoreError
from pymachine.store import paths
from pymachine.system import files, os_errors

LOCK_SECONDS = 900.0
# A younger lock file may belong to a machine that is being created.
_OLD_LOCK_SECONDS = 60.0
_STORE = ".store"
_NAMES = ".names"
_NAMES_SECONDS = 60.0
_SUFFIX = ".lock"
_RUN_SUFFIX = ".run"
# Most file systems allow 255 bytes.
_LONGEST_NAME = 240


def lock_file(root: Path, name: str) -> Path:
    """Return the lock file for `name`. A name too long for a suffix is replaced by its digest."""
    if len(os.fsencode(name)) > _LONGEST_NAME:
        import hashlib  # noqa: PLC0415 (short names do not need it)

        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return paths.locks(root) / f"{name}{_SUFFIX}"


class StoreLocks(ABC):
    """The locks of the store at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether the name of a machine is taken."""

    @contextmanager
    def lock(self, name: str, *, timeout: float = LOCK_SECONDS) -> Iterator[None]:
        """Hold the lock of machine `name`. Raises `LockedError` if it is still held after `timeout` seconds."""
        if not names.is_folder_name(name):
            raise MachineNotFoundError(name)
        path = lock_file(self.root, name)
        with self._acquired(path, name, timeout=timeout):
            try:
                yield
            finally:
                if not self.exists(name):
                    files.discard_lock(path)

    def reserving(self) -> AbstractContextManager[None]:
        """Hold the store's own lock, for what must be unique among its machines. Hold it only for moments."""
        return self._acquired(self.store_lock_file, _STORE, timeout=LOCK_SECONDS)

    def sending_names(self) -> AbstractContextManager[None]:
        """Hold the lock for sending the machines' names to them, so that the newest names arrive last.

        Raises `LockedError` if it is still held after a minute.
        """
        return self._acquired(lock_file(self.root, _NAMES), _NAMES, timeout=_NAMES_SECONDS)

    @property
    def store_lock_file(self) -> Path:
        """The file of the store's own lock."""
        return lock_file(self.root, _STORE)

    @contextmanager
    def _acquired(self, path: Path, name: str, *, timeout: float) -> Iterator[None]:
        try:
            held = files.acquire_lock(path, timeout=timeout)
        except TimeoutError as error:
            raise LockedError(
                f'machine "{name}" is in use by another pymachine for more than {timeout:g} seconds',
                hint="Wait for it to end, or end it.",
            ) from error
        except OSError as error:
            raise os_errors.wrapped(StoreError, f"cannot write in the store {self.root}", error) from error
        with held:
            yield

    def lock_for_run(self, name: str) -> AbstractContextManager[object]:
        """Hold the lock of the `run` that owns machine `name`. Raises TimeoutError if another process holds it."""
        return files.acquire_lock(lock_file(self.root, name + _RUN_SUFFIX), timeout=0)

    def sweep_locks(self) -> None:
        """Remove the lock files of machines that do not exist any more, unless a process holds them."""
        for path in files.old_locks(paths.locks(self.root), seconds=_OLD_LOCK_SECONDS):
            name = path.name.removesuffix(_SUFFIX).removesuffix(_RUN_SUFFIX)
            if name == _STORE or self.exists(name):
                continue
            try:
                with files.acquire_lock(path, timeout=0):
                    files.discard_lock(path)
            except (TimeoutError, OSError):
                continue  # it is held, or another user's
