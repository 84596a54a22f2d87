"""Escape control characters in untrusted text: from guests, engines, records, archives and mirrors.

A terminal obeys escape sequences, and reorders text by bidirectional controls. Such characters, and those that cannot
be seen, are written as escapes: ``\\x1b``, ``\\u202e``. Letters, accents and emoji of every script stay. Backslashes
stay too, so that an escape may also be the text's own: ``--json`` tells the two apart.

The escapes above ASCII are JSON's own, so that JSON remains valid.
"""

from __future__ import annotations

# Beside C1 controls: what is invisible (soft hyphen, zero-width blank, word joiner, byte order mark, tags), what
# changes the direction of text (marks, embeddings, overrides, isolates), and Unicode's line and paragraph separators.
_INVISIBLE = (
    (0x7F, 0x9F),
    (0xAD, 0xAD),
    (0x61C, 0x61C),
    (0x180E, 0x180E),
    (0x200B, 0x200B),
    (0x200E, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x206F),
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0xE0000, 0xE007F),
)
# Zero-width joiner and non-joiner: part of emoji, and of words in Persian and Indian scripts.
_JOINERS = frozenset("\u200c\u200d")
_FIRST_OF_JOINED_SCRIPTS = "\u0590"


def _in_json(code: int) -> str:
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"


_LINE = {code: f"\\x{code:02x}" for code in range(0x20)} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}
_LINE |= {code: _in_json(code) for first, last in _INVISIBLE for code in range(first, last + 1)}
_BLOCK = {code: escape for code, escape in _LINE.items() if chr(code) not in "\n\t"}
# Python's code points for the bytes of a file name that are not text.
_BYTES = {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}


def line(text: str) -> str:
    """Return `text` for one line, such as a message or a table's cell: line breaks and tabs are escaped too."""
    return text if text.isprintable() else _without_lone_joiners(text).translate(_LINE)


def block(text: str) -> str:
    """Return `text` of several lines, such as a log: line breaks and tabs stay."""
    return text if text.isprintable() else _without_lone_joiners(text.replace("\r\n", "\n")).translate(_BLOCK)


def for_terminal(text: str) -> str:
    """Return a block for a terminal. Bytes that are not text are escaped too."""
    return block(text).translate(_BYTES)


def for_json(text: str) -> str:
    """Return the JSON `text` with escapes in its strings, which are read back as the characters that they stand for."""
    return block(text).encode("utf-8", "backslashreplace").decode()


def _without_lone_joiners(text: str) -> str:
    """Escape joiners that join nothing, which would make two names look the same."""
    if _JOINERS.isdisjoint(text):
        return text
    parts, before = [], ""
    for character in text:
        lone = character in _JOINERS and not _is_joined(before)
        parts.append(_in_json(ord(character)) if lone else character)
        before = character
    return "".join(parts)


def _is_joined(before: str) -> bool:
    """Return whether a joiner after `before` is part of a word or an emoji."""
    return before >= _FIRST_OF_JOINED_SCRIPTS and before not in _JOINERS and ord(before) not in _LINE
