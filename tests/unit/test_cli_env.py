"""`env`: its fast path compared with the full one, against a stand-in engine with mutual TLS; and its imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.__main__ import _directory, as_called, quick_env
from pymachine.store import paths
from pymachine.store.store import Store
from support import fake_engine

# What one run of the short path may import, beyond what a bare interpreter does. Each costs every prompt some time.
ALLOWED = """
    __future__ _abc _bisect _collections _collections_abc _functools _heapq _json _locale _operator _socket
    _sre _ssl _struct _typing _warnings _weakrefset array base64 binascii collections collections.abc
    contextlib copyreg encodings.idna enum errno functools heapq io itertools json json.decoder json.encoder
    json.scanner keyword math operator pymachine pymachine.__main__ pymachine.errors pymachine.cli.shells
    pymachine.system.limits pymachine.system.streams pymachine.cli pymachine.system pymachine.system.wait pymachine.tls
    pymachine.tls.handshake pymachine.docker pymachine.docker.variables
    re re._casefix re._compiler re._constants re._parser reprlib
    select selectors socket ssl stringprep struct time types typing typing.io typing.re unicodedata warnings
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("SHELL", "/bin/bash")
    monkeypatch.delenv("MACHINE_DEBUG", raising=False)
    with fake_engine.machine(tmp_path / "store"):
        yield tmp_path / "store"


def run(*words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("pymachine")
    return subprocess.run(
        [program, *words], env={**os.environ, **environ}, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    "words",
    [
        ["env", "intro"],
        ["env", "--shell", "fish", "intro"],
        ["env", "intro", "--shell=tcsh"],
        ["env", "-no-proxy", "intro"],
        ["--bugsnag-api-token=x", "env", "intro"],
    ],
)
def test_the_fast_path_and_the_full_path_print_the_same(store: Path, words: list[str]) -> None:
    short = quick_env(["pymachine", *words])
    assert short is not None
    full = run(*words, MACHINE_DEBUG="0")
    assert full.returncode == 0, full.stderr
    assert full.stdout.splitlines()[:-1] == short.splitlines()[:-1]  # but for the program's name in the hint
    assert f"DOCKER_CERT_PATH{'='[: 'fish' not in words and '--shell=tcsh' not in words]}" in short
    assert str(store / "machines" / "intro") in short


@pytest.mark.parametrize(
    "words",
    [
        ["env", "-u"],
        ["env", "nosuch"],
        ["env", "--swarm", "intro"],
        ["env", "--bogus", "intro"],
        ["env", "intro", "other"],
        ["env", "--shell"],
        ["env", "-h"],
        ["ssh", "intro", "env"],
        ["env", ".."],
        ["env", ""],
        ["--tls-ca-cert", "x", "env", "intro"],
    ],
)
def test_the_fast_path_leaves_unusual_command_lines_to_the_full_path(store: Path, words: list[str]) -> None:
    assert quick_env(["pymachine", *words]) is None


@pytest.mark.parametrize("damage", ["stop", "record", "certificate", "version", "pipe", "large"])
def test_the_fast_path_leaves_errors_to_the_full_path(store: Path, damage: str, tmp_path: Path) -> None:
    folder = store / "machines" / "intro"
    config = folder / "config.json"
    if damage == "stop":
        port = str(json.loads(config.read_text())["Endpoint"]["DockerPort"])
        config.write_text(config.read_text().replace(port, "1"))
    elif damage == "pipe":
        config.unlink()
        os.mkfifo(config)
    elif damage == "large":
        with config.open("ab") as stream:
            stream.truncate(1 << 40)
    elif damage == "record":
        config.write_text("{")
    elif damage == "certificate":
        (folder / "ca.pem").write_bytes(b"")
    else:
        config.write_text(config.read_text().replace('"ConfigVersion": 3', '"ConfigVersion": 4'))
    assert quick_env(["pymachine", "env", "intro"]) is None
    ended = run("env", "intro")
    assert (ended.returncode, ended.stdout) == (1, "")
    beginning = {
        **dict.fromkeys(("stop", "certificate"), "Error checking TLS connection: "),
        **dict.fromkeys(("pipe", "large"), "cannot read "),
    }
    assert ended.stderr.startswith(beginning.get(damage, "Error getting migrated host: "))


def test_hints_use_the_name_the_program_was_called_by(store: Path, tmp_path: Path) -> None:
    link = tmp_path / "docker-machine"
    link.symlink_to(Path(sys.executable).with_name("pymachine"))
    environ = {**os.environ, "PATH": f"/nonexistent{os.pathsep}{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def hint(program: str | Path, *words: str, **more: str) -> str:
        said = subprocess.run([program, *words], env={**environ, **more}, capture_output=True, text=True, check=True)
        return said.stdout.splitlines()[-1]

    assert hint("docker-machine", "env", "intro") == "# eval $(docker-machine env intro)"
    assert hint("docker-machine", "env", "intro", MACHINE_DEBUG="0") == "# eval $(docker-machine env intro)"
    other = tmp_path / "other"
    other.mkdir()
    (other / "docker-machine").symlink_to(link)
    assert hint(other / "docker-machine", "env", "intro") == f"# eval $({other}/docker-machine env intro)"


@pytest.mark.parametrize(
    ("program", "path", "called"),
    [
        ("/a/x", "/b:/a", "x"),
        ("/a/x", "/b", "/a/x"),
        ("./x", "/a:.", "x"),
        ("x", "/a", "x"),
        ("/usr/bin/sh", "/bin:/usr/bin", "/usr/bin/sh"),
        ("", "", ""),
    ],
)
def test_a_program_that_another_on_the_path_hides_is_named_by_its_full_path(
    program: str, path: str, called: str
) -> None:
    assert as_called(program, path) == called


def test_the_fast_path_and_the_store_agree_on_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for option, variable, home in [("", "", "/h"), ("/o", "/v", "/h"), ("", "/v/../w", "/h"), ("rel", "", "/h")]:
        monkeypatch.setenv("MACHINE_STORAGE_PATH", variable)
        monkeypatch.setenv("HOME", home)
        assert _directory(option, "m") == str(Store(paths.storage_root(option)).machine_dir("m"))


@pytest.mark.parametrize("words", [["env", "b"], ["ls"], ["url", "b"]])
@pytest.mark.parametrize("way", ["option", "variable"])
def test_a_removed_working_directory_is_named_as_the_problem(
    words: list[str], way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative store cannot be found from there, on the fast path or on the full one."""
    removed = tmp_path / "removed"
    removed.mkdir()
    monkeypatch.chdir(removed)
    removed.rmdir()
    option, environ = (["-s", "rel"], {}) if way == "option" else ([], {"MACHINE_STORAGE_PATH": "rel"})
    ended = run(*option, *words, **environ)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("the working directory no longer exists\nHint: Change to a folder that exists")


def test_an_unknown_shell_is_an_error_that_asks_for_shell(store: Path) -> None:
    ended = run("env", "intro", SHELL="")
    assert ended.returncode == 1
    assert ended.stdout.startswith("The default lines below are for a sh/bash shell")
    assert ended.stderr.startswith("Error: Unknown shell")


def test_env_unset_prints_unset_lines_and_takes_no_name(store: Path) -> None:
    ended = run("env", "-u")
    assert ended.stdout.splitlines()[:4] == [
        "unset DOCKER_TLS_VERIFY",
        "unset DOCKER_HOST",
        "unset DOCKER_CERT_PATH",
        "unset DOCKER_MACHINE_NAME",
    ]
    refused = run("env", "-u", "intro")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("Error: Expected no machine name when the -u flag is present")


def test_bash_evaluates_the_output(store: Path) -> None:
    program = Path(sys.executable).with_name("pymachine")
    ended = subprocess.run(
        ["bash", "-c", f'eval "$({program} env intro)" && echo "$DOCKER_HOST" && {program} active'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[1] == "intro"


def test_the_fast_path_imports_only_the_allowed_modules(store: Path) -> None:
    script = (
        "import sys; before = set(sys.modules); sys.argv = ['pymachine', 'env', 'intro']\n"
        "from pymachine.__main__ import main\n"
        "code = main()\n"
        "print(*sorted(set(sys.modules) - before), file=sys.stderr); sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "DOCKER_HOST" in ended.stdout
    assert set(ended.stderr.split()) - set(ALLOWED.split()) == set()
