"""Options of the commands for templates, and which source of a template's name wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.shell_completion import ShellComplete
from test_named_templates import Freezing, call, change_manifest, hosts, web

from pymachine.cli import app, create as create_module, run as run_module
from pymachine.errors import PymachineError
from pymachine.hosts import build_named_template, create_from_template, templates
from pymachine.hosts.build_named_template import Steps
from pymachine.hosts.create import CreateRequest
from pymachine.hosts.freeze import freeze
from pymachine.hosts.host import Hosts
from pymachine.hosts.templates import NamedTemplate
from support.cli_calls import Call

__all__ = ["call", "hosts", "web"]


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[CreateRequest]:
    """The requests of `create` and `run`, which create nothing."""
    found: list[CreateRequest] = []

    def record(hosts: Hosts, request: CreateRequest) -> None:
        found.append(request)
        raise PymachineError("recorded")

    for name in ("PYMACHINE_TEMPLATE", "PYMACHINE_NO_TEMPLATE", "PYMACHINE_FILE"):
        monkeypatch.delenv(name, raising=False)
    for module in (create_module, run_module):
        monkeypatch.setattr(module, "create", record)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder."""
    found = tmp_path / "project"
    found.mkdir()
    monkeypatch.chdir(found)
    monkeypatch.setenv("PWD", str(found))
    return found


# -- `--template` and `--no-template` ------------------------------------------------------------------------------

WEB = ("web", True)
NONE = ("", False)
SHAPE = ("", True)
"""The template for the machine's shape, which is the default."""


@pytest.mark.parametrize(
    ("words", "variables", "line", "expected"),
    [
        (["--no-template"], {"PYMACHINE_TEMPLATE": "web"}, "", NONE),
        (["--no-template"], {}, 'template = "web"', NONE),
        (["--template", "web"], {"PYMACHINE_NO_TEMPLATE": "true"}, "", WEB),
        (["--template", "web"], {}, "template = false", WEB),
        ([], {"PYMACHINE_NO_TEMPLATE": "true"}, 'template = "web"', NONE),
        ([], {"PYMACHINE_TEMPLATE": "web"}, "template = false", WEB),
        ([], {"PYMACHINE_TEMPLATE": "web"}, "template = true", WEB),
        (["--no-template=false"], {"PYMACHINE_TEMPLATE": "web"}, "", WEB),
        (["--no-template=false"], {"PYMACHINE_NO_TEMPLATE": "true"}, 'template = "web"', WEB),
        (["--no-template", "--template="], {"PYMACHINE_TEMPLATE": "web"}, "", NONE),
        ([], {}, 'template = "web"', WEB),
        ([], {}, "template = false", NONE),
        ([], {}, "", SHAPE),
    ],
)
def test_the_nearer_source_of_the_template_wins(
    call: Call,
    folder: Path,
    requests: list[CreateRequest],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    variables: dict[str, str],
    line: str,
    expected: tuple[str, bool],
) -> None:
    (folder / "pymachine.toml").write_text(f"[machine]\n{line}\n")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert "recorded" in call("run", "--no-share", "--trust", *words, "true")[2]
    if not line:
        assert "recorded" in call("create", "--no-share", *words, "one")[2]
    assert [(request.named_template, request.template) for request in requests] == [expected] * len(requests)
    assert requests
    for request in requests:
        origin = request.origins.get("no-template")
        assert bool(origin and origin.value) is not request.template


@pytest.mark.parametrize(
    ("words", "variables", "problem"),
    [
        (["--template", "web", "--no-template"], {}, "--template and --no-template exclude each other"),
        (
            [],
            {"PYMACHINE_TEMPLATE": "web", "PYMACHINE_NO_TEMPLATE": "1"},
            "PYMACHINE_TEMPLATE and PYMACHINE_NO_TEMPLATE exclude each other",
        ),
    ],
)
def test_one_source_cannot_have_both(
    call: Call,
    requests: list[CreateRequest],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    variables: dict[str, str],
    problem: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, _, err = call("create", *words, "one")
    assert (code, err.splitlines()[0]) == (1, problem)
    assert requests == []


def test_a_template_of_the_file_that_is_not_used_needs_no_trust(
    call: Call, folder: Path, requests: list[CreateRequest]
) -> None:
    (folder / "pymachine.toml").write_text('[machine]\ntemplate = "web"\n')
    assert "use what is in the template web" in call("run", "--no-share", "true")[2]
    assert "recorded" in call("run", "--no-share", "--no-template", "true")[2]


# -- build ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--engine-label", "a=b"],
        ["--engine-opt", "a=b"],
        ["--tls-san", "name"],
        ["--template", "web"],
        ["--no-template"],
        ["--socket"],
        ["--ipv6"],
        ["--ca-cert", "missing.pem"],
        ["--no-host-proxy"],
        ["--container-proxy"],
        ["--load", "missing.tar"],
        ["--exec", "true"],
    ],
)
def test_without_a_name_only_options_of_the_driver_apply(call: Call, hosts: Hosts, words: list[str]) -> None:
    code, _, err = call("template", "build", *words)
    assert (code, err.splitlines()[0]) == (1, f"{words[0]} is for templates with a name")
    assert templates.find_all(hosts.store.root) == []


def test_without_a_name_variables_for_create_are_ignored(
    call: Call, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYMACHINE_TEMPLATE", "web")
    monkeypatch.setenv("ENGINE_REGISTRY_MIRROR", "https://mirror.example")
    assert call("template", "build", "--driver", "remembering", "--json")[0] == 0
    assert len(templates.find_all(hosts.store.root)) == 1


@pytest.mark.parametrize("words", [[], ["web"]])
def test_a_template_has_no_time_to_live(call: Call, hosts: Hosts, words: list[str]) -> None:
    code, _, err = call("template", "build", "--ttl", "1s", *words)
    assert (code, err.splitlines()[0]) == (1, "--ttl is for machines, not for templates")
    assert Freezing.done == []


def test_the_machine_of_a_template_can_be_booted(call: Call, folder: Path) -> None:
    code, _, err = call("template", "build", "--no-template", "web")
    assert (code, err) == (0, "")
    assert Freezing.done == ["cold", "freeze a copy", "remove"]


# -- the other commands --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100])
def test_the_list_of_subcommands_has_whole_sentences(call: Call, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    commands = call("template", "--help")[1].partition("Commands:\n")[2].splitlines()
    assert len(commands) == 7
    assert [line for line in commands if line.endswith("...")] == []


def test_prune_says_which_templates_it_removes(call: Call, web: NamedTemplate) -> None:
    assert "Remove all that have no name" in call("template", "prune", "--help")[1]
    assert "web" not in call("template", "prune", "--all")[1]
    assert [template.name for template in templates.find_all(web.directory.parents[2])] == ["web"]


@pytest.mark.parametrize("command", ["rm", "show", "verify"])
def test_names_are_completed(hosts: Hosts, web: NamedTemplate, command: str) -> None:
    root: dict[str, Any] = {"obj": None, "default_map": {}}
    complete = ShellComplete(app.group, root, "pymachine", "_PYMACHINE_COMPLETE")
    words = ["--storage-path", str(hosts.store.root), "template", command]
    assert [item.value for item in complete.get_completions(words, "we")] == ["web"]


def test_verify_reports_every_damaged_template(call: Call, hosts: Hosts, web: NamedTemplate) -> None:
    others = [freeze(hosts, "dev", name) for name in ("app", "db")]
    for template in (web, others[0]):
        (template.directory / "memory").write_bytes(b"n" * 4096)
    code, out, err = call("template", "verify", "app", "db", "web")
    assert (code, out) == (1, "db: intact\n")
    assert err.splitlines()[:2] == [
        f"the template {name} is damaged: memory has another content" for name in ("app", "web")
    ]
    code, out, err = call("template", "verify", "--json", "app", "web")
    assert code == 1
    assert out.count('"Problem": "memory has another content"') == 2
    assert "the template app is damaged" in err
    assert "the template web is damaged" in err


def built(hosts: Hosts, folder: Path, base: str = "", **steps: Any) -> NamedTemplate:
    request = CreateRequest(name="template", driver_name="remembering", options={}, named_template=base)
    return build_named_template.build(hosts, "app", request, Steps(folder=folder, **steps), create_from_template.create)


def test_show_prints_the_recipe(
    call: Call, hosts: Hosts, web: NamedTemplate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_named_template, "_prepare", lambda hosts, machine, steps: None)
    archive = tmp_path / "images.tar"
    archive.touch()
    built(hosts, tmp_path, "web", pull=["a:1", "b:2"], load=[archive], execute=["true", "echo a\necho \x1b[2J\n"])
    lines = call("template", "show", "app")[1].splitlines()
    start = lines.index("Made from: template web")
    assert lines[start + 1 : start + 8] == [
        "Pull: a:1",
        "Pull: b:2",
        f"Load: {archive}",
        "Exec: true",
        "Exec: echo a",
        "  echo \\x1b[2J",
        f"Folder: {tmp_path}",
    ]
    assert lines[start + 8].startswith("Image: ")


def test_show_prints_what_it_can_of_a_recipe(call: Call, hosts: Hosts, tmp_path: Path) -> None:
    template = built(hosts, tmp_path)
    assert "Made from: a new machine\n" in call("template", "show", "app")[1]
    change_manifest(template, **{"from": {"recipe": {"pull": 1}}})
    code, out, _ = call("template", "show", "app")
    assert code == 0
    assert "Made from: a recipe that cannot be read\n" in out
