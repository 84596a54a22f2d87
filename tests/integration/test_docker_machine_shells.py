"""What shells make of the program under docker-machine's name: its completions, and `env` in scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.cli.app import COMMANDS
from support import engine
from support.runner import PROGRAM

# The parsing that docker-machine's completions do, and what one takes from it.
BASH_FLAGS = r"docker-machine create --driver %s --help | grep '^   -' | sed 's/^   //; s/[^a-z0-9-].*$//'"
ZSH_COMMANDS = r"""
setopt extendedglob
lines=(${(f)"$(docker-machine 2>&1)"})
found=(${${${lines[$((${lines[(i)Commands:]} + 1)),${lines[(I)  *]}]}## #}/$'\t'##/:})
print -l -- $found
"""
SYNTAX = {"sh": "export ", "fish": "set -gx ", "tcsh": "setenv "}
FILES = {"bash": "sh", "dash": "sh", "zsh": "sh", "fish": "fish", "tcsh": "tcsh", "busybox sh": "sh"}
LOGINS = ["/bin/bash", "/usr/bin/fish", "/bin/tcsh"]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("called")
    (folder / "docker-machine").symlink_to(PROGRAM)
    with engine.machine(folder / "store"):
        yield {
            "PATH": f"{folder}{os.pathsep}{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "TERM": "dumb",
            "MACHINE_STORAGE_PATH": str(folder / "store"),
        }


def output(argv: list[str], environ: dict[str, str]) -> str:
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.mark.parametrize(
    ("driver", "own"),
    [
        ("virtualbox", {"--virtualbox-memory", "--virtualbox-boot2docker-url", "--virtualbox-hostonly-nicpromisc"}),
        ("generic", {"--generic-ip-address", "--generic-ssh-key"}),
        ("none", {"--url"}),
    ],
)
def test_the_bash_completion_finds_all_flags_of_create(environ: dict[str, str], driver: str, own: set[str]) -> None:
    found = output(["bash", "-c", BASH_FLAGS % driver], environ).split()
    common = {"--driver", "--engine-registry-mirror", "--engine-opt", "--engine-storage-driver", "--swarm", "--tls-san"}
    assert own | common <= set(found)
    assert all(word.startswith("--") and len(word) > 2 for word in found)
    assert len(found) == len(set(found))


def test_the_zsh_completion_finds_all_commands_with_their_summaries(environ: dict[str, str]) -> None:
    found = output(["zsh", "-f", "-c", ZSH_COMMANDS], environ).splitlines()
    assert dict(line.split(":", 1) for line in found) == COMMANDS


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("shell", FILES)
def test_a_script_gets_what_its_own_shell_evaluates(
    environ: dict[str, str], shell: str, login: str, tmp_path: Path
) -> None:
    """Whatever the login shell is, and though such a process has the script's name."""
    program, *words = shell.split()
    script = tmp_path / "script"
    first = " ".join([shutil.which(program) or program, *words])
    script.write_text(f"#!{first}\ndocker-machine env intro\ntrue\n")
    script.chmod(0o755)
    assert output([str(script)], {**environ, "SHELL": login}).startswith(SYNTAX[FILES[shell]])


@pytest.mark.parametrize("login", LOGINS)
def test_a_wrapper_is_passed_over(environ: dict[str, str], login: str) -> None:
    said = output(["fish", "-c", "timeout 60 docker-machine env intro; true"], {**environ, "SHELL": login})
    assert said.startswith(SYNTAX["fish"])


@pytest.mark.parametrize(("login", "family"), list(zip(LOGINS, SYNTAX, strict=True)))
def test_a_program_that_is_no_shell_gets_what_the_login_shell_takes(
    environ: dict[str, str], login: str, family: str
) -> None:
    said = output([str(Path(environ["HOME"]) / "docker-machine"), "env", "intro"], {**environ, "SHELL": login})
    assert said.startswith(SYNTAX[family])


def test_nothing_is_evaluated_when_there_are_too_many_arguments(environ: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [
            "bash",
            "-c",
            'eval "$(docker-machine env intro other)"; eval "$(docker-machine env --bogus)"; echo $DOCKER_HOST',
        ],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "\n"
    assert [line for line in done.stderr.splitlines() if not line.startswith("Hint: ")] == [
        "Error: Expected one machine name as an argument",
        "flag provided but not defined: -bogus",
    ]
