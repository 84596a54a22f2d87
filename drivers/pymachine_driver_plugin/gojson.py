"""JSON as Go's package encoding/json writes it, so that a program gets its own configuration back as it wrote it."""

from __future__ import annotations

import json
import math
from decimal import Decimal

from pymachine.driver.contract import Json

# Go escapes what could end a script in a page of HTML, and two line breaks of JavaScript.
_ESCAPED = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def encode(value: Json) -> bytes:
    """Return `value` without spaces. Keys keep their order. Raises ValueError for what JSON does not have."""
    return _text(value).encode(errors="surrogateescape")


def _text(value: Json) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{_string(str(key))}:{_text(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, float):
        return _float(value)
    return json.dumps(value)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).translate(_ESCAPED)


def _float(number: float) -> str:
    """Return the shortest text: with an exponent only for numbers below 1e-6 and from 1e21 on."""
    if not math.isfinite(number):
        raise ValueError(f"{number} is not a number in JSON")
    if number and not 1e-6 <= abs(number) < 1e21:
        digits, _, exponent = repr(number).partition("e")
        return f"{digits}e{exponent[0]}{exponent[1:].lstrip('0')}"
    return format(Decimal(repr(number)), "f").removesuffix(".0")
