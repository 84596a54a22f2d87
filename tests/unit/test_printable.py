"""Control characters made visible. `test_terminal.py` checks that all output passes through here."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given, strategies as st

from pymachine.system import printable

# Ordinary text, which stays unchanged.
ORDINARY = [
    "plain text, 100% & <ordinary>",
    r"C:\Users\me",
    "Größe naïve Ångström e\u0301",
    "مرحبا بالعالم",
    "שָׁלוֹם עולם",
    "می\u200cخواهم",  # noqa: RUF001 (Persian, with a non-joiner in the word)
    "क्\u200dष क्\u200cष",  # Devanagari, with both
    "👩\u200d💻 👨\u200d👩\u200d👧 ❤\ufe0f\u200d🔥 🏳\ufe0f\u200d🌈",
    "箱 ひらがな 한국어 \u3000",
    "1\ufe0f\u20e3",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_of_any_script_is_unchanged(text: str) -> None:
    assert printable.line(text) == printable.block(text) == printable.for_terminal(text) == text
    assert printable.for_json(json.dumps(text, ensure_ascii=False)) == json.dumps(text, ensure_ascii=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x1b[2J\x00\x08", r"\x1b[2J\x00\x08"),
        ("\x9b31m\x7f", r"\u009b31m\u007f"),
        ("gpj\u202eexe", r"gpj\u202eexe"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("dev\u200b", r"dev\u200b"),
        ("d\u200dev\u200c", r"d\u200dev\u200c"),
        ("\u200d\u200d", r"\u200d\u200d"),
        ("👩\u200d\u200d💻", "👩\u200d" + r"\u200d💻"),
        ("\ufeffx\u2060", r"\ufeffx\u2060"),
        ("a\U000e0041", r"a\udb40\udc41"),
        ("a\u2028b\u0085c", r"a\u2028b\u0085c"),
    ],
)
def test_control_and_invisible_characters_are_escaped(text: str, shown: str) -> None:
    assert printable.line(text) == printable.block(text) == shown


def test_lines_escape_line_breaks_and_blocks_keep_them() -> None:
    assert printable.line("a\tb\nc\r\nd\re") == r"a\tb\nc\r\nd\re"
    assert printable.block("a\tb\nc\r\nd\re") == "a\tb\nc\nd\\re"


def test_bytes_that_are_not_utf8_are_escaped_on_terminals_only() -> None:
    """0x9b begins a control sequence on terminals with 8-bit controls."""
    assert printable.line("caf\udce9\udc9b") == "caf\udce9\udc9b"
    assert printable.for_terminal("caf\udce9\udc9b") == r"caf\xe9\x9b"


@given(st.text(st.characters()))
def test_no_control_character_is_left(text: str) -> None:
    for shown in (printable.line(text), printable.for_terminal(text).replace("\n", "").replace("\t", "")):
        assert not [c for c in shown if unicodedata.category(c) == "Cc"]
        assert not [
            c for c in shown if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "FSI")
        ]
    assert printable.line(printable.line(text)) == printable.line(text)


@given(st.recursive(st.text(st.characters()), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_escaped_json_reads_back_to_the_same_value(value: object) -> None:
    """Escaping it a second time for a terminal changes nothing."""
    text = printable.for_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert printable.for_terminal(text) == text
    assert json.loads(text) == value
