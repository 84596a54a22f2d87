"""The flags of a driver in a program: as options of `create`, and their values as the program expects them.

Source: docker-machine's packages libmachine/mcnflag and libmachine/drivers/rpc.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pymachine.driver.contract import Json
from pymachine.driver.options import Option, OptionKind
from pymachine_driver_plugin.errors import PluginError
from pymachine_driver_plugin.gob.types import Interface

log = logging.getLogger(__name__)
ISO_SUFFIX = "-boot2docker-url"
"""The end of the name of the flag for the URL of the image that machines boot."""
# The name of a type in Go begins with that of its package, which forks have changed.
_KINDS = {
    "StringFlag": OptionKind.STRING,
    "StringSliceFlag": OptionKind.STRINGS,
    "IntFlag": OptionKind.INTEGER,
    "BoolFlag": OptionKind.BOOLEAN,
}
_ZERO: Mapping[OptionKind, Json] = {
    OptionKind.STRING: "",
    OptionKind.STRINGS: (),
    OptionKind.INTEGER: 0,
    OptionKind.BOOLEAN: False,
}
_TYPES = {OptionKind.STRING: str, OptionKind.STRINGS: list, OptionKind.INTEGER: int}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# A flag with one of these words in its name is for a password or the like. Paths of keys match too, which does no harm.
_SECRET_WORDS = frozenset(
    (
        *("pass", "password", "passwd", "passphrase", "secret", "token", "credential", "credentials", "auth"),
        *("key", "apikey", "accesskey", "secretkey", "kubeconfig", "json", "content"),
    )
)
_MOST = 1000
_LONGEST_HELP = 500
# docker-machine passes the values of its own flags too. Its base driver reads these, and warns if they are missing.
_COMMON = {
    "swarm-master": Interface.of_bool(value=False),
    "swarm-host": Interface.of_string("tcp://0.0.0.0:3376"),
    "swarm-discovery": Interface.of_string(""),
}


def options(flags: Sequence[Any]) -> list[Option]:
    """Return the options for the flags of a program, as gob decodes them. Raises `PluginError` for an invalid flag."""
    if len(flags) > _MOST:
        raise PluginError(f"the program has {len(flags)} flags, expected at most {_MOST}")
    found: dict[str, Option] = {}
    for option in map(_option, flags):
        key = option.name.replace("_", "-").lower()
        if found.setdefault(key, option) != option:
            raise PluginError(f"the program has two flags called --{option.name}, apart from case and dashes")
    return list(found.values())


def values(wanted: Sequence[Option], given: Mapping[str, Json]) -> dict[str, Interface]:
    """Return the values of all options, by the names of their flags, as the program expects them."""
    return _COMMON | {option.name: _value(option, given.get(option.name)) for option in wanted}


def iso_option(wanted: Sequence[Option]) -> str:
    """Return the name of the option for the URL of the image, or an empty text if there is none."""
    names = [each.name for each in wanted if each.kind is OptionKind.STRING and each.name.endswith(ISO_SUFFIX)]
    return names[0] if names else ""


def _option(flag: Any) -> Option:
    kind = _KINDS.get(flag.name.rpartition(".")[2]) if isinstance(flag, Interface) else None
    fields = flag.value if kind is not None else None
    if kind is None or not isinstance(fields, dict):
        raise PluginError(f"the program has a flag of a kind that is unknown: {str(flag)[:200]!r}")
    name, usage, variable = (fields.get(key, "") for key in ("Name", "Usage", "EnvVar"))
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(usage, str):
        raise PluginError(f"the program has a flag with an impossible name or help: {str(fields)[:200]!r}")
    default = _default(kind, fields, name)
    return Option(
        name=name,
        kind=kind,
        default=default,
        default_text=_one_line(default) if isinstance(default, str) and not default.isprintable() else "",
        env=_variable(variable),
        help=_one_line(usage)[:_LONGEST_HELP] or "See the program's documentation",
        is_secret=not _SECRET_WORDS.isdisjoint(re.split("[-_]", name.lower())),
    )


def _one_line(text: str) -> str:
    """Return `text` without what a terminal would obey."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


def _default(kind: OptionKind, fields: Mapping[str, Any], name: str) -> str | int | bool | tuple[str, ...]:
    value: Any = fields.get("Value")
    if kind is OptionKind.BOOLEAN:
        return False
    if value is None:
        value = _ZERO[kind]
    elif not isinstance(value, _TYPES[kind]) or (kind is OptionKind.STRINGS and not _are_texts(value)):
        raise PluginError(f"the program's flag --{name} has a default of the wrong type: {str(value)[:100]!r}")
    found: str | int | tuple[str, ...] = tuple(value) if kind is OptionKind.STRINGS else value
    return found


def _are_texts(value: Any) -> bool:
    return all(isinstance(each, str) for each in value)


def _variable(text: Any) -> str | None:
    """Return the environment variable of a flag. Of several, the first that has a value, or else the first."""
    names = [word.strip() for word in text.split(",")] if isinstance(text, str) else []
    known = [name for name in names if _VARIABLE.fullmatch(name)]
    return next((name for name in known if os.environ.get(name)), known[0] if known else None)


def _value(option: Option, value: Json) -> Interface:
    if value is None:
        value = _ZERO[option.kind] if option.default is None else option.default
    if option.kind is OptionKind.STRINGS:
        return Interface.of_strings(value)
    if option.kind is OptionKind.BOOLEAN:
        return Interface.of_bool(value=bool(value))
    if option.kind is OptionKind.INTEGER:
        return Interface.of_int(int(value))
    return Interface.of_string(str(value))
