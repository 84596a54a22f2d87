"""The functions that templates can call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote_plus

from pymachine.gotemplate.errors import executing
from pymachine.gotemplate.values import is_true, printf, sprint, to_json, to_text, type_name

# These see their arguments' operands, not their values.
LAZY = frozenset({"and", "or"})

_HTML = str.maketrans({"<": "&lt;", ">": "&gt;", "&": "&amp;", '"': "&#34;", "'": "&#39;", "\0": "\ufffd"})
_JS = str.maketrans(
    {
        "\\": "\\\\",
        "'": "\\'",
        '"': '\\"',
        "<": "\\u003C",
        ">": "\\u003E",
        "&": "\\u0026",
        "=": "\\u003D",
        **{chr(code): f"\\u{code:04X}" for code in range(0x20)},
    }
)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None:
            raise executing("error calling index: index of untyped nil")
        if isinstance(value, Mapping):
            if not isinstance(key, str):
                raise executing(f"error calling index: value has type {type_name(key)}; should be string")
            value = value.get(key)
        elif isinstance(value, list | tuple | str):
            at = _position(key, len(value))
            value = value.encode()[at] if isinstance(value, str) else value[at]
        else:
            raise executing(f"error calling index: can't index item of type {type_name(value)}")
    return value


def _position(key: Any, length: int) -> int:
    if not isinstance(key, int) or isinstance(key, bool):
        raise executing(f"error calling index: cannot index slice/array with type {type_name(key)}")
    if not 0 <= key < length:
        raise executing(f"error calling index: index out of range: {key}")
    return key


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, str | list | tuple):
        raise executing(f"error calling slice: can't slice item of type {type_name(value)}")
    if len(bounds) > 3 or (len(bounds) == 3 and isinstance(value, str)):
        raise executing("error calling slice: too many slice indexes")
    ends = [bounds[0] if bounds else 0, bounds[1] if len(bounds) > 1 else len(value)]
    for end in ends:
        if not isinstance(end, int) or isinstance(end, bool):
            raise executing(f"error calling slice: cannot index slice/array with type {type_name(end)}")
        if not 0 <= end <= len(value):
            raise executing(f"error calling slice: index out of range: {end}")
    if ends[0] > ends[1]:
        raise executing(f"error calling slice: invalid slice index: {ends[0]} > {ends[1]}")
    return value[ends[0] : ends[1]]


def _len(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list | tuple | Mapping):
        return len(value)
    raise executing(f"error calling len: len of {'nil pointer' if value is None else 'type ' + type_name(value)}")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "nil" if value is None else "other"


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise executing("error calling eq: missing argument for comparison")
    for other in others:
        kinds = {_kind(first), _kind(other)}
        if "other" in kinds:
            raise executing("error calling eq: non-comparable type")
        if len(kinds) > 1 and "nil" not in kinds:
            raise executing("error calling eq: incompatible types for comparison")
        if first == other and len(kinds) == 1:
            return True
    return False


def _less(first: Any, second: Any) -> bool:
    kinds = {_kind(first), _kind(second)}
    if not kinds <= {"number", "string"}:
        raise executing("error calling lt: invalid type for comparison")
    if len(kinds) > 1:
        raise executing("error calling lt: incompatible types for comparison")
    return bool(first < second)


def _string(value: Any) -> str:
    """An argument that has to be a string."""
    if not isinstance(value, str):
        raise executing(f"wrong type for value; expected string; got {type_name(value)}")
    return value


def _join(values: Any, separator: str) -> str:
    if not isinstance(values, list | tuple):
        raise executing(f"wrong type for value; expected []string; got {type_name(values)}")
    return _string(separator).join(to_text(value) for value in values)


def _title(value: str) -> str:
    """The first letter of each word as a capital, the others as they are."""
    text = _string(value)
    return "".join(
        char.upper() if number == 0 or not (text[number - 1].isalnum() or text[number - 1] in "_'") else char
        for number, char in enumerate(text)
    )


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "and": lambda *values: values,
    "or": lambda *values: values,
    "eq": _eq,
    "ge": lambda first, second: not _less(first, second),
    "gt": lambda first, second: not _less(first, second) and not _eq(first, second),
    "html": lambda *values: _joined(values).translate(_HTML),
    "index": _index,
    "join": _join,
    "js": lambda *values: _joined(values).translate(_JS),
    "json": to_json,
    "le": lambda first, second: _less(first, second) or _eq(first, second),
    "len": _len,
    "lower": lambda value: _string(value).lower(),
    "lt": _less,
    "ne": lambda first, second: not _eq(first, second),
    "not": lambda value: not is_true(value),
    "prettyjson": lambda value: to_json(value, indent=4),
    "print": lambda *values: sprint(values),
    "printf": lambda form, *values: printf(_string(form), *values),
    "println": lambda *values: " ".join(to_text(value) for value in values) + "\n",
    "slice": _slice,
    "split": lambda value, separator: _string(value).split(_string(separator)),
    "title": _title,
    "upper": lambda value: _string(value).upper(),
    "urlquery": lambda *values: quote_plus(_joined(values), safe="-_.~"),
}


def _joined(values: tuple[Any, ...]) -> str:
    return values[0] if len(values) == 1 and isinstance(values[0], str) else sprint(values)
