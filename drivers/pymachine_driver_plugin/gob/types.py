"""The types of gob, which describe how a value is sent. Their texts are in Go's notation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Basic(Enum):
    """The types that need no definition. The values are their ids."""

    BOOL = 1
    INT = 2
    """All signed integers, with 64 bits."""
    UINT = 3
    """All unsigned integers, with 64 bits."""
    FLOAT = 4
    BYTES = 5
    STRING = 6
    INTERFACE = 8
    """Any value behind its concrete type: an `Interface`, or None."""

    def __str__(self) -> str:
        return {"BYTES": "[]byte", "INTERFACE": "interface {}"}.get(self.name, self.name.lower())


BOOL = Basic.BOOL
INT = Basic.INT
UINT = Basic.UINT
FLOAT = Basic.FLOAT
BYTES = Basic.BYTES
STRING = Basic.STRING
INTERFACE = Basic.INTERFACE

MAP_KEYS = (BOOL, INT, UINT, FLOAT, STRING)
"""The types of keys that are supported. Python's dicts cannot have all the keys that Go's maps can."""


@dataclass(frozen=True)
class Slice:
    """A list of any length. The type of a list of bytes is BYTES."""

    element: Type

    def __str__(self) -> str:
        return f"[]{self.element}"


@dataclass(frozen=True)
class Array:
    """A list of a fixed length."""

    length: int
    element: Type

    def __str__(self) -> str:
        return f"[{self.length}]{self.element}"


@dataclass(frozen=True)
class Map:
    """A dict. Its keys must have one of the types `MAP_KEYS`."""

    key: Type
    element: Type

    def __str__(self) -> str:
        return f"map[{self.key}]{self.element}"


@dataclass(frozen=True)
class Struct:
    """A dict with these names. Gob matches fields by their names, so they are those of Go."""

    name: str
    fields: tuple[tuple[str, Type], ...] = ()

    def __str__(self) -> str:
        return self.name or "struct"


@dataclass(frozen=True)
class Reference:
    """A type by its id in a stream, where types may refer to later ones and to themselves.

    Only the decoder has references.
    """

    id: int

    def __str__(self) -> str:
        return f"type {self.id}"


Type = Basic | Slice | Array | Map | Struct | Reference
_ZEROS: dict[Type, Any] = {BOOL: False, INT: 0, UINT: 0, FLOAT: 0.0, BYTES: b"", STRING: "", INTERFACE: None}


def zero(type_: Type) -> Any:
    """Return the value of a struct's field that is not sent.

    For structs and arrays it is None: Go sends those that have only zeros, and leaves out nil pointers to them.
    """
    match type_:
        case Slice():
            return []
        case Map():
            return {}
        case _:
            return _ZEROS.get(type_)


@dataclass(frozen=True)
class Interface:
    """A value in an interface.

    `name` is the name under which Go has registered the concrete type, such as ``*mcnflag.StringFlag``. The encoder
    also needs the type. The decoder leaves it out, and comparisons ignore it.
    """

    name: str
    value: Any
    type: Type | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_bool(cls, value: bool) -> Interface:  # noqa: FBT001 - the name says what it is
        """Return a Go ``bool`` in an interface."""
        return cls("bool", value, BOOL)

    @classmethod
    def of_int(cls, value: int) -> Interface:
        """Return a Go ``int`` in an interface."""
        return cls("int", value, INT)

    @classmethod
    def of_string(cls, value: str) -> Interface:
        """Return a Go ``string`` in an interface."""
        return cls("string", value, STRING)

    @classmethod
    def of_strings(cls, values: Iterable[str]) -> Interface:
        """Return a Go ``[]string`` in an interface."""
        return cls("[]string", list(values), Slice(STRING))
