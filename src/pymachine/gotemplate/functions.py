"""The functions that templates can call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from urllib.parse import quote_plus

from pymachine.gotemplate.errors import EvaluationError
from pymachine.gotemplate.formatting import dereference, printf, sprint, sprintln, to_json, to_text
from pymachine.gotemplate.types import Byte, Named, Pointer, Struct, WholeNumber, is_truthy, type_name, unbox

# These get their arguments unevaluated.
SHORT_CIRCUITING = frozenset({"and", "or"})
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
    """A function and the types of its arguments; `variadic` is the type of any number of further arguments."""

    function: Callable[..., Any]
    fixed: tuple[str, ...] = ()
    variadic: str = ""


def _index(value: Any, *keys: Any) -> Any:
    if value is None:
        raise EvaluationError("index of untyped nil")
    for key in keys:
        value = dereference(unbox(value))
        if value is None or isinstance(value, Pointer):
            raise EvaluationError("index of nil pointer")
        if isinstance(value, Mapping):
            if not isinstance(key, str):
                raise EvaluationError(
                    "value is nil; should be of type string"
                    if key is None
                    else f"value has type {type_name(key)}; should be string"
                )
            value = value.get(key, "" if type_name(value) == "map[string]string" else None)
        elif isinstance(value, list | tuple | str):
            value = _item_at(value, key)
        else:
            raise EvaluationError(f"can't index item of type {type_name(value)}")
    return value


def _item_at(value: Any, key: Any) -> Any:
    data = value.encode(errors="surrogateescape") if isinstance(value, str) else value
    at = _checked_index(key, len(data))
    if at == len(data):
        raise EvaluationError(f"reflect: {'string' if isinstance(value, str) else 'slice'} index out of range")
    return Byte(data[at]) if isinstance(value, str) else data[at]


def _checked_index(key: Any, length: int) -> int:
    """Check an index into a list. `length` itself is allowed, since `slice` accepts it."""
    if key is None:
        raise EvaluationError("cannot index slice/array with nil")
    if not isinstance(key, int) or isinstance(key, bool):
        raise EvaluationError(f"cannot index slice/array with type {type_name(key)}")
    if not 0 <= key <= length:
        raise EvaluationError(f"index out of range: {int(key)}")
    return int(key)


def _slice(value: Any, *bounds: Any) -> Any:
    if value is None:
        raise EvaluationError("slice of untyped nil")
    if len(bounds) > 3:
        raise EvaluationError(f"too many slice indexes: {len(bounds)}")
    if not isinstance(value, str | list | tuple):
        raise EvaluationError(f"can't slice item of type {type_name(value)}")
    if len(bounds) == 3 and isinstance(value, str):
        raise EvaluationError("cannot 3-index slice a string")
    data = value.encode(errors="surrogateescape") if isinstance(value, str) else None
    length = len(value if data is None else data)
    ends = [_checked_index(bound, length) for bound in bounds]
    ends += [0, length][len(ends) :] if len(ends) < 2 else []
    for low, high in pairwise(ends):
        if low > high:
            raise EvaluationError(f"invalid slice index: {low} > {high}")
    if data is not None:
        return data[ends[0] : ends[1]].decode(errors="replace")
    return type(value)(value[ends[0] : ends[1]])


def _len(value: Any) -> int:
    value = dereference(value)
    if value is None:
        raise EvaluationError("reflect: call of reflect.Value.Type on zero Value")
    if isinstance(value, Pointer):
        raise EvaluationError("len of nil pointer")
    if isinstance(value, str):
        return len(value.encode(errors="surrogateescape"))
    if isinstance(value, list | tuple | Mapping):
        return len(value)
    raise EvaluationError(f"len of type {type_name(value)}")


def _call(value: Any, *arguments: Any) -> Any:  # noqa: ARG001
    """Fail as Go's `call` does: the data holds no functions."""
    raise EvaluationError("call of nil" if value is None else f"non-function of type {type_name(value)}")


def _kind(value: Any) -> str:
    """Return the kind that decides which values can be compared."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, WholeNumber):
        return "number"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float"
    return "string" if isinstance(value, str) else "other"


def _comparable(left: str, other: str) -> bool:
    """Whether two kinds can be compared. A whole number from JSON compares with integers and floats."""
    return left == other or ("number" in {left, other} and {left, other} <= {"int", "float", "number"})


def _eq(first: Any, *others: Any) -> bool:
    if not others:
        raise EvaluationError("missing argument for comparison")
    for other in others:
        if not _comparable(_kind(first), _kind(other)):
            if first is not None and other is not None:
                raise EvaluationError("incompatible types for comparison")
            continue
        for value in (first, other):
            if isinstance(value, list | tuple | Mapping | Struct):
                raise EvaluationError(f"non-comparable type {to_text(value)}: {type_name(value)}")
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
        raise EvaluationError("invalid type for comparison")
    if not _comparable(*kinds):
        raise EvaluationError("incompatible types for comparison")
    if "bool" in kinds:
        raise EvaluationError("invalid type for comparison")
    return bool(first < second)


def _join(values: Any, separator: str) -> str:
    return separator.join(to_text(value) for value in values)


def _title(text: str) -> str:
    """Capitalize the first letter of each word, and leave the other letters unchanged."""
    return "".join(
        char.upper() if number == 0 or not (text[number - 1].isalnum() or text[number - 1] in "_'") else char
        for number, char in enumerate(text)
    )


def _escapable_text(values: tuple[Any, ...]) -> str:
    """Return the arguments as the text that `html`, `js` and `urlquery` escape."""
    if len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return sprint(["<no value>" if value is None else dereference(value) for value in values])


FUNCTIONS: Mapping[str, Signature] = {
    "and": Signature(lambda *values: values, (ANY,), ANY),
    "or": Signature(lambda *values: values, (ANY,), ANY),
    "call": Signature(_call, (ANY,), ANY),
    "eq": Signature(_eq, (ANY,), ANY),
    "ge": Signature(lambda first, second: not _less(first, second), (ANY, ANY)),
    "gt": Signature(lambda first, second: not (_less(first, second) or _eq(first, second)), (ANY, ANY)),
    "html": Signature(lambda *values: _escapable_text(values).translate(_HTML), (), ANY),
    "index": Signature(_index, (ANY,), ANY),
    "join": Signature(_join, (TEXTS, STRING)),
    "js": Signature(lambda *values: _escapable_text(values).translate(_JS), (), ANY),
    "json": Signature(to_json, (ANY,)),
    "le": Signature(lambda first, second: _less(first, second) or _eq(first, second), (ANY, ANY)),
    "len": Signature(_len, (ANY,)),
    "lower": Signature(str.lower, (STRING,)),
    "lt": Signature(_less, (ANY, ANY)),
    "ne": Signature(lambda first, second: not _eq(first, second), (ANY, ANY)),
    "not": Signature(lambda value: not is_truthy(value), (ANY,)),
    "prettyjson": Signature(lambda value: to_json(value, indent=4), (ANY,)),
    "print": Signature(lambda *values: sprint(values), (), ANY),
    "printf": Signature(printf, (STRING,), ANY),
    "println": Signature(lambda *values: sprintln(values), (), ANY),
    "slice": Signature(_slice, (ANY,), ANY),
    "split": Signature(str.split, (STRING, STRING)),
    "title": Signature(_title, (STRING,)),
    "upper": Signature(str.upper, (STRING,)),
    "urlquery": Signature(lambda *values: quote_plus(_escapable_text(values), safe="-_.~"), (), ANY),
}


def named_integer(type_: str, value: int) -> int:
    """Convert a constant to the named integer type `type_`, as a method's argument."""
    kinds: dict[str, type[Named]] = {kind.type_name: kind for kind in Named.__subclasses__()}
    return kinds[type_](value)
