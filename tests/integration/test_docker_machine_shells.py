"""pymachine under docker-machine's name in real shells: completion scripts, and `env` in scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.cli.app import COMMANDS
from support import fake_engine
from support.runner import PROGRAM

# The parsing that docker-machine's completion scripts do.
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
    with fake_engine.machine(folder / "store"):
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
def test_env_in_a_script_has_the_syntax_of_the_scripts_shell(
    environ: dict[str, str], shell: str, login: str, tmp_path: Path
) -> None:
    """The login shell does not matter, nor that the process has the script's name."""
    program, *words = shell.split()
    script = tmp_path / "script"
    first = " ".join([shutil.which(program) or program, *words])
    script.write_text(f"#!{first}\ndocker-machine env intro\ntrue\n")
    script.chmod(0o755)
    assert output([str(script)], {**environ, "SHELL": login}).startswith(SYNTAX[FILES[shell]])


@pytest.mark.parametrize("login", LOGINS)
def test_env_finds_the_shell_behind_a_wrapper(environ: dict[str, str], login: str) -> None:
    text = output(["fish", "-c", "timeout 60 docker-machine env intro; true"], {**environ, "SHELL": login})
    assert text.startswith(SYNTAX["fish"])


@pytest.mark.parametrize(("login", "family"), list(zip(LOGINS, SYNTAX, strict=True)))
def test_env_called_by_a_program_other_than_a_shell_has_the_syntax_of_the_login_shell(
    environ: dict[str, str], login: str, family: str
) -> None:
    text = output([str(Path(environ["HOME"]) / "docker-machine"), "env", "intro"], {**environ, "SHELL": login})
    assert text.startswith(SYNTAX[family])


def test_env_with_wrong_arguments_prints_nothing_to_evaluate(environ: dict[str, str], tmp_path: Path) -> None:
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
