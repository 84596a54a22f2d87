"""The project file, ``pymachine.toml``: find it, read it, and check the names and types of its keys.

It may come from a cloned repository, so everything in it is input. `pymachine.cli.project` applies its values, and
`pymachine.cli.project_trust` decides which of them need the user's permission.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pymachine.driver import fields
from pymachine.errors import PymachineError
from pymachine.system import files, os_errors, printable

NAME = "pymachine.toml"
MACHINE = "machine"
ENGINE = "engine"
OPTIONS = "options"
# tomllib takes a second for a dotted key of this length, and 13 seconds for one of 64 KiB.
LONGEST_BYTES = 16 * 1024
_EXAMPLE = '[machine]\nmemory = 4096\nshares = ["."]'
_SHOWN_KEYS = 12
# Python does not print an integer of 4300 digits, which TOML can have in hexadecimal.
_MOST_INTEGER = 2**63 - 1


class ProjectFileError(PymachineError):
    """A project file cannot be found or read, or has a wrong key or value."""

    code = "project-file"


@dataclass(frozen=True)
class Kind:
    """A type of value: its name for people, its JSON schema and the Python types that tomllib returns for it."""

    expected: str
    schema: Mapping[str, Any]
    types: tuple[type, ...]

    def fits(self, value: Any) -> bool:
        """Return whether `value` is of this type. Texts are single lines, as on a command line."""
        if isinstance(value, list):
            return list in self.types and all(isinstance(each, str) and fields.TEXT.fits(each) for each in value)
        if isinstance(value, int) and not -_MOST_INTEGER <= value <= _MOST_INTEGER:
            return False
        return type(value) in self.types and (not isinstance(value, str) or fields.TEXT.fits(value))


_TEXT_SCHEMA = {"type": "string", "pattern": r"^[^\u0000-\u001f]*$"}
TEXT = Kind("a line of text", _TEXT_SCHEMA, (str,))
TEXTS = Kind("a list of texts", {"type": "array", "items": _TEXT_SCHEMA}, (list,))
BOOLEAN = Kind("true or false", {"type": "boolean"}, (bool,))
NUMBER = Kind("a whole number", {"type": "integer"}, (int,))
# As text it is what the option accepts on the command line.
SIZE = Kind("a whole number, or a text", {"type": ["integer", "string"]}, (int, str))
NAME_OR_FALSE = Kind("a text, true or false", {"type": ["string", "boolean"]}, (str, bool))
ANY = Kind(
    "a text, a whole number, true, false or a list of texts",
    {"type": ["string", "integer", "boolean", "array"], "items": _TEXT_SCHEMA},
    (str, int, bool, list),
)


@dataclass(frozen=True)
class Key:
    """One key of ``[machine]``."""

    kind: Kind
    help: str


# The keys of [machine]. Those of [machine.engine] are the options --engine-* of `create`.
KEYS: dict[str, Key] = {
    "name": Key(TEXT, "Name of the machine. Default: the name of the file's folder, as far as a machine can have it."),
    "driver": Key(TEXT, "Driver of the machine, as `--driver`."),
    "cpus": Key(NUMBER, "Number of CPUs, as the driver's option `--DRIVER-cpu-count`."),
    "memory": Key(SIZE, 'Size of memory in MB, or such as `"4g"`, as the driver\'s option `--DRIVER-memory`.'),
    "disk": Key(SIZE, 'Size of the disk in MB, or such as `"60g"`, as the driver\'s option `--DRIVER-disk-size`.'),
    "shares": Key(
        TEXTS,
        "Folders of this host to share, each as `PATH[:GUEST_PATH][:ro]`, relative to the file's folder. Default: the "
        "list in `config.toml`, or else the file's folder. `[]` shares none.",
    ),
    "share-events": Key(BOOLEAN, "`false` is `--no-share-events`."),
    "socket": Key(BOOLEAN, "`true` is `--socket`."),
    "ipv6": Key(BOOLEAN, "`true` is `--ipv6`."),
    "ipv6-ports": Key(BOOLEAN, "`true` is `--ipv6-ports`."),
    "ca-certs": Key(
        TEXTS,
        "Files with CA certificates that the machine trusts, as `--ca-cert`, relative to the file's folder.",
    ),
    "host-proxy": Key(BOOLEAN, "`false` is `--no-host-proxy`."),
    "container-proxy": Key(BOOLEAN, "`true` is `--container-proxy`."),
    "template": Key(
        NAME_OR_FALSE,
        "Template that the machine is made from, as `--template`; it matters only when the machine is created. `false` "
        "is `--no-template`.",
    ),
    "tls-san": Key(TEXTS, "Further names in the server certificate, as `--tls-san`."),
    "provision": Key(
        TEXTS,
        "Scripts to run as root in the machine, in this order, relative to the file's folder. Each runs once, and "
        "again when its content has changed.",
    ),
}


@dataclass(frozen=True)
class ProjectFile:
    """A project file whose keys and types are right."""

    path: Path
    """Absolute, under the name that the shell shows."""
    machine: Mapping[str, Any]
    engine: Mapping[str, Any]
    options: Mapping[str, Any]
    """Options of drivers, by name."""
    owner: int
    """The user id of its owner, or -1 where there are none."""

    @property
    def folder(self) -> Path:
        """The folder of the project."""
        return self.path.parent

    def contains(self, path: Path) -> bool:
        """Return whether `path` is in the project's folder, behind all symbolic links."""
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.folder))

    def place(self, key: str) -> str:
        """Name a key, such as ``memory`` or ``engine.env``, for messages."""
        return f"{MACHINE}.{key} in {self.path}"

    def texts(self, key: str) -> list[str]:
        """Return a list of ``[machine]``, which is empty if it is missing."""
        return list(self.machine.get(key, ()))


def of(ctx: click.Context) -> ProjectFile | None:
    """Return the project file that a command uses, or None."""
    found: ProjectFile | None = ctx.meta.get(__name__)
    return found


def use(ctx: click.Context, file: ProjectFile) -> None:
    """Note that a command uses `file`."""
    ctx.meta[__name__] = file


def find(folder: Path) -> Path | None:
    """Return the path of the project file in `folder` or the nearest folder above it, up to the user's home."""
    home = os.path.realpath(os.path.expanduser("~"))  # noqa: PTH111 (Path raises without a home)
    for each in (folder, *folder.parents):
        path = each / NAME
        if os.path.lexists(path):
            return path
        if os.path.realpath(each) == home:
            break
    return None


def read(path: Path, *, engine_keys: Mapping[str, Kind]) -> ProjectFile:
    """Read the project file at the absolute `path`. Raises `ProjectFileError`."""
    content, owner = _content(path)
    _check_names(path, "", content, [MACHINE])
    machine = dict(_table(path, MACHINE, content.get(MACHINE, {})))
    engine = _table(path, f"{MACHINE}.{ENGINE}", machine.pop(ENGINE, {}))
    options = _table(path, f"{MACHINE}.{OPTIONS}", machine.pop(OPTIONS, {}))
    _check_names(path, f"{MACHINE}.", machine, [*KEYS, ENGINE, OPTIONS])
    _check_names(path, f"{MACHINE}.{ENGINE}.", engine, engine_keys)
    for key, value in machine.items():
        _check_kind(path, f"{MACHINE}.{key}", value, KEYS[key].kind)
    for key, value in engine.items():
        _check_kind(path, f"{MACHINE}.{ENGINE}.{key}", value, engine_keys[key])
    for key, value in options.items():
        _check_kind(path, f"{MACHINE}.{OPTIONS}.{key}", value, ANY)
    return ProjectFile(path, machine, engine, options, owner)


def unknown(path: Path, key: str, known: Iterable[str], *, what: str = "key") -> ProjectFileError:
    """Return the error for an unknown key, with the one that was probably meant."""
    import difflib  # noqa: PLC0415 (only needed for this error)

    before, _, last = key.rpartition(".")
    prefix = f"{before}." if before else ""
    names = sorted(known)
    near = difflib.get_close_matches(last, names, n=1)
    if near:
        hint = f"Did you mean {prefix}{near[0]}?"
    else:
        more = ", ..." if len(names) > _SHOWN_KEYS else ""
        hint = f"Known here: {', '.join(prefix + name for name in names[:_SHOWN_KEYS])}{more}"
    return ProjectFileError(f"{path}: there is no {what} {shown(key)}", hint=hint)


def shown(value: object) -> str:
    """Return a key or a value of the file for a message: shortened, on one line."""
    return value if isinstance(value, str) and len(value) <= 80 and value.isprintable() else fields.shown(value)


def _content(path: Path) -> tuple[Mapping[str, Any], int]:
    """Return the content and the owner of one file, even if another takes its place meanwhile."""
    import tomllib  # noqa: PLC0415 (most commands read no project file)

    try:
        handle = files.open_to_read(path)
        owner = os.fstat(handle).st_uid if hasattr(os, "getuid") else -1
        data = files.read_open(handle, path, longest=LONGEST_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        # Editors on Windows begin a file with a byte order mark.
        return tomllib.loads(data.decode("utf-8-sig")), owner
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ProjectFileError(f"{path} is not TOML: line {line} is not UTF-8 text") from error
    except ValueError as error:
        raise ProjectFileError(f"{path} is not TOML: {error}", hint=f"For example:\n{_EXAMPLE}") from error
    except RecursionError as error:
        raise ProjectFileError(f"{path} is not TOML that can be read: its values are nested too deeply") from error


def _unreadable(path: Path, error: OSError) -> ProjectFileError:
    return os_errors.wrapped(ProjectFileError, f"cannot read {path}", error, elsewhere="--file")


def _table(path: Path, name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ProjectFileError(
            f"{path}: {name} is {described(value)}, expected a table", hint=f"It begins with a line [{name}]."
        )
    return value


def _check_names(path: Path, prefix: str, table: Mapping[str, Any], known: Iterable[str]) -> None:
    names = list(known)
    for key in table:
        if key not in names:
            # A key of [machine] without the line [machine] before it is the most common mistake.
            if not prefix and key in KEYS:
                raise ProjectFileError(
                    f"{path}: {key} is not in a table",
                    hint=f"Put it below the line [{MACHINE}], for example:\n{_EXAMPLE}",
                )
            raise unknown(path, f"{prefix}{printable.line(key)}", names)


def _check_kind(path: Path, key: str, value: Any, kind: Kind) -> None:
    if not kind.fits(value):
        raise ProjectFileError(f"{path}: {key} is {described(value)}, expected {kind.expected}")


def described(value: Any) -> str:
    """Return a value of a wrong type for a message."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and not -_MOST_INTEGER <= value <= _MOST_INTEGER:
        return "a number out of range"
    if isinstance(value, Sequence) and not isinstance(value, str):
        odd = next((each for each in value if not (isinstance(each, str) and fields.TEXT.fits(each))), None)
        return "a list" if odd is None else f"a list with {described(odd)}"
    return "a table" if isinstance(value, dict) else fields.shown(value)
