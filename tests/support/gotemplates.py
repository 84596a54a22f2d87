"""Templates that Go and pymachine render over the same data: a row of `ls`, its headers, a record."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pymachine.cli import list_item, listing, ls
from pymachine.driver.contract import State
from pymachine.gotemplate import FormatError, parse
from pymachine.gotemplate.types import TextMap
from pymachine.store.record import EngineOptions, Machine, SwarmOptions

SOURCE = Path(__file__).parent / "gotemplate"
FIELDS = (
    *("Name", "Active", "ActiveHost", "ActiveSwarm", "DriverName", "State", "URL", "SwarmOptions", "Swarm"),
    *("EngineOptions", "Error", "DockerVersion", "ResponseTime"),
)
SWARM = ("IsSwarm", "Host", "Heartbeat", "Overcommit", "ArbitraryFlags", "ArbitraryJoinFlags", "Env", "Image", "Nope")
ENGINE = (
    *("ArbitraryFlags", "DNS", "GraphDir", "Env", "Ipv6", "InsecureRegistry", "Labels", "LogLevel", "StorageDriver"),
    *("SelinuxEnabled", "TLSVerify", "RegistryMirror", "InstallURL", "Dns", "TlsVerify"),
)
METHODS = (
    *("Hours", "Minutes", "Seconds", "Milliseconds", "Microseconds", "Nanoseconds"),
    *("String", "Abs", "Round", "Truncate", "Nope"),
)
VERBS = "vdsqxXtTeEfFgGbocUO"
# Go's output for these is an accident of its implementation.
ACCIDENTS = {"{{eq .Driver .Driver}}", "{{len .Driver.Bare}}"}
# With the flag #, `fmt` writes fractions with six more digits.
_NO_SHARP = ("SwarmOptions",)

COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
CONSTANTS = ('"Running"', "1", "0", "1.5", "true", "nil", "'a'", '""', "1250000000")
OF_A_FIELD = (
    *("{{.F}}", "{{.F.Foo}}", "{{.F.String}}", "{{.F 1}}", "{{1 | .F}}", "{{len .F}}", "{{not .F}}", "{{html .F}}"),
    *("{{js .F}}", "{{urlquery .F}}", "{{print .F}}", "{{println .F 1}}", "{{call .F}}", "{{index .F 0}}"),
    *("{{slice .F 1}}", "{{range .F}}{{.}};{{else}}none{{end}}", "{{with .F}}{{.}}{{else}}no{{end}}"),
    *("{{if .F}}y{{else}}n{{end}}", "{{and .F 1}}", "{{or .F 1}}", "{{upper .F}}", '{{.F | printf "%v"}}'),
    *("{{$x := .F}}{{$x}}{{$x.Foo}}", "{{(.F).Foo}}", "{{printf .F}}"),
)
OF_A_METHOD = (
    *("{{.ResponseTime.M}}", "{{.ResponseTime.M 1}}", "{{.ResponseTime.M 1000000000}}", "{{.ResponseTime.M .Name}}"),
    *("{{.ResponseTime.M .ResponseTime}}", "{{.ResponseTime.M nil}}", "{{.ResponseTime.M 1.5}}", "{{.State.M}}"),
    *("{{.ResponseTime.M 1e9}}", "{{1 | .ResponseTime.M}}", "{{.ResponseTime | .ResponseTime.M}}"),
    *('{{printf "%T %v" .ResponseTime.M .ResponseTime.M}}', "{{.ResponseTime.M.String}}", "{{$.ResponseTime.M}}"),
    *("{{with .ResponseTime}}{{.M}}{{end}}", "{{(.ResponseTime).M}}", "{{eq .ResponseTime.M 1.25}}"),
)
OF_SWARM = (
    *("{{.SwarmOptions.F}}", "{{len .SwarmOptions.F}}", "{{eq .SwarmOptions.F 0.05}}", "{{eq .SwarmOptions.F 0}}"),
    *("{{.SwarmOptions.F.X}}", "{{range .SwarmOptions.F}}{{.}}{{.Y}}{{end}}", "{{with .SwarmOptions}}{{.F}}{{end}}"),
    *("{{index .SwarmOptions.F 0}}", '{{printf "%v %T %#v %q" .SwarmOptions.F .SwarmOptions.F .SwarmOptions.F 1}}'),
)
OF_ENGINE = (
    *("{{.EngineOptions.F}}", '{{join .EngineOptions.F ","}}'),
    '{{printf "%v %T %#v" .EngineOptions.F .EngineOptions.F .EngineOptions.F}}',
    "{{range $i, $e := .EngineOptions.F}}{{$i}}{{$e}}{{$e.X}}{{end}}",
)
# Templates as found in scripts, and common mistakes.
SCRIPTS = (
    *("{{.}}", "{{.Foo}}", "{{ .Foo }}", "a\nb{{.Foo}}", "ü{{.Foo}}", "{{$.Foo}}", "{{$.Name}}", "{{.foo}}"),
    *(
        "{{if eq .State 1}}run{{end}}",
        '{{if eq .State "Running"}}x{{end}}',
        '{{if eq .State.String "Running"}}x{{end}}',
    ),
    *('{{printf "%d" .State}}', '{{printf "%s" .State}}', '{{printf "%d %s" .ResponseTime .ResponseTime}}'),
    *('{{printf "%.1f" .ResponseTime.Seconds}}', '{{printf "%d" .ResponseTime.Nanoseconds}}'),
    *('{{printf "%5.1f|%-8v|%8v" .ResponseTime.Seconds .State .State}}', "{{lt .ResponseTime.Seconds 2.0}}"),
    *("{{gt .ResponseTime 1000}}", '{{eq (printf "%d" .State) "1"}}', "{{ne .State 1 | not}}"),
    *("{{.State.String | upper}}", "{{.State | upper}}", "{{.Name | upper | lower}}", "{{print .State .ResponseTime}}"),
    *("{{with .EngineOptions}}{{.Labels}} {{$.State}}{{end}}", "{{with $x := .State}}{{$x}}{{$.Foo}}{{end}}"),
    *('{{define "T"}}{{.Foo}}{{end}}{{template "T" .}}', '{{define "T"}}{{.Foo}}{{end}}{{template "T" .State}}'),
    *('{{template "no"}}', '{{template "no" .Name}}', '{{block "b" .State}}{{.}}{{.Foo}}{{end}}'),
    *("{{if true}}{{.Foo}}{{end}}", "{{range .EngineOptions.Labels}}{{.}}{{end}}{{.Foo}}", "{{- .Foo -}}"),
    *("x {{- .Foo}}", "{{/* c */}}{{.Foo}}", '{{printf "%v" .Foo}}', "{{if .Foo}}{{end}}", "{{.Nope.Deeper}}"),
    *("{{.Name.Foo.Bar}}", "{{.State.String.Foo}}", "{{(.State.String).Foo}}", "{{.EngineOptions.Labels.Foo}}"),
    *(
        "{{(index .EngineOptions.Labels 0).Foo}}",
        "{{index .EngineOptions 0}}",
        "{{index .Name 0}}",
        "{{index .Name 5}}",
    ),
    *("{{index .Name 9}}", "{{index .Name 0 0}}", '{{index . "Name"}}', '{{. | index "a"}}'),
)
FUNCTIONS = (
    *("{{eq}}", "{{eq 1}}", "{{eq 1 1.0}}", "{{eq 1 2 1}}", "{{eq 1 nil}}", "{{eq nil nil}}", "{{lt 1 1.0}}"),
    *("{{lt true false}}", "{{lt nil 1}}", "{{and}}", "{{or}}", "{{not}}", "{{not 1 2}}", "{{len}}", "{{len 1}}"),
    *("{{len nil}}", "{{len 1 2}}", "{{index nil 0}}", "{{call}}", "{{call nil}}", "{{call 1}}", "{{printf}}"),
    *("{{printf 1}}", "{{printf nil}}", "{{printf true}}", "{{upper 1}}", "{{upper nil}}", "{{upper}}"),
    *("{{upper .Name .Name}}", "{{println}}", "{{print nil}}", "{{html nil}}", '{{html "<a>" 1 2}}'),
    *("{{and .Name (index .EngineOptions.Labels 9)}}", "{{or .Name (index .EngineOptions.Labels 9)}}"),
    *(
        "{{.Name | and 1}}",
        "{{.Name | or 1}}",
        "{{.State.String 1}}",
        "{{1 | .State.String}}",
        "{{call .State.String}}",
    ),
    *('{{urlquery "a b&c"}}', '{{js "it\'s <b>"}}', '{{"a" 1}}', "{{1 2}}", "{{true 1}}", "{{. 1}}", "{{(1) 2}}"),
    *("{{$x := 1}}{{$x 2}}", '{{1 | "a"}}', "{{1 | .}}", "{{nil}}", "{{nil | print}}", "{{.ResponseTime.Round 1s}}"),
    *("{{range nil}}x{{end}}", "{{range 3}}x{{end}}", "{{range .State}}x{{end}}", "{{if nil}}x{{end}}"),
)
FORMATS = (
    *('{{printf "%[2]v %[1]v" .Name .State}}', '{{printf "%[3]v" .Name}}', '{{printf "%!" 1}}', '{{printf "%v"}}'),
    *('{{printf "%*d" 5 .State}}', '{{printf "%-*d|" 5 .State}}', '{{printf "%.*f" 2 .SwarmOptions.Overcommit}}'),
    *('{{printf "%v" 1 2}}', '{{printf "%v %v" .EngineOptions .SwarmOptions}}', '{{printf "%+v" .EngineOptions}}'),
    *(
        '{{printf "%#v" .EngineOptions}}',
        '{{printf "%s" .EngineOptions}}',
        '{{printf "%T %T %T" . .EngineOptions .State}}',
    ),
    *('{{printf "%+d|% d|%x|%X|%o|%b|%c|%U" 65 65 65 65 65 65 65 65}}', '{{printf "%d" 1.0}}', '{{printf "%+v" 5}}'),
)
RECORD = (
    *("{{.Driver.CPU}}", "{{.Driver.Bare}}", "{{.Driver.Bare.X}}", "{{.Driver.Nope.X}}", "{{.Driver.CPU.X}}"),
    *("{{.Labels.X}}", "{{range .Labels}}{{.X}}{{end}}", "{{range $k,$v := .Driver}}{{$k}}={{$v}};{{end}}"),
    *(
        "{{range .Driver}}{{.X}}{{end}}",
        "{{(index .Labels 0).X}}",
        '{{index .Driver "Bare"}}',
        '{{index .Driver "Nope"}}',
    ),
    *("{{index .Driver 1}}", "{{index .Driver nil}}", '{{index .Driver "Bare" 1}}', "{{index .Labels 2}}"),
    *("{{index .Labels 5}}", "{{eq .Driver.Bare nil}}", "{{eq .Labels .Labels}}", "{{eq .Driver.Half 0.5}}"),
    *("{{eq .Driver.On true}}", "{{eq .Driver.Nope nil}}", "{{eq .Driver.Nope 1}}", "{{.Driver 1}}"),
    *("{{1 | .Driver.CPU}}", "{{call .Driver}}", "{{call .Driver.Bare}}", "{{call .Driver.Nope}}", "{{call .Name}}"),
    *("{{html .Driver.Text}}", "{{js .Driver.Text}}", "{{html .Labels}}", "{{html .Driver.Nope}}"),
    *("{{html .Driver.Bare}}", "{{print .Driver.Bare .Driver.Nope}}", '{{printf "%v %s %d" .Driver.Bare .Name .Name}}'),
    *('{{printf "%T %T %T %T" . .Labels .Driver.Half .Driver.Bare}}', '{{printf "%#v" .Labels}}', "{{len .Nothing}}"),
    *("{{len .Driver.On}}", "{{upper .Driver.CPU}}", "{{upper .Driver.Bare}}", "{{upper .Driver.Nope}}"),
    *("{{upper .Driver.Text}}", "{{slice .Labels 1}}", "{{slice .Driver 1}}", "{{slice .Driver.Bare 1}}"),
    *("{{with .Driver.Bare}}x{{else}}y{{end}}", "{{$x := .Driver.Nope}}{{$x}}", "{{json .Driver}}", "{{.Name.Foo}}"),
    *("{{$x := .Name}}{{$x.Foo}}", "{{(.Name).Foo}}", "{{with .Name}}{{.Foo}}{{end}}", "{{lt .Driver.Half .Name}}"),
)
# The templates that a unit test compares with recorded output of Go.
CHOSEN = (*SCRIPTS, *FUNCTIONS, *FORMATS, *RECORD)


class Rendering(NamedTuple):
    """A template and the name of the data to render it with."""

    template: str
    data: str


class Answer(NamedTuple):
    """The text written up to an error, and the error."""

    text: str
    error: str


def chosen() -> list[Rendering]:
    """Return the likely templates, over each kind of data."""
    return [Rendering(template, name) for template in CHOSEN for name in data()]


def everything() -> list[Rendering]:
    """Return all templates: also each function, verb and comparison with each field."""
    templates = dict.fromkeys(template for template in _all() if template not in ACCIDENTS)
    return [Rendering(template, name) for template in templates for name in data()]


def _all() -> Iterator[str]:
    yield from CHOSEN
    for name in FIELDS:
        yield from (re.sub(r"\.F\b", f".{name}", template) for template in OF_A_FIELD)
        for verb in VERBS if name not in {"SwarmOptions", "EngineOptions"} else "vsdT":
            forms = [f"%{flags}{verb}" for flags in ("", "10", "-8", "05", "+", ".2")]
            forms += [f"%#{verb}"] if name not in _NO_SHARP else []
            yield from ("{{printf `" + form + "|` ." + name + "}}" for form in forms)
        for comparison in COMPARISONS:
            yield from (f"{{{{{comparison} .{name} .{other}}}}}" for other in FIELDS)
            yield from (f"{{{{{comparison} .{name} {constant}}}}}" for constant in CONSTANTS)
    yield from (template.replace(".M", f".{name}") for name in METHODS for template in OF_A_METHOD)
    yield from (re.sub(r"\.F\b", f".{name}", template) for name in SWARM for template in OF_SWARM)
    yield from (re.sub(r"\.F\b", f".{name}", template) for name in ENGINE for template in OF_ENGINE)
    places = ("0", "1", "2", "3", "-1", "1.0", "nil", "true", '"a"', ".State", ".ResponseTime", ".Name")
    yield from (f"{{{{index .EngineOptions.Labels {place}}}}}" for place in places)
    bounds = ("0", "1 2", "2 1", "2", "3", "5", "6", "0 6", "0 1 2", "0 1 1", "0 1 2 3", "nil", "-1", ".State")
    yield from (f"{{{{slice .{name} {place}}}}}" for place in bounds for name in ("Name", "EngineOptions.Labels"))


def data() -> dict[str, Any]:
    """Return the data that the Go program has under the same names."""
    machine = Machine(name="intro", driver_name="qemu", driver={})
    machine.swarm = SwarmOptions(overcommit=0.05, arbitrary_join_flags=["x"])
    machine.engine = EngineOptions(labels=["a=b", "c=d"], install_url="https://get.docker.com")
    row = listing.Row("intro", driver="qemu", state=State.RUNNING, url="tcp://127.0.0.1:2376", docker="v26.1.5")
    row.active, row.response_seconds, row.machine = True, 1.25, machine
    broken = listing.Row("bad", driver="not found", state=State.ERROR, error="no")
    half = {"CPU": 2, "Half": 0.5, "Bare": None, "On": True, "Text": "a<b>&\"c'"}
    return {
        "row": list_item.item(row, ls.fields(row)),
        "broken": list_item.item(broken, {**ls.fields(broken), "Active": ""}, lenient=False),
        "headers": TextMap(Name="NAME", State="STATE", ResponseTime="RESPONSE"),
        "record": {"Name": "intro", "Driver": half, "Labels": ["a=b", "c=d"], "Nothing": {}, "Empty": []},
    }


def render_with_pymachine(rendering: Rendering, known: dict[str, Any]) -> Answer:
    """Render a template with pymachine."""
    try:
        return Answer(parse(rendering.template).render(known[rendering.data]), "")
    except FormatError as error:
        return Answer(error.partial, error.brief.removeprefix("template parsing error: "))


def render_with_go(program: Path, renderings: list[Rendering]) -> list[Answer]:
    """Render templates with Go; `program` is built from the folder `gotemplate`."""
    lines = "\n".join(json.dumps({"Template": one.template, "Data": one.data}) for one in renderings)
    output = subprocess.run([program], input=lines, capture_output=True, text=True, check=True, timeout=300).stdout
    return [Answer(line["Text"], line["Error"]) for line in map(json.loads, output.splitlines())]


def comparable(answer: Answer) -> bool:
    """Return whether Go gives the same answer each time: an answer with a memory address changes."""
    return "0xc0" not in answer.text + answer.error


def same_in_all_versions(rendering: Rendering, gos: Answer, pymachines: Answer) -> bool:
    """Return whether every version of Go prints the same.

    Newer versions word errors differently, and Go 1.23 no longer pads texts with zeros.
    """
    return not gos.error and not pymachines.error and "%05" not in rendering.template
