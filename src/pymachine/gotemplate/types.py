"""Go's values in Python: named types with methods, structs, pointers to structs, and JSON values.

JSON values are plain Python: None, bool, str, int, float, list and dict. In Go each of them is in an ``interface {}``,
and every number is a float64. `pymachine.gotemplate` says why whole numbers stay whole here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


class NoValue:
    """The value of a missing map key. It prints as ``<no value>``."""

    def __bool__(self) -> bool:
        return False


NO_VALUE = NoValue()


@dataclass(frozen=True)
class Boxed:
    """A value in an ``interface {}``: an entry of a JSON map or list."""

    value: Any


def unbox(value: Any) -> Any:
    """Return `value` without its box, and None for no value."""
    if isinstance(value, Boxed):
        value = value.value
    return None if value is NO_VALUE else value


@dataclass(frozen=True)
class Method:
    """A method of a named type: a function that takes the value, and the Go types of its further arguments."""

    function: Callable[..., Any]
    arguments: tuple[str, ...] = ()


class Named(int):
    """An integer of a named type."""

    type_name: ClassVar[str]
    methods: ClassVar[Mapping[str, Method]] = {}


class Int64(Named):
    """Go's int64."""

    type_name = "int64"


class Byte(Named):
    """Go's uint8, the element type of a string."""

    type_name = "uint8"


class WholeNumber(Named):
    """A whole number from JSON: a float64 in Go, but printed and compared as an integer here."""

    type_name = "float64"


class Duration(Named):
    """Go's time.Duration, in nanoseconds."""

    type_name = "time.Duration"

    def text(self) -> str:
        """Return the duration as Go prints it: ``1m2.5s``, ``250ms``."""
        sign, rest = ("-" if self < 0 else ""), abs(int(self))
        if rest == 0:
            return "0s"
        for unit, size in (("ns", 1), ("\u00b5s", 10**3), ("ms", 10**6)):
            if rest < size * 1000:
                return f"{sign}{_decimal(rest, size)}{unit}"
        minutes, rest = divmod(rest, 60 * 10**9)
        hours, minutes = divmod(minutes, 60)
        text = f"{_decimal(rest, 10**9)}s"
        if hours or minutes:
            text = f"{minutes}m{text}"
        return f"{sign}{hours}h{text}" if hours else f"{sign}{text}"

    def rounded(self, unit: int) -> Duration:
        """Round to the nearest multiple of `unit`, halves away from zero."""
        if unit <= 0:
            return self
        size, rest = abs(int(self)), abs(int(self)) % unit
        size += -rest if 2 * rest < unit else unit - rest
        return Duration(size if self >= 0 else -size)

    def truncated(self, unit: int) -> Duration:
        """Round towards zero to a multiple of `unit`."""
        size = abs(int(self)) // unit * unit if unit > 0 else abs(int(self))
        return Duration(size if self >= 0 else -size)


def _decimal(value: int, size: int) -> str:
    whole, part = divmod(value, size)
    digits = str(part + size)[1:].rstrip("0") if size > 1 else ""
    return f"{whole}.{digits}" if digits else str(whole)


_DURATION = {
    "String": Method(Duration.text),
    "Hours": Method(lambda value: _fraction_of(value, 3600 * 10**9)),
    "Minutes": Method(lambda value: _fraction_of(value, 60 * 10**9)),
    "Seconds": Method(lambda value: _fraction_of(value, 10**9)),
    "Milliseconds": Method(lambda value: Int64(value.truncated(10**6) // 10**6)),
    "Microseconds": Method(lambda value: Int64(value.truncated(10**3) // 10**3)),
    "Nanoseconds": Method(Int64),
    "Round": Method(Duration.rounded, ("time.Duration",)),
    "Truncate": Method(Duration.truncated, ("time.Duration",)),
    "Abs": Method(lambda value: Duration(abs(int(value)))),
}
Duration.methods = _DURATION


def _fraction_of(value: int, size: int) -> float:
    whole, rest = divmod(abs(int(value)), size)
    number = whole + rest / size
    return number if value >= 0 else -number


class Strings(list[str]):
    """Go's []string. A nil slice prints like an empty one, except with %#v."""

    is_nil = False

    @classmethod
    def of(cls, values: Sequence[str] | None) -> Strings:
        """Return the list of `values`; nil for None."""
        made = cls(values or [])
        made.is_nil = values is None
        return made


@dataclass(frozen=True, eq=False)
class Struct:
    """A struct: its fields by Go's names, in Go's order."""

    type_name: str
    fields: Mapping[str, Any]
    as_json: Any = None
    """The value for the function ``json``; None for the fields."""
    additional: Mapping[str, Any] = field(default_factory=dict)
    """Further fields that a template can name. They are not printed with the struct, so that it looks as in Go."""


@dataclass(frozen=True, eq=False)
class Pointer:
    """A pointer to a struct; nil if `target` is None."""

    type_name: str
    target: Struct | None
    fields: frozenset[str] = field(default_factory=frozenset)
    """The names of the struct's fields, known for a nil pointer too."""
    lenient: bool = False
    """Whether a field of a nil pointer is "no value". In Go it is an error."""


class TextMap(dict[str, str]):
    """Go's map[string]string."""


def type_name(value: Any) -> str:
    """Return Go's name for the type of a value."""
    if isinstance(value, Boxed):
        return "interface {}"
    if isinstance(value, Named | Struct | Pointer):
        return value.type_name
    names: tuple[tuple[type, str], ...] = (
        (bool, "bool"),
        (str, "string"),
        (int, "int"),
        (float, "float64"),
        (TextMap, "map[string]string"),
        (Mapping, "map[string]interface {}"),
        (Strings, "[]string"),
        (list, "[]interface {}"),
        (tuple, "[]string"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "<nil>")


def is_truthy(value: Any) -> bool:
    """Whether a value counts as true: not empty, not zero, not nil."""
    value = unbox(value)
    if isinstance(value, Pointer):
        return value.target is not None
    return True if isinstance(value, Struct) else bool(value)


def from_json(value: Any) -> Any:
    """Convert a JSON value, marking whole numbers as `WholeNumber`."""
    if isinstance(value, Named | Struct | Pointer | Strings | TextMap | bool):
        return value
    if isinstance(value, int):
        return WholeNumber(value)
    if isinstance(value, Mapping):
        return {key: from_json(entry) for key, entry in value.items()}
    return [from_json(entry) for entry in value] if isinstance(value, list) else value
