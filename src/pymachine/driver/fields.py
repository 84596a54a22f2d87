"""The values that a machine's record may have: types, ranges, and words that are safe on command lines.

A record may come from elsewhere, so its values are input. They are checked here once, when they are read. `check` is
for a driver's whole configuration; `is_user` and `is_host` are for the words that end up on a command line of SSH.
"""

from __future__ import annotations

import re
import reprlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pymachine.errors import RecordError

MOST_INTEGER = 2**53  # what every reader of JSON can hold
# The end of the year 9999, the last year that Python supports.
LAST_SECOND = 253402300799
_SHOWN_CHARACTERS = 80
# Characters that OpenSSH accepts in a user's name. Jump hosts have users such as ``anna:target``.
_USER = re.compile(r"(?![-#])[^\s'`\";&<>|(){}/]*[^\s'`\";&<>|(){}/\\]\Z")
# Includes names with underscores, and addresses with a zone.
_HOST = re.compile(r"(?!-)[\w.:%-]+\Z")
_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.|\Z)){4}(?<!\.)\Z", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\Z")
_MAC = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}\Z")
_DIGEST = re.compile(r"[0-9a-zA-Z]*\Z")
_WORD = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*)?\Z")
_CONTEXT = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]+\Z")


class Field:
    """The rule for one value: a description for people, and a test."""

    __slots__ = ("expected", "fits", "required")

    def __init__(self, expected: str, fits: Callable[[Any], bool], *, required: bool = False) -> None:
        self.expected = expected
        self.fits = fits
        self.required = required

    def needed(self) -> Field:
        """Return the same field as a required one."""
        return Field(self.expected, self.fits, required=True)


def is_user(word: str) -> bool:
    """Return whether SSH reads `word` only as a user, such as ``DOMAIN\\user``."""
    return word.isprintable() and _USER.match(word) is not None


def is_host(word: str) -> bool:
    """Return whether SSH, scp, rsync and SSHFS read `word` only as a host."""
    return _HOST.match(word) is not None


def is_context(word: str) -> bool:
    """Return whether docker accepts `word` as the name of a context."""
    return _CONTEXT.match(word) is not None


def _is_text(value: Any) -> bool:
    """Return whether `value` is one line of UTF-8 text without control characters.

    U+DC80 to U+DCFF are allowed: they stand for bytes of a path that are not UTF-8.
    """
    return isinstance(value, str) and not any(
        character < " "
        or "\x7f" <= character < "\xa0"
        or "\ud800" <= character < "\udc80"
        or "\udd00" <= character < "\ue000"
        for character in value
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# -- kinds of fields -------------------------------------------------------------------------------------------

TEXT = Field("a line of text", _is_text)
STRING = Field("a string", lambda value: isinstance(value, str))
PATH = Field("a path", lambda value: isinstance(value, str) and "\0" not in value and _is_encodable(value))
BOOLEAN = Field("true or false", lambda value: isinstance(value, bool))
STRINGS = Field(
    "a list of strings", lambda value: isinstance(value, list) and all(isinstance(entry, str) for entry in value)
)
# An integer may be larger than any float.
_LARGEST = sys.float_info.max
NUMBER = Field(
    "a number",
    lambda value: isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST,
)

USER = Field("the name of a user", lambda value: isinstance(value, str) and (not value or is_user(value)))
HOST = Field("an address or the name of a host", lambda value: isinstance(value, str) and (not value or is_host(value)))
LOOPBACK = Field(
    "an address that begins with 127.",
    lambda value: isinstance(value, str) and _IPV4.match(value) is not None and value.startswith("127."),
)
UUID = Field("a UUID", lambda value: isinstance(value, str) and _UUID.match(value) is not None)
MAC = Field("a MAC address", lambda value: isinstance(value, str) and _MAC.match(value) is not None)
MAC_OR_NONE = Field(
    "a MAC address", lambda value: isinstance(value, str) and (not value or _MAC.match(value) is not None)
)
NAME = Field("a name that does not begin with a dash", lambda value: _is_text(value) and not value.startswith("-"))
DIGEST = Field("a digest", lambda value: isinstance(value, str) and _DIGEST.match(value) is not None)
WORD = Field(
    "a word of letters, digits, '.', '_' and '-'",
    lambda value: isinstance(value, str) and _WORD.match(value) is not None,
)
CONTEXT = Field(
    "the name of a docker context", lambda value: isinstance(value, str) and (not value or is_context(value))
)


def integer(least: int = -MOST_INTEGER, most: int = MOST_INTEGER) -> Field:
    """Return a field that is a whole number within these bounds."""
    span = "" if (least, most) == (-MOST_INTEGER, MOST_INTEGER) else f" from {least} to {most}"
    return Field(f"a whole number{span}", lambda value: _is_integer(value) and least <= value <= most)


PORT = integer(1, 65535)
PORT_OR_NONE = integer(0, 65535)
SECONDS = integer(0, LAST_SECOND)
MEMORY_MIB = integer(1, 1 << 24)
DISK_MB = integer(1, 1 << 32)


def one_of(*words: str) -> Field:
    """Return a field that is one of `words`, ignoring case."""
    known = {word.lower() for word in words}
    named = ", ".join(word for word in words if word)
    return Field(f"one of {named}", lambda value: isinstance(value, str) and value.lower() in known)


def matching(pattern: re.Pattern[str], expected: str) -> Field:
    """Return a field that is a text matching `pattern`."""
    return Field(expected, lambda value: isinstance(value, str) and pattern.match(value) is not None)


def section(fields: Mapping[str, Field]) -> Field:
    """Return a field that is an object with some of these fields and no others."""
    return Field(
        f"an object of {', '.join(fields)}",
        lambda value: (
            isinstance(value, dict) and all(key in fields and fields[key].fits(entry) for key, entry in value.items())
        ),
    )


# Fields of every driver's configuration. docker-machine's base driver writes them.
BASE: Mapping[str, Field] = {
    "IPAddress": STRING,
    "MachineName": TEXT,
    "SSHUser": USER,
    "SSHPort": PORT_OR_NONE,
    "SSHKeyPath": PATH,
    "StorePath": PATH,
    "SwarmMaster": BOOLEAN,
    "SwarmHost": TEXT,
    "SwarmDiscovery": TEXT,
}


# -- checks ----------------------------------------------------------------------------------------------------


def check(kind: type[Any], config: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """Return `config` of machine `name` without null fields. `kind` is the class of its driver.

    Fields that neither `kind` nor docker-machine's base driver has (see `known`) are kept unchanged. Raises
    `RecordError`, which names the field and its value.
    """
    return checked(config, known(kind), where="Driver", name=name)


def known(kind: type[Any]) -> dict[str, Field]:
    """Return the fields that the driver `kind` reads, by name."""
    return {**BASE, **kind.config_fields}


def checked(values: Mapping[str, Any], fields: Mapping[str, Field], *, where: str, name: str) -> dict[str, Any]:
    """Return `values` without null `fields`. Writers use null for a missing value.

    Raises `RecordError` for a wrong value, or for a missing value of a required field.
    """
    kept = {key: value for key, value in values.items() if value is not None or key not in fields}
    for key, field in fields.items():
        if key in kept:
            require(field, kept[key], f"{where}.{key}", name)
        elif field.required:
            raise RecordError(f'machine "{name}": config.json: {where}.{key} is missing, expected {field.expected}')
    return kept


def require(field: Field, value: Any, where: str, name: str) -> None:
    """Raise `RecordError` unless `value` fits `field`. `where` is its place in the record of machine `name`."""
    if not field.fits(value):
        raise RecordError(f'machine "{name}": config.json: {where} is {shown(value)}, expected {field.expected}')


def shown(value: Any) -> str:
    """Return `value` for a message: shortened, and without control characters."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _SHOWN_CHARACTERS


def _is_encodable(path: str) -> bool:
    """Return whether the system can have a file of that name."""
    try:
        path.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True
