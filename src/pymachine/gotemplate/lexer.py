"""Split a template's source into text and actions, and an action into tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pymachine.gotemplate.errors import parse_error

_BLANKS = " \t\r\n"
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    |(?P<char>'(?:[^'\\\n]|\\(?:[^xuU0-7\n]|x..|u.{4}|U.{8}|[0-7]{3}))')
    |(?P<number>[-+]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|(?:[0-9][0-9_]*)?\.?[0-9][0-9_]*\.?(?:[eE][-+]?[0-9]+)?)(?![A-Za-z0-9_.]))
    |(?P<field>\.[^\W\d]\w*)
    |(?P<variable>\$\w*)
    |(?P<word>[^\W\d]\w*)
    |(?P<sign>:=|[=.|(),])""",
    re.VERBOSE,
)
# Text that begins like a number gets the error for bad numbers.
_NUMBER_LIKE = re.compile(r"[-+]?\.?[0-9][\w.]*")
_ESCAPE = re.compile(r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3}))")
_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


@dataclass(frozen=True)
class Piece:
    """A stretch of text or, with `action`, the text between ``{{`` and ``}}``."""

    text: str
    line: int
    action: bool = False
    offset: int = 0
    """Where the text starts in the source."""


@dataclass(frozen=True)
class Token:
    """One token of an action. `spaced` says whether blanks precede it."""

    kind: str
    text: str
    spaced: bool
    offset: int = 0
    """Where the token starts in the source."""


def split_source(source: str) -> Iterator[Piece]:
    """Yield text and actions in turn, without comments. Trims blanks where actions request it (``{{-``, ``-}}``)."""
    at, trim = 0, False
    while True:
        start = source.find("{{", at)
        text = source[at:] if start < 0 else source[at:start]
        if trim:
            text = text.lstrip(_BLANKS)
        if start < 0:
            yield Piece(text, 1)
            return
        line = source.count("\n", 0, start) + 1
        inside = start + 2
        if source[inside : inside + 1] == "-" and source[inside + 1 : inside + 2] in set(_BLANKS):
            text = text.rstrip(_BLANKS)
            inside += 1
        yield Piece(text, line)
        body, at, trim = _action(source, inside, line)
        if body is not None:
            yield Piece(body, line, action=True, offset=inside)


def _action(source: str, start: int, line: int) -> tuple[str | None, int, bool]:
    """Read the action that starts at `start`.

    Returns its body (None for a comment), where it ends, and whether it trims the text after it.
    """
    comment = re.compile(r"[ \t\r\n]*/\*").match(source, start)
    if comment:
        end = source.find("*/", comment.end())
        closing = re.compile(r"([ \t\r\n]-)?\}\}").match(source, end + 2) if end >= 0 else None
        if closing is None:
            raise parse_error("unclosed comment" if end < 0 else "comment ends before closing delimiter", line)
        return None, closing.end(), bool(closing[1])
    at = start
    while at < len(source):
        if source.startswith("}}", at):
            body = source[start:at]
            trims = len(body) > 1 and body[-1] == "-" and body[-2] in _BLANKS
            return (body[:-1] if trims else body), at + 2, trims
        if source[at] in "\"`'":
            quote = _TOKEN.match(source, at)
            if quote is None:
                raise parse_error("unterminated quoted string", line)
            at = quote.end()
        else:
            at += 1
    raise parse_error("unclosed action", line)


def tokens(body: str, line: int, start: int = 0) -> list[Token]:
    """Return the tokens of an action that starts at `start` in the source."""
    found: list[Token] = []
    at, spaced = 0, False
    while at < len(body):
        match = _TOKEN.match(body, at)
        if match is None or match.lastgroup is None:
            number = _NUMBER_LIKE.match(body, at)
            if number:
                raise parse_error(f'bad number syntax: "{number[0]}"', line)
            raise parse_error(f'unexpected "{body[at : at + 10].strip()}" in command', line)
        if match.lastgroup == "space":
            spaced = True
        else:
            found.append(Token(match.lastgroup, match.group(), spaced, start + at))
            spaced = False
        at = match.end()
    return found


def string(text: str, line: int) -> str:
    """Return the value of a string constant."""
    if text[0] == "`":
        return text[1:-1]
    return _unescaped(text[1:-1], line)


def number(text: str, line: int) -> int | float:
    """Return the value of a number or a character constant, which is a number too."""
    if text[0] == "'":
        value = _unescaped(text[1:-1], line)
        if len(value) != 1:
            raise parse_error(f"malformed character constant: {text}", line)
        return ord(value)
    plain = text.replace("_", "")
    try:
        if re.fullmatch(r"[-+]?0[0-7]+", plain):
            return int(plain, 8)
        return int(plain, 0) if re.fullmatch(r"[-+]?(0[xXbBoO][0-9a-fA-F]+|[0-9]+)", plain) else float(plain)
    except ValueError:
        raise parse_error(f"bad number syntax: {text!r}", line) from None


def _unescaped(text: str, line: int) -> str:
    def unescape(match: re.Match[str]) -> str:
        simple, two, four, eight, octal = match.groups()
        if simple:
            return _SIMPLE.get(simple, simple)
        code = int(octal, 8) if octal else int(two or four or eight, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise parse_error(f"invalid syntax: {match.group()}", line)
        return chr(code)

    if "\\" in _ESCAPE.sub("", text):
        raise parse_error("invalid syntax in a quoted string", line)
    return _ESCAPE.sub(unescape, text)
