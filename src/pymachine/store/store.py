"""The store: one folder per machine in docker-machine's layout, written atomically.

See `pymachine.store.locks` for its locks.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from pymachine.driver import names
from pymachine.driver.contract import Json
from pymachine.driver.kit import transactions
from pymachine.errors import (
    MachineExistsError,
    MachineNotFoundError,
    PymachineError,
    RecordError,
    StoreError,
)
from pymachine.store import extra_fields, paths
from pymachine.store.locks import StoreLocks
from pymachine.store.migrations import CONFIG_VERSION
from pymachine.store.record import Machine
from pymachine.system import atomic_dirs, files, os_errors
from pymachine.system.limits import LONGEST_RECORD_BYTES

# docker-machine's prefix for errors in a record.
_MIGRATED = "Error getting migrated host: "
DEEPEST_RECORD = 50


class Store(StoreLocks):
    """The machines below one root. Nothing is created on disk before the first `save` or lock."""

    def machine_dir(self, name: str) -> Path:
        """Return the folder of machine `name`. Raises `MachineNotFoundError` if that cannot be a folder's name."""
        if not names.is_folder_name(name):
            raise MachineNotFoundError(name)
        return paths.machine(self.root, name)

    def names(self) -> list[str]:
        """Return the names of all machines, including unreadable ones, in case-insensitive natural order."""
        return [name for name, is_machine in self._entries() if is_machine]

    def strays(self) -> list[str]:
        """Return the names among the machines' folders that are not folders: files, and links to files."""
        return [name for name, is_machine in self._entries() if not is_machine]

    def _entries(self) -> list[tuple[str, bool]]:
        """Return each name among the machines' folders that is not hidden, and whether it is a machine."""
        folder = paths.machines(self.root)
        try:
            with os.scandir(folder) as entries:
                found = [(entry.name, _is_machine(entry)) for entry in entries if names.is_folder_name(entry.name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise os_errors.wrapped(StoreError, f"cannot list {folder}", error) from error
        return sorted(found, key=lambda entry: (natural_key(entry[0]), entry[0]))

    def exists(self, name: str) -> bool:
        """Return whether the name is taken by a machine, readable or not, or by any other file."""
        return names.is_folder_name(name) and os.path.lexists(paths.machine(self.root, name))

    def load(self, name: str) -> Machine:
        """Return the record of machine `name`.

        Raises `MachineNotFoundError`, `StoreError` if its folder cannot be read, or `RecordError` if there is no
        record in it.
        """
        folder = self.machine_dir(name)
        path = folder / paths.CONFIG
        try:
            record = _read_json(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing_record(name, folder) from error
        except OSError as error:
            raise os_errors.wrapped(StoreError, f"cannot read {path}", error) from error
        except (ValueError, RecursionError) as error:
            where = f"{path} is not JSON: {error}."
            raise RecordError(_MIGRATED + _not_json(error), hint=f"{where} {_broken_hint(name)}") from error
        if isinstance(record, dict) and extra_fields.is_rewritten(record):
            record = extra_fields.restore(record, _extra(folder))
        try:
            return Machine.from_json(record, name=name, folder=folder)
        except RecordError as error:
            raise error.prefixed(_MIGRATED) from error.__cause__

    def save(self, machine: Machine) -> None:
        """Write the record of `machine`, and make its folder if it is missing. Raises `StoreError`.

        If the record cannot be written, a folder that was made for it is removed. An older version's record is kept as
        ``config.json.bak``. The fields that docker-machine would drop are also written to ``pymachine.json``.
        """
        folder = self.machine_dir(machine.name)
        record = machine.to_json()
        with ExitStack() as undo:
            if not os.path.lexists(folder):
                undo.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                files.make_private_dir(folder)
                _keep_older(folder)
                _write(folder, record)
            except OSError as error:
                raise os_errors.wrapped(StoreError, f"cannot write {folder / paths.CONFIG}", error) from error
            undo.pop_all()

    def add(self, machine: Machine) -> None:
        """Write the record of a new machine in one step, with a note that its `create` is unfinished.

        Raises `MachineExistsError` or `StoreError`.
        """
        folder = self.machine_dir(machine.name)
        record = machine.to_json()
        try:
            files.make_private_dir(folder.parent)
            with atomic_dirs.making(folder.parent, private=True) as new:
                _write(new, record)
                transactions.note(new, transactions.CREATE)
                if self.exists(machine.name):
                    raise MachineExistsError(machine.name)
                new.rename(folder)
        except OSError as error:
            raise os_errors.wrapped(StoreError, f"cannot write {folder / paths.CONFIG}", error) from error

    def rename(self, name: str, new: str) -> None:
        """Rename the folder of machine `name` in one step. Hold the locks of both names."""
        folder = self.machine_dir(name)
        try:
            # `rename` would replace an empty folder.
            if self.exists(new):
                raise MachineExistsError(new)
            folder.rename(self.machine_dir(new))
        except FileNotFoundError as error:
            raise MachineNotFoundError(name) from error
        except OSError as error:
            raise os_errors.wrapped(StoreError, f"cannot rename {folder}", error) from error

    def delete(self, name: str) -> None:
        """Remove the folder of machine `name`: first from the list, then from the disk. Raises `StoreError`.

        Of a symbolic link, only the link is removed, as in docker-machine. A folder that cannot be removed gets its
        name back, so that it is visible.
        """
        folder = self.machine_dir(name)
        try:
            atomic_dirs.retire(folder)
        except FileNotFoundError as error:
            raise MachineNotFoundError(name) from error
        except OSError as error:
            raise os_errors.wrapped(StoreError, f"cannot remove {folder}", error) from error


def _write(folder: Path, record: Mapping[str, Json]) -> None:
    """Write a record into the machine's folder. Raises OSError."""
    _save_extra(folder, extra_fields.extract(record))
    files.atomic_write(folder / paths.CONFIG, json.dumps(record, indent=4), mode=0o600)


def _keep_older(folder: Path) -> None:
    """Copy the record in `folder` if it has an older version. Existing copies are kept."""
    path = folder / paths.CONFIG
    try:
        text = files.read_regular(path, longest=LONGEST_RECORD_BYTES)
        record = json.loads(text)
    except (FileNotFoundError, ValueError, RecursionError):
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


def _read_json(path: Path) -> Json:
    """Return the content of a record's file. Raises OSError, ValueError, and RecursionError if it is too deep."""
    value = json.loads(files.read_regular(path, longest=LONGEST_RECORD_BYTES), parse_constant=_no_constant)
    _check_depth(value)
    # Refuse half of a surrogate pair, which JSON can contain but no output encodes. Bytes of paths are fine.
    json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _check_depth(value: Json) -> None:
    """Raise RecursionError if objects and lists are nested deeper than in any record."""
    level = [value]
    for _ in range(DEEPEST_RECORD):
        level = [entry for each in level if isinstance(each, dict | list) for entry in _entries(each)]
        if not level:
            return
    raise RecursionError(f"it is nested deeper than {DEEPEST_RECORD} levels")


def _entries(value: dict[str, Json] | list[Json]) -> list[Json]:
    return list(value.values()) if isinstance(value, dict) else value


def _extra(folder: Path) -> dict[str, Json]:
    """Return the fields that `_save_extra` wrote into `folder`, if any. Raises `RecordError`.

    Leave out the date of certificates that were replaced since then.
    """
    path = folder / paths.EXTRA
    try:
        extra = _read_json(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise os_errors.wrapped(StoreError, f"cannot read {path}", error) from error
    except (ValueError, RecursionError) as error:
        extra, why = None, str(error)
    else:
        why = "it is not a JSON object"
    if not isinstance(extra, dict):
        raise RecordError(
            f"{path} cannot be read: {why}",
            hint="Remove that file; the machine then has no time to live, context or owner.",
        )
    certificate = folder / paths.SERVER_CERT
    if certificate.exists() and certificate.stat().st_mtime > path.stat().st_mtime:
        extra.pop("CertificatesExpire", None)
    return extra


def _save_extra(folder: Path, extra: Mapping[str, Json]) -> None:
    """Write the fields that docker-machine drops, unless the file has them already. Raises OSError."""
    path = folder / paths.EXTRA
    text = json.dumps(extra, indent=4).encode()
    try:
        if path.read_bytes() == text:
            return
    except FileNotFoundError:
        pass
    files.atomic_write(path, text, mode=0o600)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts ``host2`` before ``Host10``."""
    return [
        (0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part.lower())
        for part in re.split(r"([0-9]+)", name)
        if part
    ]


def _is_machine(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is shown as a machine: a folder, or a link to anything but a file."""
    try:
        return entry.is_dir() or (entry.is_symlink() and not entry.is_file())
    except OSError:  # a circular link, or one through an unreadable folder
        return True


def _missing_record(name: str, folder: Path) -> PymachineError:
    """Return the error for a machine without record."""
    if not os.path.lexists(folder):
        return MachineNotFoundError(name)
    if folder.is_dir():
        hint = f"{_broken_hint(name)}\nIf it is no machine, move it out of {folder.parent}."
        return RecordError(f"open {folder / paths.CONFIG}: no such file or directory", hint=hint)
    if folder.is_symlink() and not folder.exists():
        return RecordError(
            f'the folder of machine "{name}" is a link to {folder.readlink()}, which does not exist',
            hint=f"Restore or mount what it leads to, or remove the link: pymachine rm -f {shlex.quote(name)}",
        )
    return RecordError(f"{folder} is a file, not a machine", hint=f"Move it out of {folder.parent}.")


# Messages of Python's JSON decoder, and Go's text for the same place.
_GO_PLACES = {
    "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
    "Illegal trailing comma before end of object": "looking for beginning of object key string",
    "Illegal trailing comma before end of array": "looking for beginning of value",
    "Expecting ':' delimiter": "after object key",
    "Expecting value": "looking for beginning of value",
    "Extra data": "after top-level value",
}


def _not_json(error: ValueError | RecursionError) -> str:
    """Return docker-machine's text for an error in JSON."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    # Python 3.13 points to the comma, Go to the character after it.
    comma = 1 if error.msg.startswith("Illegal trailing comma") else 0
    rest = error.doc[error.pos + comma :].lstrip()
    if not rest or "Unterminated string" in error.msg:
        return "unexpected end of JSON input"
    place = _GO_PLACES.get(error.msg)
    return f"invalid character '{rest[0]}' {place}" if place else str(error)


def _broken_hint(name: str) -> str:
    return f"Restore it from a backup, or remove the machine: pymachine rm -f {shlex.quote(name)}"
