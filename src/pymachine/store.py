"""The store: one folder a machine, docker-machine's layout, written atomically and under locks.

Locks are files in a folder of their own, since a machine's folder comes and goes; they are advisory and end with the
process that holds them, however it ends.
"""

from __future__ import annotations

import itertools
import json
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymachine import files, paths
from pymachine.errors import (
    InvalidNameError,
    LockedError,
    MachineExistsError,
    MachineNotFoundError,
    RecordError,
    StoreError,
)
from pymachine.machine import Machine
from pymachine.migrations import CONFIG_VERSION

# docker-machine's own pattern; the length is what a Linux hostname can have.
NAME_PATTERN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-.]*\Z")
NAME_LENGTH = 63
LOCK_SECONDS = 900.0
STORE_LOCK = ".store"


def check_name(name: str) -> None:
    """Raise `InvalidNameError` unless `name` can be a machine's name, and so a hostname and a folder."""
    if not NAME_PATTERN.match(name):
        raise InvalidNameError(
            "Error creating machine: Invalid hostname specified. Allowed hostname chars are: 0-9a-zA-Z . -",
            hint=f"The name given is {name!r}; it must begin with a letter or a digit.",
        )
    if len(name) > NAME_LENGTH:
        raise InvalidNameError(
            f"Error creating machine: Invalid hostname specified. It has {len(name)} characters; "
            f"at most {NAME_LENGTH} fit into a hostname"
        )


class Store:
    """The machines under one root. Nothing is made on disk before the first `save` or lock."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def machine_dir(self, name: str) -> Path:
        """The folder of machine `name`. Raises `MachineNotFoundError` for what cannot be a name."""
        if not NAME_PATTERN.match(name) or len(name) > NAME_LENGTH:
            raise MachineNotFoundError(name)
        return paths.machine(self.root, name)

    def names(self) -> list[str]:
        """All machines' names in case-insensitive natural order: folders that do not begin with a dot."""
        folder = paths.machines(self.root)
        try:
            found = [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot list {folder}: {error.strerror}") from error
        return sorted(found, key=natural_key)

    def exists(self, name: str) -> bool:
        """Whether there is a machine of that name, loadable or not: its folder is there."""
        return bool(NAME_PATTERN.match(name)) and paths.machine(self.root, name).is_dir()

    def load(self, name: str) -> Machine:
        """The record of machine `name`. Raises `MachineNotFoundError`, or `RecordError` if it cannot be read."""
        folder = self.machine_dir(name)
        path = folder / paths.CONFIG
        try:
            record = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            if not folder.is_dir():
                raise MachineNotFoundError(name) from error
            raise RecordError(f'machine "{name}" has no {paths.CONFIG}', hint=_broken_hint(name)) from error
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise RecordError(f"{path} is not JSON: {error}", hint=_broken_hint(name)) from error
        return Machine.from_json(record, name=name, folder=folder)

    def save(self, machine: Machine) -> None:
        """Write the record of `machine`, making its folder if it is not there. Raises `StoreError`.

        A record that an older version wrote is kept beside, as ``config.json.bak``.
        """
        folder = self.machine_dir(machine.name)
        text = json.dumps(machine.to_json(), indent=4)
        try:
            files.make_private_dir(folder)
            _keep_older(folder)
            files.atomic_write(folder / paths.CONFIG, text, mode=0o600)
        except OSError as error:
            raise StoreError(
                f"cannot write {folder / paths.CONFIG}: {error.strerror}",
                hint="Make the storage path writable, free some space, or choose another with --storage-path.",
            ) from error

    def rename(self, name: str, new: str) -> None:
        """Move the folder of machine `name`, in one step. Hold the locks of both names."""
        folder = self.machine_dir(name)
        try:
            # A folder, even an empty one, must not be replaced.
            if self.machine_dir(new).exists():
                raise MachineExistsError(new)
            folder.rename(self.machine_dir(new))
        except FileNotFoundError as error:
            raise MachineNotFoundError(name) from error
        except OSError as error:
            raise StoreError(f"cannot rename {folder}: {error.strerror}") from error

    def delete(self, name: str) -> None:
        """Remove the folder of machine `name`: gone from the list at once, then from the disk."""
        folder = self.machine_dir(name)
        doomed = folder.with_name(f".removed-{name}-{secrets.token_hex(4)}")
        try:
            folder.rename(doomed)
            shutil.rmtree(doomed)
        except FileNotFoundError as error:
            raise MachineNotFoundError(name) from error
        except OSError as error:
            raise StoreError(f"cannot remove {folder}: {error.strerror}") from error

    @contextmanager
    def lock(self, name: str, *, timeout: float = LOCK_SECONDS) -> Iterator[None]:
        """Hold the lock of machine `name`; waits up to `timeout` seconds, then raises `LockedError`."""
        try:
            held = files.acquire_lock(paths.locks(self.root) / f"{name}.lock", timeout=timeout)
        except TimeoutError as error:
            raise LockedError(
                f'machine "{name}" is in use by another pymachine for more than {timeout:g} seconds',
                hint="Wait for it to end, or end it.",
            ) from error
        except OSError as error:
            raise StoreError(
                f"cannot write in the store {self.root}: {error.strerror}",
                hint="Make the storage path a folder that you can write to, or choose another with --storage-path.",
            ) from error
        with held:
            yield

    @contextmanager
    def reserving(self) -> Iterator[None]:
        """Hold the store's own lock, for what must be unique among its machines; held only for moments."""
        with self.lock(STORE_LOCK):
            yield


def _keep_older(folder: Path) -> None:
    """Copy the record in `folder` if it is of an older version; a copy that is there already stays."""
    path = folder / paths.CONFIG
    try:
        text = path.read_bytes()
        record = json.loads(text)
    except (FileNotFoundError, ValueError):
        return
    if not isinstance(record, dict) or record.get("ConfigVersion", 0) == CONFIG_VERSION:
        return
    for number in itertools.count():
        copy = folder / (paths.CONFIG_BACKUP + (f".{number}" if number else ""))
        if not copy.exists():
            files.atomic_write(copy, text, mode=0o600)
            return
        if copy.read_bytes() == text:
            return


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A sort key under which ``host2`` comes before ``Host10``."""
    return [
        (0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part.lower())
        for part in re.split(r"([0-9]+)", name)
        if part
    ]


def _broken_hint(name: str) -> str:
    return f"Restore it from a backup, or remove the machine: pymachine rm -f {name}"
