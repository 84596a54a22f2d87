"""Print values as Go does: the verbs of its package fmt, and its package encoding/json."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pymachine.gotemplate.types import Byte, Named, Pointer, Struct, type_name, unbox

_VERB = re.compile(
    r"%([-+# 0]*)(?:\[([0-9]+)\])?(\*|[0-9]+)?(?:\.(?:\[([0-9]+)\])?(\*|[0-9]*))?(?:\[([0-9]+)\])?(.)", re.DOTALL
)
# Wider than any output; Go's own limit is a million.
_MAX_WIDTH = 10_000
_POINTER = "0xc000000000"


@dataclass(frozen=True)
class Verb:
    """One verb of a format, with its flags."""

    letter: str
    flags: str = ""
    width: int | None = None
    precision: int | None = None

    @property
    def sharp(self) -> bool:
        """Whether values are printed in Go syntax (``%#v``)."""
        return self.letter == "v" and "#" in self.flags

    def pad(self, text: str) -> str:
        """Return `text` padded to the verb's width."""
        if self.width is None or len(text) >= self.width:
            return text
        if "-" in self.flags:
            return text.ljust(self.width)
        if "0" in self.flags:
            return text.rjust(self.width, "0")
        return text.rjust(self.width)


PLAIN = Verb("v")


def to_text(value: Any) -> str:
    """Return a value as Go prints it with %v."""
    return format_value(PLAIN, value)


def action_text(value: Any) -> str:
    """Return a value as an action prints it: pointers are followed, and no value is ``<no value>``."""
    value = unbox(value)
    if value is None:
        return "<no value>"
    return to_text(dereference(value))


def dereference(value: Any) -> Any:
    """Return the target of a pointer. A nil pointer, or any other value, is returned unchanged."""
    return value.target if isinstance(value, Pointer) and value.target is not None else value


def format_value(verb: Verb, value: Any, depth: int = 0) -> str:
    """Format a value with a verb. `depth` is how many values enclose it."""
    value = unbox(value)
    if value is None:
        return _nil(verb, depth)
    if verb.letter == "T":
        return _string(replace(verb, letter="s"), type_name(value)) or ""
    if _is_compound(value):
        return _compound(verb, value, depth)
    # The plus of %+v adds the names of fields, not the signs of numbers.
    return _scalar(replace(verb, flags=verb.flags.replace("+", "")) if verb.letter == "v" else verb, value)


def _nil(verb: Verb, depth: int) -> str:
    if depth:
        return verb.pad("interface {}(nil)" if verb.sharp else "<nil>")
    return verb.pad("<nil>") if verb.letter in "vT" else f"%!{verb.letter}(<nil>)"


def _is_compound(value: Any) -> bool:
    return isinstance(value, Struct | Pointer | Mapping | list | tuple)


def _compound(verb: Verb, value: Any, depth: int) -> str:
    if isinstance(value, Pointer):
        return _pointer(verb, value, depth)

    def format_part(entry: Any) -> str:
        return format_value(verb, entry, depth + 1)

    name = type_name(value) if verb.sharp else ""
    if isinstance(value, Struct):
        has_names = verb.sharp or (verb.letter == "v" and "+" in verb.flags)
        parts = [
            f"{key}:{format_part(entry)}" if has_names else format_part(entry) for key, entry in value.fields.items()
        ]
        plain = f"{{{' '.join(parts)}}}"
    elif isinstance(value, Mapping):
        parts = [f"{format_part(key)}:{format_part(value[key])}" for key in sorted(value)]
        plain = f"map[{' '.join(parts)}]"
    else:
        parts = [format_part(entry) for entry in value]
        plain = f"[{' '.join(parts)}]"
    if verb.sharp:
        return f"{name}(nil)" if getattr(value, "is_nil", False) else f"{name}{{{', '.join(parts)}}}"
    return plain


def _pointer(verb: Verb, value: Pointer, depth: int) -> str:
    if value.target is not None:
        if not depth:
            return "&" + _compound(verb, value.target, depth + 1)
        # Go follows only the outermost pointer, and prints an address for the others; ours is a constant.
        return f"({value.type_name})({_POINTER})" if verb.sharp else _POINTER
    if verb.sharp:
        return f"({value.type_name})(nil)"
    if verb.letter in "bdoxX":  # these print the address as a number
        return _integer(verb, 0)
    return verb.pad("<nil>") if verb.letter == "v" else f"%!{verb.letter}({value.type_name}={verb.pad('<nil>')})"


def _scalar(verb: Verb, value: Any, *, bad_verb: bool = False) -> str:
    """Format a value without parts. `bad_verb` means the verb does not apply to it; then no method is called."""
    original = value
    has_names = isinstance(value, Named) and "String" in value.methods
    if has_names and verb.letter in "vsxXq" and not verb.sharp and not bad_verb:
        value = str(value.methods["String"].function(value))
    if isinstance(value, bool):
        text = verb.pad("true" if value else "false") if verb.letter in "tv" else None
    elif isinstance(value, str):
        text = _string(verb, value)
    else:
        text = _number(verb, value)
    if text is None:
        plain = replace(verb, letter="v", flags=verb.flags.replace("#", ""))
        return f"%!{verb.letter}({type_name(original)}={_scalar(plain, original, bad_verb=True)})"
    return text


def _string(verb: Verb, value: str) -> str | None:
    if verb.sharp:
        return verb.pad(quote(value))
    if verb.letter not in "vsqxX":
        return None
    if verb.letter in "xX":
        data = value.encode(errors="surrogateescape")[: verb.precision]
        text = data.hex(" ") if " " in verb.flags else data.hex()
        if "#" in verb.flags and data:
            text = "0x" + text.replace(" ", " 0x")
        return verb.pad(text.upper() if verb.letter == "X" else text)
    text = value if verb.precision is None else value[: verb.precision]
    if verb.letter == "q":
        plain = "#" in verb.flags and "`" not in text and text.isprintable()
        text = f"`{text}`" if plain else quote(text, ascii_only="+" in verb.flags)
    return verb.pad(text)


def _number(verb: Verb, value: Any) -> str | None:
    if verb.letter in "dboOxXcqU" and isinstance(value, int):
        return _integer(verb, int(value))
    if verb.letter == "v":
        if isinstance(value, float):
            return _padded_number(verb, number_text(value))
        if verb.sharp and isinstance(value, Byte):
            return hex(value)
        return _integer(replace(verb, letter="d", flags=verb.flags.replace("#", "")), int(value))
    fraction = type_name(value) == "float64"
    return _fraction(verb, float(value)) if verb.letter in "eEfFgG" and fraction else None


def _integer(verb: Verb, value: int) -> str:
    if verb.letter in "cq":
        character = chr(value) if 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000 else "\ufffd"
        if verb.letter == "c":
            return verb.pad(character)
        return verb.pad("'" + ("\\'" if character == "'" else _rune(character)) + "'")
    if verb.letter == "U":
        text = f"U+{value & 0xFFFFFFFFFFFFFFFF:04X}"
        shown = "#" in verb.flags and 0 <= value <= 0x10FFFF and chr(value).isprintable()
        return verb.pad(f"{text} '{chr(value)}'" if shown else text)
    digits = f"{abs(value):{verb.letter.replace('O', 'o')}}"
    if verb.precision is not None:
        digits = "" if verb.precision == 0 and value == 0 else digits.rjust(verb.precision, "0")
        if not digits:
            return " " * (verb.width or 0)
    sign = "-" if value < 0 else "+" if "+" in verb.flags else " " if " " in verb.flags else ""
    if verb.precision is None and "0" in verb.flags and "-" not in verb.flags and verb.width is not None:
        digits = digits.rjust(verb.width - len(sign), "0")
    prefix = {"x": "0x", "X": "0X", "b": "0b", "o": "" if digits.startswith("0") else "0"}.get(verb.letter, "")
    if verb.letter == "O":
        prefix = "0o0" if "#" in verb.flags and not digits.startswith("0") else "0o"
    elif "#" not in verb.flags:
        prefix = ""
    return replace(verb, flags=verb.flags.replace("0", "")).pad(sign + prefix + digits)


def _fraction(verb: Verb, value: float) -> str:
    if verb.precision is None and verb.letter in "gG":
        text = number_text(value)
        text = text.upper() if verb.letter == "G" else text
    else:
        text = (
            f"{value:{'#' if '#' in verb.flags else ''}.{6 if verb.precision is None else verb.precision}{verb.letter}}"
        )
        if not math.isfinite(value):
            text = number_text(value)
    return _padded_number(verb, text)


def _padded_number(verb: Verb, text: str) -> str:
    sign, digits = (text[0], text[1:]) if text[0] in "+-" else ("", text)
    if sign != "-":
        sign = "+" if "+" in verb.flags else " " if " " in verb.flags else sign
    if "0" in verb.flags and "-" not in verb.flags and verb.width is not None and digits[0].isdigit():
        digits = digits.rjust(verb.width - len(sign), "0")
    return verb.pad(sign + digits)


def number_text(value: float) -> str:
    """Return a float as %v prints it: the shortest digits that identify it, with an exponent from 21 digits on."""
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
    """Return a value as Go's encoding/json writes it: keys sorted, HTML's special characters escaped."""
    separators = (",", ": ") if indent else (",", ":")
    text = json.dumps(_to_json_value(value), indent=indent, separators=separators, sort_keys=True, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _to_json_value(value: Any) -> Any:
    """Convert a value to plain JSON types. Named integers with a String method become that string."""
    value = dereference(unbox(value))
    if isinstance(value, Struct):
        return _to_json_value(value.fields if value.as_json is None else value.as_json)
    if isinstance(value, Pointer):
        return None
    if isinstance(value, Named):
        return value.methods["String"].function(value) if "String" in value.methods else int(value)
    if isinstance(value, Mapping):
        return {key: _to_json_value(entry) for key, entry in value.items()}
    return [_to_json_value(entry) for entry in value] if isinstance(value, list | tuple) else value


def quote(value: str, *, ascii_only: bool = False) -> str:
    """Return a string as %q prints it."""
    return '"' + "".join('\\"' if char == '"' else _rune(char, ascii_only=ascii_only) for char in value) + '"'


_ESCAPES = {"\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


def _rune(char: str, *, ascii_only: bool = False) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    if char.isprintable() and (char.isascii() or not ascii_only):
        return char
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class _Arguments:
    """The arguments of one printf, taken in order or by number."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = [unbox(value) for value in values]
        self.position = 0
        self.numbered = False

    def select(self, number: str | None) -> bool:
        """Continue with argument `number`, if not None. Return False if there is no such argument."""
        if number is None:
            return True
        self.numbered = True
        if not 1 <= int(number) <= len(self.values):
            return False
        self.position = int(number) - 1
        return True

    def next(self) -> Iterator[Any]:
        """Yield the next argument, if there is one."""
        if self.position < len(self.values):
            self.position += 1
            yield self.values[self.position - 1]

    def width_or_precision(self, text: str | None) -> tuple[int | None, bool]:
        """Return a width or precision (``*`` takes it from an argument), and whether it is valid."""
        if text != "*":
            return (min(int(text), _MAX_WIDTH) if text else None), True
        value = next(self.next(), None)
        number = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 10**6
        return (max(-_MAX_WIDTH, min(int(value or 0), _MAX_WIDTH)) if number else None), number


def printf(form: str, *values: Any) -> str:
    """Format as Go's Sprintf."""
    arguments = _Arguments(values)
    text = _VERB.sub(lambda match: _directive(match, arguments), form)
    tail = re.search(r"(?:[^%]|^)(?:%%)*(%[-+# 0-9.*\[\]]*)\Z", form)
    if tail:
        text = text[: len(text) - len(tail[1])] + "%!(NOVERB)"
    rest = arguments.values[arguments.position :]
    if rest and not arguments.numbered:
        text += "%!(EXTRA " + ", ".join(_describe_extra(value) for value in rest) + ")"
    return text


def _directive(match: re.Match[str], arguments: _Arguments) -> str:
    flags, first, width_text, second, precision_text, third, letter = match.groups()
    found = arguments.select(first)
    width, good_width = arguments.width_or_precision(width_text)
    found = arguments.select(second) and found
    precision, good_precision = arguments.width_or_precision(precision_text)
    found = arguments.select(third) and found
    if precision_text == "":
        precision = 0
    if width is not None and width < 0:
        flags, width = flags + "-", -width
    problem = ("" if good_width else "%!(BADWIDTH)") + ("" if good_precision else "%!(BADPREC)")
    if letter == "%":
        return problem + "%"
    if not found:
        return f"{problem}%!{letter}(BADINDEX)"
    for value in arguments.next():
        if precision is not None and precision < 0:
            precision = None
        return problem + format_value(Verb(letter, flags, width, precision), value)
    return f"{problem}%!{letter}(MISSING)"


def _describe_extra(value: Any) -> str:
    return "<nil>" if value is None else f"{type_name(value)}={to_text(value)}"


def sprint(values: Sequence[Any]) -> str:
    """Format as Go's Sprint: a blank between two operands if neither is a string."""
    plain = [unbox(value) for value in values]
    out: list[str] = []
    for number, value in enumerate(plain):
        if number and not isinstance(value, str) and not isinstance(plain[number - 1], str):
            out.append(" ")
        out.append(to_text(value))
    return "".join(out)


def sprintln(values: Sequence[Any]) -> str:
    """Format as Go's Sprintln: blanks between all operands, and a newline."""
    return " ".join(to_text(value) for value in values) + "\n"
