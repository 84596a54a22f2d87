"""The --json output of every command, validated against the documented schema."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from pymachine.cli import app, main as main_module
from pymachine.store.store import Store
from support import fake_engine

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
SCHEMA = json.loads((REFERENCE / "json-schema.json").read_text())
Call = Callable[..., tuple[int, Any, str]]
# Their output is not for programs, or comes from another program.
WITHOUT_JSON = {"completion", "help", "mount", "run", "scp", "ssh"}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    root = tmp_path / "store"
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(root))
    monkeypatch.setattr(main_module.signals, "exit_on_termination", lambda: None)
    for name in ("MACHINE_DEBUG", "DOCKER_HOST", "PYMACHINE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with fake_engine.machine(root) as port:
        monkeypatch.setenv("PORT", str(port))
        fake_engine.record(Store(root), "dead", 1)

        def run(*words: str) -> tuple[int, Any, str]:
            monkeypatch.setattr(sys, "stdin", io.StringIO(""))
            code = main_module.main(["pymachine", *words, "--json"])
            out, err = capsys.readouterr()
            return code, json.loads(out) if out else None, err

        yield run


def check_schema(command: str, value: Any) -> None:
    jsonschema.validate(value, {**SCHEMA["properties"][command], "$defs": SCHEMA["$defs"]})


@pytest.mark.parametrize(
    "words",
    [
        "config intro",
        "doctor --driver none",
        "env intro",
        "env -u",
        "env --no-proxy intro",
        "inspect intro",
        "inspect -f {{.Name}} intro",
        "ip intro dead",
        "ls",
        "prune",
        "rename dead undead",
        "rm -y dead",
        "ssh-config",
        "status intro",
        "url intro",
        "version",
        "version intro",
    ],
)
def test_output_matches_the_schema(call: Call, words: str) -> None:
    code, value, err = call(*words.split())
    assert (code, err.count("{")) == (0, 0)
    check_schema(words.partition(" ")[0], value)


@pytest.mark.parametrize(
    "words", ["image ls", "image verify", "template ls", "template prune", "snapshot ls intro", "context ls"]
)
def test_subcommands_print_an_empty_list(call: Call, words: str) -> None:
    code, value, err = call(*words.split())
    assert (code, value, err) == (0, [], "")
    check_schema(" ".join(words.split()[:2]), value)


def test_a_registry_cache_that_was_never_started_matches_the_schema(call: Call) -> None:
    for words, expected in (("cache status", 1), ("cache stop", 0), ("cache prune", 0)):
        code, value, _ = call(*words.split())
        assert code == expected
        check_schema(words, value)


@pytest.mark.parametrize("words", ["kill intro", "stop intro", "start intro", "restart intro", "kill intro dead"])
def test_failed_actions_still_print_the_state_of_each_machine(call: Call, words: str) -> None:
    code, value, err = call(*words.split())
    assert code == 1
    check_schema(words.partition(" ")[0], value)
    assert [row["Name"] for row in value] == words.split()[1:]
    check_schema("error", json.loads(err.splitlines()[-1]))


@pytest.mark.parametrize("words", ["regenerate-certs -f dead", "modify --engine-label a=b dead"])
def test_an_unsupported_action_has_the_error_code_unsupported(call: Call, words: str) -> None:
    code, value, err = call(*words.split())
    check_schema(words.partition(" ")[0], value)
    assert code == 1
    assert json.loads(err.splitlines()[-1])["error"]["code"] == "unsupported"


def test_create_and_rm_match_the_schema(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    code, value, err = call("create", "-d", "none", "--url", "tcp://127.0.0.1:1", "made")
    assert code == 0
    check_schema("create", value)
    assert "Running pre-create checks..." in err
    code, value, err = call("rm", "-y", "made", "nosuch")
    check_schema("rm", value)
    assert (code, [row["Removed"] for row in value]) == (1, [True, False])
    assert "About to remove made, nosuch" in err


def test_active_matches_the_schema(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{os.environ['PORT']}")
    code, value, _ = call("active")
    assert code == 0
    check_schema("active", value)


@pytest.mark.parametrize(
    ("words", "code"),
    [("status nosuch", "machine-not-found"), ("ls --bogus", "flag"), ("bogus", "unknown-command"), ("url", "failed")],
)
def test_errors_match_the_schema_and_have_a_code(call: Call, words: str, code: str) -> None:
    outcome = call(*words.split())
    assert outcome[:2] == (1, None)
    error = json.loads(outcome[2])
    check_schema("error", error)
    assert error["error"]["code"] == code


def test_every_command_has_a_schema_and_is_documented() -> None:
    context = click.Context(app.group)
    text = (REFERENCE / "json.md").read_text()
    for name in app.COMMANDS:
        command = app.group.get_command(context, name)
        assert command is not None
        subcommands = command.commands if isinstance(command, click.Group) else {"": command}
        for sub, each in subcommands.items():
            full = f"{name} {sub}".strip()
            takes = any("--json" in param.opts for param in each.params)
            assert takes == (name not in WITHOUT_JSON), full
            if takes:
                assert full in SCHEMA["properties"], full
                assert f"`{full}`" in text, full
