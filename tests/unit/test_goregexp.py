"""Go's regular expressions in Python: the same matches and the same errors as Go's package regexp."""

from __future__ import annotations

import re

import pytest

from pymachine.cli import goregexp

TEXTS = ["a", "b2", "C", "a-1", "x_y", "ü", "a.b", "]"]


# The texts that Go 1.19 matches.
@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("", TEXTS),
        ("[[:alpha:]]", ["a", "b2", "C", "a-1", "x_y", "a.b"]),
        ("^[[:alpha:][:digit:]]+$", ["a", "b2", "C"]),
        ("^[[:^alpha:]]+$", ["ü", "]"]),
        ("^[^[:alnum:]_]+$", ["ü", "]"]),
        ("^[[:word:]]+$", ["a", "b2", "C", "x_y"]),
        (r"^\pL+$", ["a", "C", "ü"]),
        (r"^[\pL\pN]+$", ["a", "b2", "C", "ü"]),
        (r"^\p{Lu}\z", ["C"]),
        (r"^\p{^Lu}$", ["a", "ü", "]"]),
        (r"^[\P{L}]$", ["]"]),
        (r"^\w+\z", ["a", "b2", "C", "x_y"]),
        (r"\W", ["a-1", "ü", "a.b", "]"]),
        (r"^[\W]", ["ü", "]"]),
        (r"[\d-]", ["b2", "a-1"]),
        (r"[\w-x]", ["a", "b2", "C", "a-1", "x_y", "a.b"]),
        (r"\Aa\b", ["a", "a-1", "a.b"]),
        (r"a\B", []),
        (r"\Qa.b\E", ["a.b"]),
        (r"^\Qa.", ["a.b"]),
        (r"\x61|\x{5d}|\062", ["a", "b2", "a-1", "a.b", "]"]),
        ("[]]", ["]"]),
        ("[^]a-z]", ["b2", "C", "a-1", "x_y", "ü", "a.b"]),
        ("[[&&~]", []),
        ("a{,2}", []),
        ("^.{2}$", ["b2"]),
        ("x??_", ["x_y"]),
        ("^(?:^)*a$", ["a"]),
        ("^*a$", ["a"]),
        ("(?P<first>a)-", ["a-1"]),
        ("c(?i)|c", ["C"]),
        ("(c(?i)|c)", ["C"]),
        ("(?i)Ü|c", ["C", "ü"]),
        ("(?i:A)(?-s:.)", ["a-1", "a.b"]),
    ],
)
def test_patterns_match_what_go_matches(pattern: str, matched: list[str]) -> None:
    assert [text for text in TEXTS if goregexp.compiled(pattern).search(text)] == matched


@pytest.mark.parametrize(
    "pattern",
    [
        "(?=a)", "(?!a)", "(?<=a)", "(?<!a)", "(?>a)", "(?#a)", "(?P<a>b)(?P=a)", "(a)(?(1)b)", r"(a)\1", r"(a)\8",
        "a*+", "a++", "a?+", "a{2}+", "a**", "a{2}{3}", "a{1001}", "a{3,2}", "*", "|*", "(?x)a", "(?a)a", "(?L)a",
        r"\Z", r"\u0061", r"\N{DIGIT ONE}", r"\y", r"\ü", "\\", r"\x{110000}", r"\xg", r"\p{Nope}", r"\p", r"\pl",
        "[", "[]", "[a", "[[:alpha:]", "[[:nope:]]", r"[a-\d]", "[b-a]", "(", ")", "a)b", "(?i", "(?P<a-b>c)",
    ],
)  # fmt: skip
def test_patterns_that_go_refuses_are_refused(pattern: str) -> None:
    with pytest.raises(re.error):
        goregexp.compiled(pattern)


@pytest.mark.parametrize("pattern", [r"\p{Greek}", "(?U)a*", "a(?i)*", "(" * 5000 + ")" * 5000])
def test_unsupported_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(re.error):
        goregexp.compiled(pattern)
