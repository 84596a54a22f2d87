"""Go templates: what docker-machine's users write, with what a running docker-machine printed for it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from pymachine.gotemplate import TemplateError, parse

DATA = {
    "Name": "intro",
    "Driver": {"IPAddress": "127.1.2.3", "CPU": 2, "Bare": None, "On": True},
    "Labels": ["a=b", "c=d"],
    "Empty": [],
    "Host": {"StorePath": "/s/machines/intro"},
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.Name}}", "intro"),
        ("{{ .Driver.IPAddress }}:{{.Driver.CPU}}", "127.1.2.3:2"),
        ("{{.Nope}}", "<no value>"),
        ("{{.Nope.Deeper}}", "<no value>"),
        ("{{.Driver.Bare}}", "<nil>"),
        ("{{.Labels}}", "[a=b c=d]"),
        ("{{.Host}}", "map[StorePath:/s/machines/intro]"),
        ("{{json .Labels}}", '["a=b","c=d"]'),
        ("{{prettyjson .Host}}", '{\n    "StorePath": "/s/machines/intro"\n}'),
        ("{{.Labels | json}}", '["a=b","c=d"]'),
        ("{{range .Labels}}<{{.}}>{{end}}", "<a=b><c=d>"),
        ("{{range $i, $e := .Labels}}{{$i}}={{$e}};{{end}}", "0=a=b;1=c=d;"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{if .Driver.On}}yes{{else}}no{{end}}", "yes"),
        ('{{if .Empty}}yes{{else if eq .Name "intro"}}second{{else}}no{{end}}', "second"),
        ("{{with .Driver}}{{.CPU}}{{end}}", "2"),
        ("{{index .Labels 1}}", "c=d"),
        ('{{index .Driver "CPU"}}', "2"),
        ('{{printf "%s has %d (%5s|%-5s|%q)" .Name .Driver.CPU "a" "b" "c"}}', 'intro has 2 (    a|b    |"c")'),
        ("{{$n := .Name}}{{$n}}-{{$.Name}}", "intro-intro"),
        ("a  {{- .Name -}}  b", "aintrob"),
        ("{{/* comment */}}x", "x"),
        ("{{len .Labels}} {{not .Empty}} {{and .Name .Driver.CPU}} {{or .Empty .Name}}", "2 true 2 intro"),
        ("{{ne (len .Labels) 3}} {{lt 1 2}}", "true true"),
        ("no actions", "no actions"),
        ('{{join .Labels ","}}', "a=b,c=d"),
    ],
)
def test_renders_as_go_does(template: str, text: str) -> None:
    assert parse(template).render(DATA) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{",
        "{{.Name",
        "{{end}}",
        "{{if .x}}",
        "{{nosuch .}}",
        "{{}}",
        "{{range}}{{end}}",
        "{{(.a}}",
        "{{$x}}",
        "{{.a %}}",
    ],
)
def test_what_cannot_be_parsed_says_so(template: str) -> None:
    with pytest.raises(TemplateError, match="template parsing error"):
        parse(template).render(DATA)


@pytest.mark.parametrize(
    "template", ["{{index .Labels 9}}", "{{.Name.x}}", "{{range .Name}}{{end}}", "{{len 3}}", "{{.Name 1}}"]
)
def test_what_cannot_be_executed_says_so(template: str) -> None:
    with pytest.raises(TemplateError, match="template: "):
        parse(template).render(DATA)


@given(st.text(alphabet='{}.|()$"`%:=-/* abirange0eldnwthprintfsxj', max_size=40))
def test_any_template_renders_or_is_refused(template: str) -> None:
    try:
        assert isinstance(parse(template).render(DATA), str)
    except TemplateError as error:
        assert "template" in error.brief


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_gives_back_what_it_was_given(value: object) -> None:
    assert json.loads(parse("{{json .}}").render(value)) == value
