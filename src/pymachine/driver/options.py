"""The options that a driver adds to `create`, as data."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class OptionKind(enum.Enum):
    """The four types of docker-machine's driver options, and sizes."""

    STRING = "string"
    STRINGS = "strings"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    SIZE = "size"
    """A number of MB, which users may also give with a unit: ``4g``. The driver gets the number."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option that a driver adds to `create`. It is data, so any front end can show it."""

    name: str
    """The name without dashes, starting with the driver's name: ``qemu-memory``.

    Options for hardware end in ``-cpu-count``, ``-memory`` and ``-disk-size``: project files set them by these names.
    """
    kind: OptionKind = OptionKind.STRING
    default: str | int | bool | tuple[str, ...] | None = None
    default_text: str = ""
    """The default as the help shows it, if it depends on the host."""
    env: str | None = None
    help: str = ""
    is_secret: bool = False
    """Whether its value is a password or the like. The core notes nothing of it in the record."""
