"""Go templates compared with Go's own output for the same template and data, and generated templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from pymachine.gotemplate import FormatError, parse
from pymachine.gotemplate.types import Duration
from support import gotemplates

GOLDEN = json.loads((Path(__file__).parent / "data" / "gotemplate.json").read_text(encoding="utf-8"))
DATA = GOLDEN["data"]
PIECES = [
    *(
        "{{",
        "}}",
        "{{-",
        "-}}",
        " ",
        "\n",
        ".",
        "$",
        "$x",
        ":=",
        "=",
        "|",
        "(",
        ")",
        ",",
        '"a"',
        "`b`",
        "'c'",
        "1",
        "-2.5",
    ),
    *(
        "if",
        "else",
        "end",
        "range",
        "with",
        "define",
        "template",
        "block",
        "break",
        "continue",
        "nil",
        "true",
        "/*",
        "*/",
    ),
    *(
        ".Name",
        ".Driver",
        ".Labels",
        "json",
        "printf",
        "index",
        "eq",
        "and",
        "len",
        '"%d"',
        '"%*v"',
        "\\",
        '"',
        "ü",
        "%",
    ),
]


@pytest.mark.parametrize("template", GOLDEN["outputs"])
def test_templates_render_as_in_go(template: str) -> None:
    expected = GOLDEN["outputs"][template]
    if expected is not None:
        assert parse(template).render(DATA) == expected
        return
    with pytest.raises(FormatError) as caught:
        parse(template).render(DATA)
    assert "template: :" in caught.value.brief


def test_whole_numbers_have_no_exponent_unlike_in_go() -> None:
    template = parse('{{.CPU}} {{eq .CPU 2}} {{printf "%d" .CPU}} {{.Disk}}')
    assert template.render({"CPU": 2, "Disk": 1000000}) == "2 true 2 1000000"


ROWS = json.loads((Path(__file__).parent / "data" / "gotemplate-rows.json").read_text(encoding="utf-8"))
KNOWN = gotemplates.data()


@pytest.mark.parametrize("asked", ROWS)
def test_rows_and_records_are_typed_as_in_go(asked: str) -> None:
    name, _, template = asked.partition(": ")
    assert list(gotemplates.render_with_pymachine(gotemplates.Rendering(template, name), KNOWN)) == ROWS[asked]


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0s"), (7, "7ms"), (999, "999ms"), (1000, "1s"), (1500, "1.5s"), (61_001, "1m1.001s"), (3_600_000, "1h0m0s")],
)
def test_durations_are_written_as_in_go(milliseconds: int, text: str) -> None:
    duration = Duration(milliseconds * 10**6)
    assert parse("{{.}} {{.String}}").render(duration) == f"{text} {text}"
    assert parse("{{.Nanoseconds}} {{.Milliseconds}}").render(duration) == f"{milliseconds * 10**6} {milliseconds}"


def test_short_durations_have_short_units() -> None:
    assert [str(parse("{{.}}").render(Duration(number))) for number in (1, 1500, 1_500_000)] == [
        "1ns",
        "1.5\u00b5s",
        "1.5ms",
    ]
    assert parse("{{.}}").render(Duration(-1_500_000_000)) == "-1.5s"


def test_an_error_carries_the_output_rendered_before_it() -> None:
    with pytest.raises(FormatError) as caught:
        parse("a{{.Name}}b{{.Name.Foo}}c").render({"Name": "x"})
    assert caught.value.partial == "axb"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{", "template parsing error: template: :1: unclosed action"),
        ("{{nosuch .}}", 'function "nosuch" not defined'),
        ("{{}}", "missing value for command"),
        ("{{end}}", "unexpected {{end}}"),
        ("\n\n{{if .x}}", "template parsing error: template: :3: unexpected EOF"),
        ("{{$x}}", 'undefined variable "$x"'),
        ("{{define `a`}}{{template `a`}}{{end}}{{template `a`}}", "exceeded maximum template depth"),
        ("{{if " + "(" * 300 + ".a" + ")" * 300 + "}}{{end}}", "nested too deeply"),
        ("{{if .a}}" * 300 + "{{end}}" * 300, "nested too deeply"),
    ],
)
def test_errors_have_gos_messages(template: str, says: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse(template).render({})
    assert says in caught.value.brief


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=25).map("".join), VALUES)
@settings(deadline=None)
def test_any_template_gives_text_or_a_template_error(source: str, value: Any) -> None:
    try:
        text = parse(source).render({**DATA, "Value": value})
    except FormatError as error:
        assert "template: :" in error.brief
    else:
        assert isinstance(text, str)


@given(VALUES)
@settings(deadline=None)
def test_any_value_can_be_printed_with_every_verb(value: Any) -> None:
    assert json.loads(parse("{{json .}}").render(value)) == value
    assert json.loads(parse("{{prettyjson .}}").render(value)) == value
    for verb in "vsdqxXtTeEfFgGbocU":
        assert parse("{{printf `%10" + verb + "|%-5.2" + verb + "` . .}}").render(value)


@given(st.text(alphabet="%vsdqx*.-+# 0123456789[]T", max_size=12), VALUES)
@settings(deadline=None)
def test_any_format_string_gives_text(form: str, value: Any) -> None:
    assert isinstance(parse("{{printf .Form .Value}}").render({"Form": form, "Value": value}), str)
