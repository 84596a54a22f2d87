"""Two parts of a record: where the values of a machine came from, and the project file that it belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pymachine.driver import fields
from pymachine.driver.contract import Json

FLAG = "flag"
VARIABLE = "variable"
FILE = "file"
CONFIG = "config.toml"
DEFAULT = "default"
MODIFY = "modify"
KINDS = (FLAG, VARIABLE, FILE, CONFIG, DEFAULT, MODIFY)
# An option name of any driver is shorter, and no driver has as many.
_MOST_ORIGINS = 500
_OPTION = re.compile(r"[a-z0-9][a-z0-9-]{0,99}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Origin:
    """Where the value of one option of `create` came from."""

    kind: str
    """One of `KINDS`."""
    where: str = ""
    """The flag, the variable, or the key and its file."""
    value: Json = None
    """The value, if no other field of the record has it."""


@dataclass
class Project:
    """The project file that a machine was created for."""

    file: Path
    """Absolute."""
    provisioned: list[str] = field(default_factory=list)
    """The SHA-256 of each provision script that has run in the machine."""
    trusted: list[str] = field(default_factory=list)
    """The permissions that the user gave the file beyond its folder, as the question named them."""


def origin_json(origin: Origin) -> dict[str, Json]:
    """Return an origin as the record has it."""
    found = {"From": origin.kind, "Where": origin.where, "Value": origin.value}
    return {key: value for key, value in found.items() if value not in ("", None)}


def origins(entries: Mapping[str, Mapping[str, Json]]) -> dict[str, Origin]:
    """Return the origins that a record has, by option. They fit `ORIGINS`."""
    return {
        option: Origin(entry["From"], entry.get("Where", ""), entry.get("Value")) for option, entry in entries.items()
    }


def project_json(project: Project) -> dict[str, Json]:
    """Return the project as the record has it."""
    found = {"File": str(project.file), "Provisioned": project.provisioned, "Trusted": project.trusted}
    return {key: value for key, value in found.items() if value}


def project(entry: Mapping[str, Json]) -> Project:
    """Return the project that a record has. It fits `PROJECT`."""
    return Project(Path(entry["File"]), list(entry.get("Provisioned", ())), list(entry.get("Trusted", ())))


def _is_value(value: Json) -> bool:
    return isinstance(value, str | int) or fields.STRINGS.fits(value)


# Where may name a file, whose path may have any characters.
_ORIGIN = fields.section(
    {"From": fields.one_of(*KINDS), "Where": fields.PATH, "Value": fields.Field("an option's value", _is_value)}
)


def _are_origins(value: Json) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _MOST_ORIGINS
        and all(_OPTION.match(option) and _ORIGIN.fits(entry) and "From" in entry for option, entry in value.items())
    )


def _is_project(value: Json) -> bool:
    if not isinstance(value, dict) or not value.keys() <= {"File", "Provisioned", "Trusted"}:
        return False
    file, done, trusted = value.get("File", ""), value.get("Provisioned", []), value.get("Trusted", [])
    return (
        fields.PATH.fits(file)
        and Path(file).is_absolute()
        and fields.STRINGS.fits(done)
        and all(map(_DIGEST.match, done))
        and fields.STRINGS.fits(trusted)
    )


ORIGINS = fields.Field("an object of options, each with From, Where and Value", _are_origins)
PROJECT = fields.Field("an object of File (absolute), Provisioned and Trusted", _is_project)
