"""The functions that templates can call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import quote_plus

from pymachine.gotemplate.errors import Failure
from pymachine.gotemplate.formatting import dereferenced, printf, sprint, sprintln, to_json, to_text
from pymachine.gotemplate.types import Byte, Named, Pointer, Struct, WholeNumber, is_true, type_name, unboxed

# These see their arguments' operands, not their values.
LAZY = frozenset({"and", "or"})
ANY, STRING, TEXTS = "any", "string", "[]string"

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


@dataclass(frozen=True)
class Signature:
    """A function with the types of its arguments; `more` is that of any number of further ones."""

    function: Callable[..., Any]
    fixed: tuple[str, ...] = ()
    more: str = ""


def _index(value: Any, *keys: Any) -> Any:
    if value is None:
        raise Failure("index of untyped nil")
    for key in keys:
        value = dereferenced(unboxed(value))
        if value is None or isinstance(value, Pointer):
            raise Failure("index of nil pointer")
        if isinstance(value, Mapping):
            if not isinstance(key, str):
                raise Failure(
                    "value is nil; should be of type string"
                    if key is None
                    else f"value has type {type_name(key)}; should be string"
                )
            value = value.get(key, "" if type_name(value) == "map[string]string" else None)
        elif isinstance(value, list | tuple | str):
            value = _at(value, key)
        else:
            raise Failure(f"can't index item of type {type_name(value)}")
    return value


def _at(value: Any, key: Any) -> Any:
    data = value.encode(errors="surrogateescape") if isinstance(value, str) else value
    at = _position(key, len(data))
    if at == len(data):
        raise Failure(f"reflect: {'string' if isinstance(value, str) else 'slice'} index out of range")
    return Byte(data[at]) if isinstance(value, str) else data[at]


def _position(key: Any, length: int) -> int:
    """A place in a list; its end is one too, which only `slice` can use."""
    if key is None:
        raise Failure("cannot index slice/array with nil")
    if not isinstance(key, int) or isinstance(key, bool):
        raise Failure(f"cannot index slice/array with type {type_name(key)}")
    if not 0 <= key <= length:
        raise Failure(f"index out of range: {int(key)}")
    return int(key)


def _slice(value: Any, *bounds: Any) -> Any:
    if value is None:
        raise Failure("slice of untyped nil")
    if len(bounds) > 3:
        raise Failure(f"too many slice indexes: {len(bounds)}")
    if not isinstance(value, str | list | tuple):
        raise Failure(f"can't slice item of type {type_name(value)}")
    if len(bounds) == 3 and isinstance(value, str):
        raise Failure("cannot 3-index slice a string")
    data = value.encode(errors="surrogateescape") if isinstance(value, str) else None
    length = len(value if data is None else data)
    ends = [_position(bound, length) for bound in bounds]
    ends += [0, length][len(ends) :] if len(ends) < 2 else []
    for low, high in pairwise(ends):
        if low > high:
            raise Failure(f"invalid slice index: {low} > {high}")
    if data is not None:
        return data[ends[0] : ends[1]].decode(errors="replace")
    return type(value)(value[ends[0] : ends[1]])


def _len(value: Any) -> int:
    value = dereferenced(value)
    if value is None:
        raise Failure("reflect: call of reflect.Value.Type on zero Value")
    if isinstance(value, Pointer):
        raise Failure("len of nil pointer")
    if isinstance(value, str):
        return len(value.encode(errors="surrogateescape"))
    if isinstance(value, list | tuple | Mapping):
        return len(value)
    raise Failure(f"len of type {type_name(value)}")


def _call(value: Any, *arguments: Any) -> Any:  # noqa: ARG001
    """Go's call of a function in the data, of which there is none."""
    raise Failure("call of nil" if value is None else f"non-function of type {type_name(value)}")


def _kind(value: Any) -> str:
    """What a value is compared as."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, WholeNumber):
        return "number"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float"
    return "string" if isinstance(value, str) else "other"


def _comparable(one: str, other: str) -> bool:
    """Whether two kinds can be compared; a whole number out of JSON is an integer as well as a fraction."""
    return one == other or ("number" in {one, other} and {one, other} <= {"int", "float", "number"})


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise Failure("missing argument for comparison")
    for other in others:
        if not _comparable(_kind(first), _kind(other)):
            if first is not None and other is not None:
                raise Failure("incompatible types for comparison")
            continue
        for value in (first, other):
            if isinstance(value, list | tuple | Mapping | Struct):
                raise Failure(f"non-comparable type {to_text(value)}: {type_name(value)}")
        if _is_nil(first) and _is_nil(other):
            return True
        if first is other if isinstance(first, Pointer) else first == other:
            return True
    return False


def _is_nil(value: Any) -> bool:
    return value is None or (isinstance(value, Pointer) and value.target is None)


def _less(first: Any, second: Any) -> bool:
    kinds = _kind(first), _kind(second)
    if "other" in kinds:
        raise Failure("invalid type for comparison")
    if not _comparable(*kinds):
        raise Failure("incompatible types for comparison")
    if "bool" in kinds:
        raise Failure("invalid type for comparison")
    return bool(first < second)


def _join(values: Any, separator: str) -> str:
    return separator.join(to_text(value) for value in values)


def _title(text: str) -> str:
    """The first letter of each word as a capital, the others as they are."""
    return "".join(
        char.upper() if number == 0 or not (text[number - 1].isalnum() or text[number - 1] in "_'") else char
        for number, char in enumerate(text)
    )


def _joined(values: tuple[Any, ...]) -> str:
    """The text that `html` and its like escape."""
    if len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return sprint(["<no value>" if value is None else dereferenced(value) for value in values])


FUNCTIONS: Mapping[str, Signature] = {
    "and": Signature(lambda *values: values, (ANY,), ANY),
    "or": Signature(lambda *values: values, (ANY,), ANY),
    "call": Signature(_call, (ANY,), ANY),
    "eq": Signature(_eq, (ANY,), ANY),
    "ge": Signature(lambda first, second: not _less(first, second), (ANY, ANY)),
    "gt": Signature(lambda first, second: not (_less(first, second) or _eq(first, second)), (ANY, ANY)),
    "html": Signature(lambda *values: _joined(values).translate(_HTML), (), ANY),
    "index": Signature(_index, (ANY,), ANY),
    "join": Signature(_join, (TEXTS, STRING)),
    "js": Signature(lambda *values: _joined(values).translate(_JS), (), ANY),
    "json": Signature(to_json, (ANY,)),
    "le": Signature(lambda first, second: _less(first, second) or _eq(first, second), (ANY, ANY)),
    "len": Signature(_len, (ANY,)),
    "lower": Signature(str.lower, (STRING,)),
    "lt": Signature(_less, (ANY, ANY)),
    "ne": Signature(lambda first, second: not _eq(first, second), (ANY, ANY)),
    "not": Signature(lambda value: not is_true(value), (ANY,)),
    "prettyjson": Signature(lambda value: to_json(value, indent=4), (ANY,)),
    "print": Signature(lambda *values: sprint(values), (), ANY),
    "printf": Signature(printf, (STRING,), ANY),
    "println": Signature(lambda *values: sprintln(values), (), ANY),
    "slice": Signature(_slice, (ANY,), ANY),
    "split": Signature(str.split, (STRING, STRING)),
    "title": Signature(_title, (STRING,)),
    "upper": Signature(str.upper, (STRING,)),
    "urlquery": Signature(lambda *values: quote_plus(_joined(values), safe="-_.~"), (), ANY),
}


def named_integer(type_: str, value: int) -> int:
    """A constant as the argument of a method that takes a named integer."""
    kinds: dict[str, type[Named]] = {kind.type_name: kind for kind in Named.__subclasses__()}
    return kinds[type_](value)
