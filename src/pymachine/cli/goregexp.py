"""Translate Go's regular expressions (RE2) into Python's, and refuse those that Go refuses.

It follows the parser of Go's package ``regexp/syntax`` (Go 1.12): https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache

_Ranges = list[tuple[int, int]]

_LAST = 0x10FFFF
_LARGEST_COUNT = 1000
# The ASCII classes, as pairs of the first and last character of each range.
_CLASSES = {
    "alnum": "09AZaz",
    "alpha": "AZaz",
    "ascii": "\x00\x7f",
    "blank": "\t\t  ",
    "cntrl": "\x00\x1f\x7f\x7f",
    "digit": "09",
    "graph": "!~",
    "lower": "az",
    "print": " ~",
    "punct": "!/:@[`{~",
    "space": "\t\r  ",
    "upper": "AZ",
    "word": "09AZ__az",
    "xdigit": "09AFaf",
}
_LETTERS = {"d": "09", "s": "\t\n\f\r  ", "w": "09AZ__az"}
_ESCAPES = {"a": 7, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
# Positions in the text. Python's own \b counts letters of all scripts, and its \B does not match an empty text.
_PLACES = {"A": r"(?:\A)", "z": r"(?:\Z)", "b": r"(?a:\b)", "B": r"(?a:(?!\b))"}
# One of Unicode's general categories (L, Lu, Nd), not a script such as Greek.
_CATEGORY = re.compile("[CLMNPSZ][a-z]?")
_COUNT = re.compile(r"\{(0|[1-9][0-9]*)(?:(,)(0|[1-9][0-9]*)?)?\}")
_FLAGS = re.compile(r"\?([ims]*)(?:-([ims]+))?([:)])")
_NAME = re.compile("\\?P<([A-Za-z0-9_]+)>")
_OCTAL = re.compile("0[0-7]{0,2}|[1-7][0-7]{1,2}")
_HEXADECIMAL = re.compile(r"x(?:\{([0-9A-Fa-f]+)\}|([0-9A-Fa-f]{2}))")
_PROPERTY = re.compile(r"([pP])(?:\{(\^?)([^}]*)\}|(.))", re.DOTALL)


@lru_cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Return the Python pattern that matches as Go's `pattern` does. Raises `re.error` if Go refuses it."""
    text = _Translator(pattern).text()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        try:
            return re.compile(text)
        except re.error as error:  # drop the position: it refers to the translated text
            raise re.error(error.msg) from error
        except (FutureWarning, OverflowError, RecursionError) as error:
            raise re.error(str(error)) from error


class _Translator:
    """One pass over a pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        # For each open group, the groups opened within it for flags that apply up to its end.
        self._flags: list[list[str]] = [[]]
        self._repeated = False

    def text(self) -> str:
        """Return the whole pattern in Python's syntax."""
        parts = []
        while self._at < len(self._pattern):
            parts.append(self._token())
        if len(self._flags) > 1:
            raise re.error("missing closing )")
        return "".join(parts) + ")" * len(self._flags[0])

    def _take(self, expected: re.Pattern[str]) -> re.Match[str] | None:
        found = expected.match(self._pattern, self._at)
        if found:
            self._at = found.end()
        return found

    def _next(self, what: str) -> str:
        if self._at >= len(self._pattern):
            raise re.error(what)
        self._at += 1
        return self._pattern[self._at - 1]

    def _token(self) -> str:
        repeated, self._repeated = self._repeated, False
        count = self._take(_COUNT)
        character = "{" if count else self._next("")
        if count or character in "*+?":
            # Python reads a second operator as a possessive quantifier: a*+ and a{2}+.
            if repeated:
                raise re.error("invalid nested repetition operator")
            self._repeated = True
            return self._count(count) if count else character + self._lazy()
        parse = {"(": self._group, "|": self._bar, ")": self._end, "[": self._set, "\\": self._escape}.get(character)
        if parse:
            return parse()
        if character in "^$":  # Python can repeat these only in a group
            return f"(?:{character})"
        return character if character == "." else re.escape(character)

    def _count(self, count: re.Match[str]) -> str:
        if any(int(number[:5]) > _LARGEST_COUNT for number in (count[1], count[3]) if number):
            raise re.error("invalid repeat count")
        return count[0] + self._lazy()

    def _lazy(self) -> str:
        if self._pattern[self._at : self._at + 1] != "?":
            return ""
        self._at += 1
        return "?"

    def _group(self) -> str:
        if self._pattern[self._at : self._at + 1] != "?" or self._take(_NAME):
            self._flags.append([])
            return "("
        found = self._take(_FLAGS)
        if found is None:
            raise re.error("invalid or unsupported Perl syntax")
        opened = f"(?{found[1]}{'-' + found[2] if found[2] else ''}:"
        if found[3] == ":":
            self._flags.append([])
        else:
            self._flags[-1].append(opened)
        return opened

    def _bar(self) -> str:
        """Start an alternative. The flags set before it in the same group still apply."""
        return ")" * len(self._flags[-1]) + "|" + "".join(self._flags[-1])

    def _end(self) -> str:
        if len(self._flags) == 1:
            raise re.error("unexpected )")
        return ")" * len(self._flags.pop()) + ")"

    def _escape(self) -> str:
        ranges = self._class()
        if ranges is not None:
            return f"[{_written(ranges)}]"
        following = self._pattern[self._at : self._at + 1]
        if following == "Q":
            quoted, _, _ = self._pattern[self._at + 1 :].partition("\\E")
            self._at = min(self._at + 1 + len(quoted) + 2, len(self._pattern))
            return re.escape(quoted)
        if following and following in _PLACES:
            self._at += 1
            return _PLACES[following]
        return re.escape(chr(self._code()))

    def _class(self) -> _Ranges | None:
        r"""Read a class such as ``\d`` or ``\pL`` after a backslash. Return None if something else follows."""
        letter = self._pattern[self._at : self._at + 1]
        if letter and letter.lower() in _LETTERS:
            self._at += 1
            ranges = _pairs(_LETTERS[letter.lower()])
            return ranges if letter.islower() else _others(ranges)
        found = self._take(_PROPERTY)
        if found is None:
            return None
        ranges = _category(found[3] if found[4] is None else found[4])
        return _others(ranges) if (found[1] == "P") != bool(found[2]) else ranges

    def _code(self) -> int:
        """Return the character after a backslash, as a number."""
        octal = self._take(_OCTAL)
        if octal:
            return int(octal[0], 8)
        hexadecimal = self._take(_HEXADECIMAL)
        if hexadecimal:
            digits = (hexadecimal[1] or hexadecimal[2]).lstrip("0") or "0"
            if len(digits) <= 6 and int(digits, 16) <= _LAST:
                return int(digits, 16)
            raise re.error("invalid escape sequence")
        character = self._next("trailing backslash at end of expression")
        if character in _ESCAPES:
            return _ESCAPES[character]
        if character.isalnum() or not character.isascii():
            raise re.error(f"invalid escape sequence: \\{character}")
        return ord(character)

    def _set(self) -> str:
        """Read the rest of a class in brackets."""
        missing = "missing closing ]"
        negated = self._pattern[self._at : self._at + 1] == "^"
        self._at += negated
        start = self._at
        ranges: _Ranges = []
        while self._pattern[self._at : self._at + 1] != "]" or self._at == start:
            if self._pattern.startswith("[:", self._at) and ":]" in self._pattern[self._at + 2 :]:
                ranges += self._named()
                continue
            if self._pattern[self._at : self._at + 1] == "\\":
                self._at += 1
                found = self._class()
                if found is not None:
                    ranges += found
                    continue
                self._at -= 1
            first = last = self._member(missing)
            if self._pattern.startswith("-", self._at) and not self._pattern.startswith("-]", self._at):
                self._at += 1
                last = self._member(missing)
            if last < first:
                raise re.error("invalid character class range")
            ranges.append((first, last))
        self._at += 1
        return f"[{'^' if negated else ''}{_written(ranges)}]"

    def _member(self, missing: str) -> int:
        character = self._next(missing)
        return self._code() if character == "\\" else ord(character)

    def _named(self) -> _Ranges:
        name, _, _ = self._pattern[self._at + 2 :].partition(":]")
        ranges = _pairs(_CLASSES.get(name.removeprefix("^"), ""))
        if not ranges:
            raise re.error(f"invalid character class range: [:{name}:]")
        self._at += len(name) + 4
        return _others(ranges) if name.startswith("^") else ranges


def _pairs(text: str) -> _Ranges:
    return [(ord(first), ord(last)) for first, last in zip(text[::2], text[1::2], strict=True)]


def _others(ranges: _Ranges) -> _Ranges:
    """Return all characters except those in `ranges`, which are sorted."""
    begins = [0, *(last + 1 for _, last in ranges)]
    ends = [*(first - 1 for first, _ in ranges), _LAST]
    return [(begin, end) for begin, end in zip(begins, ends, strict=True) if begin <= end]


def _category(name: str) -> _Ranges:
    """Return the characters of one of Unicode's general categories. This takes 250 ms."""
    if not _CATEGORY.fullmatch(name):
        raise re.error(f"the character class {name} is not supported: only Unicode's general categories are")
    import unicodedata  # noqa: PLC0415 (rarely needed)

    ranges: _Ranges = []
    for code in range(_LAST + 1):
        if unicodedata.category(chr(code)).startswith(name):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1] = (ranges[-1][0], code)
            else:
                ranges.append((code, code))
    if not ranges:
        raise re.error(f"invalid character class range: \\p{{{name}}}")
    return ranges


def _written(ranges: _Ranges) -> str:
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
