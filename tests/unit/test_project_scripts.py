"""Provision scripts of a project, over real SSH to a server that runs commands in a shell."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.driver.contract import Endpoint, State
from pymachine.hosts import provision_scripts
from pymachine.hosts.host import Host
from pymachine.hosts.provision_scripts import ProvisionScriptError, Script
from pymachine.ssh import keys
from pymachine.store.store import Store
from pymachine.system import run as system_run
from support import cli_calls, projects as fakes, sshd
from support.cli_calls import Call
from support.projects import Sized
from support.sharing import share


@pytest.fixture(params=["openssh", "paramiko"])
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[sshd.Server]:
    (tmp_path / "ssh").mkdir()
    with sshd.running(tmp_path / "ssh") as made:
        monkeypatch.setattr(Host, "login", lambda host: made.target())
        if request.param == "paramiko":
            real = system_run.which
            monkeypatch.setattr(system_run, "which", lambda name: None if name == "ssh" else real(name))
        yield made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: sshd.Server) -> Path:
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    monkeypatch.setattr(Sized, "ssh", Endpoint("127.0.0.1", ssh_port=server.port))
    if os.getuid() != 0:  # the server runs commands as this user
        monkeypatch.setattr(provision_scripts, "ROOT_SHELL", "sh -s")
    return fakes.enter_folder(tmp_path, monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def call(folder: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    return cli_calls.any_code(capfd)


def write(folder: Path, **scripts: str) -> None:
    names = [f"{name}.sh" for name in scripts]
    (folder / "pymachine.toml").write_text(f"[machine]\nprovision = {json.dumps(names)}\n")
    for name, text in scripts.items():
        (folder / f"{name}.sh").write_text(text)


def ran(folder: Path) -> list[str]:
    """Return the lines that the scripts have written since the last call."""
    path = folder.parent / "out"
    lines = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_each_script_runs_once_and_again_when_it_changes(call: Call, folder: Path, store: Store) -> None:
    write(folder, one='echo one >> "$OUT"\necho "hello from one"\n', two='#!/bin/sh\necho two >> "$OUT"; echo oops >&2')
    code, out, err = call("up")
    assert (code, err) == (0, "")
    assert ran(folder) == ["one", "two"]
    lines = out.splitlines()
    at = lines.index(f'Running {folder}/one.sh in "shop"...')
    assert lines[at : at + 4] == [lines[at], "hello from one", f'Running {folder}/two.sh in "shop"...', "oops"]
    project = store.load("shop").project
    assert project is not None
    digests = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("one.sh", "two.sh")]
    assert project.provisioned == digests

    code, out, _ = call("up")
    assert (code, ran(folder)) == (0, [])
    assert "Running" not in out
    assert call("down")[0] == call("up")[0] == 0
    assert ran(folder) == []

    first = (folder / "one.sh").read_text()
    write(folder, one='echo changed >> "$OUT"\n', two='#!/bin/sh\necho two >> "$OUT"; echo oops >&2')
    assert call("up")[0] == 0
    assert ran(folder) == ["changed"]
    (folder / "one.sh").write_text(first)
    assert call("up")[0] == 0
    assert ran(folder) == ["one"]
    (folder / "one.sh").write_text('echo changed >> "$OUT"\n')
    assert call("up", "--provision")[0] == 0
    assert ran(folder) == ["changed", "two"]
    assert call("down", "--remove")[0] == call("up")[0] == 0
    assert ran(folder) == ["changed", "two"]


def test_a_script_that_fails_leaves_the_machine_for_the_next_up(call: Call, folder: Path, store: Store) -> None:
    write(folder, one='echo one >> "$OUT"', two='echo two >> "$OUT"; echo why; exit 3', three='echo three >> "$OUT"')
    code, out, err = call("up")
    assert code == 1
    assert "why\n" in out
    assert f'{folder}/two.sh failed in "shop" with exit code 3\n' in err
    assert ran(folder) == ["one", "two"]
    assert Sized.world["shop"] is State.RUNNING
    write(folder, one='echo one >> "$OUT"', two='echo fixed >> "$OUT"', three='echo three >> "$OUT"')
    assert call("up")[0] == 0
    assert ran(folder) == ["fixed", "three"]


@pytest.mark.parametrize("code", [1, 77, 126, 255])
def test_every_exit_code_is_the_scripts(call: Call, folder: Path, code: int) -> None:
    write(folder, one=f"exit {code}")
    ended, _, err = call("up")
    assert ended == 1
    assert f"with exit code {code}" in err


def test_a_script_runs_with_its_own_interpreter_without_input_and_in_its_shared_folder(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("not for the script\n"))
    text = (
        f"#!{sys.executable}\nimport os, sys\n"
        "print(os.getcwd(), repr(sys.stdin.read()), '$HOME `x` \\\\ PYMACHINE_END_OF_FILE')\n"
    )
    write(folder, one=text)
    code, out, _ = call("up")
    assert code == 0
    assert f"{folder} '' $HOME `x` \\ PYMACHINE_END_OF_FILE\n" in out
    assert list(folder.parent.glob("tmp*")) == []


@pytest.mark.parametrize(
    ("first", "command"),
    [
        ("echo", "sh"),
        ("#!", "sh"),
        ("# !/bin/bash", "sh"),
        ("#! /bin/bash", "/bin/bash"),
        ("#!/bin/sh -e \t", "/bin/sh -e"),
        ("#!/usr/bin/env -S perl -w", "/usr/bin/env '-S perl -w'"),
        ("#!/bin/$(reboot);x", "'/bin/$(reboot);x'"),
    ],
)
def test_the_interpreter_is_that_of_the_first_line(first: str, command: str) -> None:
    assert provision_scripts._interpreter(Script(Path("x"), f"{first}\n#!/bin/other")) == command


def test_output_with_json_is_on_stderr(call: Call, folder: Path) -> None:
    write(folder, one="echo hello")
    code, out, err = call("up", "--json")
    assert code == 0
    assert [row["Name"] for row in json.loads(out)] == ["shop"]
    assert "hello\n" in err


def test_output_cannot_control_the_terminal(call: Call, folder: Path) -> None:
    write(folder, one=r"printf 'a\033[31mb\tc\r\nd\342\200\256e\377\n'")
    code, out, _ = call("up")
    assert code == 0
    assert "a\\x1b[31mb\tc\\r\n" in out or "a\\x1b[31mb\tc\n" in out
    assert "d\\u202ee" in out
    assert "\x1b" not in out


def test_run_runs_the_scripts_before_the_command(call: Call, folder: Path, store: Store) -> None:
    write(folder, one='echo one >> "$OUT"; echo hello')
    code, out, err = call("run", "--", "sh", "-c", 'echo command >> "$OUT"; echo result')
    assert (code, out) == (0, "result\n")
    assert "hello\n" in err
    assert ran(folder) == ["one", "command"]
    write(folder, one="exit 1")
    assert call("run", "--", "touch", str(folder / "made"))[0] == 1
    assert not (folder / "made").exists()
    assert store.names() == []


def test_a_failed_login_is_an_error_and_nothing_is_noted(
    call: Call, folder: Path, server: sshd.Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, one="true")
    keys.make(folder.parent / "other", comment="other")
    with monkeypatch.context() as patch:
        patch.setattr(Host, "login", lambda host: server.target(key=folder.parent / "other"))
        code, _, err = call("up")
    assert code == 1
    assert "does not let the user" in err
    project = store.load("shop").project
    assert project is not None
    assert project.provisioned == []
    assert call("up")[0] == 0
    assert len(store.load("shop").project.provisioned) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff", "is not UTF-8 text"),
        (b"a\0b", "contains a zero byte"),
        (b"#" * ((1 << 20) + 1), "Larger than 1048576"),
    ],
)
def test_a_file_that_is_no_script_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "script").write_bytes(data)
    with pytest.raises(ProvisionScriptError, match=says):
        provision_scripts.read(tmp_path / "script")


def test_a_script_must_stay_in_its_folder_behind_links(tmp_path: Path) -> None:
    inner = tmp_path / "shop" / "tools"
    inner.mkdir(parents=True)
    (inner / "own.sh").write_text("own")
    (tmp_path / "secret").write_text("secret")
    shop = tmp_path / "shop"
    (shop / "link").symlink_to("tools")
    (shop / "file").symlink_to(inner / "own.sh")
    (shop / "out").symlink_to("..")
    for name in ("tools/own.sh", "link/own.sh", "file"):
        assert provision_scripts.read(shop / name, within=shop).text == "own"
    for name in ("out/secret", "../secret", "/etc/passwd", "tools", "tools/own.sh/x"):
        with pytest.raises(ProvisionScriptError, match="cannot read the provision script"):
            provision_scripts.read(shop / name, within=shop)
    assert provision_scripts.read(shop / "out" / "secret").text == "secret"


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "script")
    with pytest.raises(ProvisionScriptError, match="Not a regular file"):
        provision_scripts.read(tmp_path / "script")


def test_the_folder_of_a_script_in_the_guest(tmp_path: Path) -> None:
    shares = [share("/work", "/code"), share("/work/deep", "/other")]
    found = [provision_scripts._guest_folder(Path(path), shares) for path in ("/work", "/work/deep/er", "/elsewhere")]
    assert found == ["/code", "/other/er", "/"]
    assert Script(Path("x"), "text").digest == hashlib.sha256(b"text").hexdigest()
