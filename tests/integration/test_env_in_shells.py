"""`env` of the installed program, evaluated in real shells as its hint says, with unusual names and paths."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
import tree_sitter
import tree_sitter_powershell

from support import fake_engine
from support.runner import PROGRAM

NAMES = ["intro", "0", "a.b-c", "Runner-x7-1699999999-deadbeef", "x" * 63]
FOLDERS = [
    "plain",
    "with blanks",
    "it's 'quoted'",
    'say "hello"',
    "$HOME and $(touch evil) and `touch evil`",
    "back\\slash\\\\twice",
    "wow! what? [a-z]* ~ #no; & | < >",
    "ünïcödé “typographic”",
]
# How each shell evaluates the output of a command; %s stands for the program and its arguments.
EVALUATE = {
    "bash": 'eval "$(%s --shell bash %s)"',
    "dash": 'eval "$(%s --shell sh %s)"',
    "sh": 'eval "$(%s --shell sh %s)"',
    "zsh": 'eval "$(%s --shell zsh %s)"',
    "fish": "%s --shell fish %s | source",
    "fish-as-docker-machine": "eval (%s --shell fish %s)",
    "tcsh": "eval `%s --shell tcsh %s`",
}
VARIABLES = ("DOCKER_TLS_VERIFY", "DOCKER_HOST", "DOCKER_CERT_PATH", "DOCKER_MACHINE_NAME")


@pytest.fixture(scope="module", params=FOLDERS, ids=range(len(FOLDERS)))
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    root = tmp_path_factory.mktemp("shells") / request.param
    with fake_engine.machine(root) as port:
        yield root, port


def environment(store: Path, folder: Path) -> dict[str, str]:
    return {
        "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "MACHINE_STORAGE_PATH": str(store),
    }


def named(store: Path, name: str, port: int) -> None:
    """Rename the only machine of the store to `name`."""
    (folder,) = (store / "machines").iterdir()
    folder.rename(store / "machines" / name)


@pytest.mark.parametrize("shell", EVALUATE)
def test_env_sets_the_variables_exactly(store: tuple[Path, int], shell: str, tmp_path: Path) -> None:
    root, port = store
    name = NAMES[(FOLDERS.index(root.name) + list(EVALUATE).index(shell)) % len(NAMES)]
    named(root, name, port)
    program = shell.partition("-")[0]
    argv = [program, "-f", "-c"] if program == "tcsh" else [program, "-c"]
    script = EVALUATE[shell] % ("pymachine env", name) + "\nenv"
    ended = subprocess.run(
        [*argv, script], env=environment(root, tmp_path), cwd=tmp_path, capture_output=True, check=False, timeout=60
    )
    assert ended.stderr == b"", ended.stderr.decode()
    found = dict(line.partition("=")[::2] for line in ended.stdout.decode().splitlines())
    assert {key: found.get(key) for key in VARIABLES} == {
        "DOCKER_TLS_VERIFY": "1",
        "DOCKER_HOST": f"tcp://127.0.0.1:{port}",
        "DOCKER_CERT_PATH": str(root / "machines" / name),
        "DOCKER_MACHINE_NAME": name,
    }
    assert not (tmp_path / "evil").exists()


def test_env_for_powershell_is_only_string_assignments(store: tuple[Path, int], tmp_path: Path) -> None:
    """PowerShell is not available for tests, so a parser with its grammar reads the output."""
    root, port = store
    (folder,) = (root / "machines").iterdir()
    output = subprocess.run(
        [PROGRAM, "env", "--shell", "powershell", folder.name],
        env=environment(root, tmp_path),
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout
    tree = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language())).parse(output)
    assert not tree.root_node.has_error
    strings = list(nodes(tree.root_node, "expandable_string_literal"))
    assert not [
        node for node in strings if any(child.type in {"variable", "sub_expression"} for child in node.children)
    ]
    values = [unescaped(node.text.decode()[1:-1]) for node in strings if node.text]
    assert values == ["1", f"tcp://127.0.0.1:{port}", str(folder), folder.name]


def nodes(node: tree_sitter.Node, kind: str) -> Iterator[tree_sitter.Node]:
    if node.type == kind:
        yield node
    for child in node.children:
        yield from nodes(child, kind)


def unescaped(text: str) -> str:
    """Remove the escaping backquotes from a PowerShell string; fail on an escape sequence with a letter."""
    out, escaped = "", False
    for char in text:
        if char == "`" and not escaped:
            escaped = True
            continue
        assert not (escaped and char.isalnum()), text
        out, escaped = out + char, False
    return out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh", "dash"])
def test_env_detects_the_shell_that_called_it(shell: str, tmp_path: Path) -> None:
    """The variable SHELL is not set, as in a CI job."""
    with fake_engine.machine(tmp_path / "store"):
        argv = [shell, "-f", "-c"] if shell == "tcsh" else [shell, "-c"]
        output = subprocess.run(
            [*argv, "pymachine env intro; true"],
            env=environment(tmp_path / "store", tmp_path),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
    prefix = {"fish": "set -gx ", "tcsh": "setenv "}.get(shell, "export ")
    assert output.startswith(prefix)


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_shell_completes_machines_and_commands(shell: str, tmp_path: Path) -> None:
    """Load the script that `completion` prints under docker-machine's name into a real shell."""
    with fake_engine.machine(tmp_path / "store"):
        (tmp_path / "docker-machine").symlink_to(PROGRAM)
        environ = environment(tmp_path / "store", tmp_path)
        environ["PATH"] = f"{tmp_path}{os.pathsep}{environ['PATH']}"
        bash = 'eval "$(docker-machine completion bash)"\n' + "".join(
            f"COMP_WORDS=({words}); COMP_CWORD={words.count(' ')}; COMPREPLY=(); "
            "_docker_machine_completion docker-machine; echo ${COMPREPLY[@]}\n"
            for words in ("docker-machine ip in", "docker-machine regen", "docker-machine create --driver no")
        )
        fish = (
            "docker-machine completion fish | source\n"
            "complete -C 'docker-machine ip in'\ncomplete -C 'docker-machine regen'\n"
            "complete -C 'docker-machine create --driver no'\n"
        )
        output = subprocess.run(
            [shell, "-c", {"bash": bash, "fish": fish}[shell]],
            env=environ,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert [line.split("\t")[0] for line in output.stdout.splitlines()] == ["intro", "regenerate-certs", "none"], output


def test_zsh_completes_at_its_prompt(tmp_path: Path) -> None:
    with fake_engine.machine(tmp_path / "store"):
        child = pexpect.spawn(
            "zsh",
            ["-f", "-i"],
            env={**environment(tmp_path / "store", tmp_path), "PS1": "ready> "},
            cwd=str(tmp_path),
            encoding="utf-8",
            timeout=30,
            dimensions=(24, 120),
        )
        try:
            child.expect_exact("ready> ")
            child.sendline(
                "autoload -U compinit && compinit -u -D; eval \"$(pymachine completion zsh)\"; echo lo''aded"
            )
            child.expect_exact("loaded")
            for typed, completed in (("pymachine ip in", "intro"), ("pymachine regen", "regenerate-certs")):
                child.expect_exact("ready> ")
                child.send(f"{typed}\t")
                child.expect_exact(completed[len(typed.rpartition(" ")[2]) :])
                child.sendcontrol("u")
                child.sendline("")
        finally:
            child.close(force=True)


def test_env_prints_json_for_programs_other_than_shells(tmp_path: Path) -> None:
    with fake_engine.machine(tmp_path / "store") as port:
        output = subprocess.run(
            [PROGRAM, "env", "--json", "intro"],
            env=environment(tmp_path / "store", tmp_path),
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
    assert json.loads(output)["Variables"]["DOCKER_HOST"] == f"tcp://127.0.0.1:{port}"
