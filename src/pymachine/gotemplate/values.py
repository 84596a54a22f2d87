"""How Go sees and prints values that came out of JSON: the verbs of its package fmt."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_VERB = re.compile(r"%([-+# 0]*)(\*|[0-9]+)?(?:\.(\*|[0-9]*))?(?:\[([0-9]+)\])?(.)", re.DOTALL)


# Wider than any text; Go's own limit is a million.
_WIDEST = 10_000


class Struct(dict[str, Any]):
    """An object whose fields are known: another one is an error, not a missing key."""

    type_name = "commands.HostListItem"


def is_true(value: Any) -> bool:
    """Whether a value counts as true: not empty, not zero, not nil."""
    return bool(value)


def type_name(value: Any) -> str:
    """Go's name for the type that a value out of JSON has."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, Mapping):
        return "map[string]interface {}"
    names: dict[type, str] = {str: "string", int: "int", float: "float64", list: "[]interface {}", tuple: "[]string"}
    return names.get(type(value), "<nil>")


def to_text(value: Any) -> str:
    """A value as Go prints it with %v."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "map[" + " ".join(f"{key}:{to_text(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list | tuple):
        return "[" + " ".join(to_text(entry) for entry in value) + "]"
    if isinstance(value, float):
        return number_text(value)
    return str(value)


def number_text(value: float) -> str:
    """A fraction as %v prints it: the shortest digits that mean it, an exponent from 21 digits on."""
    if not math.isfinite(value):
        return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}[str(value)]
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    power = int(exponent or 0)
    if value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    if not exponent:
        return text
    return f"{mantissa.removesuffix('.0')}e{'-' if power < 0 else '+'}{abs(power):02}"


def to_json(value: Any, *, indent: int | None = None) -> str:
    """A value as Go's encoding/json writes it: sorted keys, and what HTML knows escaped."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(value, indent=indent, separators=separators, sort_keys=True, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def quoted(value: str) -> str:
    """A string as %q prints it."""
    escapes = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r"}
    escapes |= {"\t": "\\t", "\v": "\\v"}
    return '"' + "".join(escapes.get(char) or _printable(char) for char in value) + '"'


def _printable(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printf(form: str, *values: Any) -> str:
    """Go's Sprintf, for the verbs that values out of JSON have a use for."""
    rest = list(values)
    numbered = False

    def size(text: str | None) -> int | None:
        if text == "*":
            return int(rest.pop(0)) if rest and isinstance(rest[0], int) else None
        return min(int(text), _WIDEST) if text else None

    def one(match: re.Match[str]) -> str:
        nonlocal rest, numbered
        flags, width, precision, number, verb = match.groups()
        if verb == "%":
            return "%"
        columns, digits = size(width), size(precision)
        if precision == "":
            digits = 0
        if number is not None:
            if not 1 <= int(number) <= len(values):
                return f"%!{verb}(BADINDEX)"
            numbered, rest = True, list(values[int(number) - 1 :])
        if not rest:
            return f"%!{verb}(MISSING)"
        return _padded(_verb(flags, digits, verb, rest.pop(0)), flags, columns, verb)

    text = _VERB.sub(one, form)
    if text.endswith("%") and form.endswith("%") and not form.endswith("%%"):
        text = text[:-1] + "%!(NOVERB)"
    if rest and not numbered:
        text += "%!(EXTRA " + ", ".join(_extra(value) for value in rest) + ")"
    return text


def _extra(value: Any) -> str:
    return "<nil>" if value is None else f"{type_name(value)}={to_text(value)}"


def _padded(text: str, flags: str, width: int | None, verb: str) -> str:
    if width is None or len(text) >= width:
        return text
    if "-" in flags:
        return text.ljust(width)
    if "0" in flags and not text.startswith("%!"):
        sign = text[0] if text[:1] in {"-", "+"} and verb not in "svq" else ""
        return sign + text[len(sign) :].rjust(width - len(sign), "0")
    return text.rjust(width)


def _verb(flags: str, digits: int | None, verb: str, value: Any) -> str:  # noqa: PLR0911 (a table of verbs)
    if verb == "T":
        return "<nil>" if value is None else type_name(value)
    if verb not in "vs" and isinstance(value, list | tuple):
        return "[" + " ".join(_verb(flags, digits, verb, entry) for entry in value) + "]"
    if verb in "vs" and (value is None and verb == "s"):
        return "%!s(<nil>)"
    if verb in "vs" and (verb == "v" or isinstance(value, str | list | tuple | Mapping)):
        text = _sharp(value) if "#" in flags and verb == "v" else to_text(value)
        return text if digits is None or not isinstance(value, str) else text[:digits]
    if verb == "q" and isinstance(value, str):
        return quoted(value)
    if verb == "t" and isinstance(value, bool):
        return to_text(value)
    if verb in "xX" and isinstance(value, str):
        text = value.encode().hex()
        return text.upper() if verb == "X" else text
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and verb in "dboxXcUq" and float(value).is_integer():
        return _integer(flags, verb, int(value))
    if number and verb in "eEfFgG":
        return _fraction(flags, digits, verb, float(value))
    return f"%!{verb}({_extra(value)})" if value is not None else f"%!{verb}(<nil>)"


def _sharp(value: Any) -> str:
    return quoted(value) if isinstance(value, str) else to_text(value)


def _integer(flags: str, verb: str, value: int) -> str:
    if verb in "cq":
        character = chr(value) if 0 <= value <= 0x10FFFF else "\ufffd"
        return character if verb == "c" else "'" + ("\\'" if character == "'" else quoted(character)[1:-1]) + "'"
    if verb == "U":
        return f"U+{value:04X}"
    sign = "+" if "+" in flags else " " if " " in flags else "-"
    return f"{value:{sign}{'#' if '#' in flags and verb in 'xX' else ''}{verb}}"


def _fraction(flags: str, digits: int | None, verb: str, value: float) -> str:
    sign = "+" if "+" in flags else ""
    if digits is None and verb in "gG":
        text = number_text(value)
        return (sign if value >= 0 else "") + (text.upper() if verb == "G" else text)
    return f"{value:{sign}.{6 if digits is None else digits}{verb}}"


def sprint(values: Sequence[Any]) -> str:
    """Go's Sprint: blanks between two operands of which neither is a string."""
    out: list[str] = []
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            out.append(" ")
        out.append(to_text(value))
    return "".join(out)
