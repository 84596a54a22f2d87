"""The output of `env`, letter by letter and as real shells read it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pymachine.cli import shells
from pymachine.docker.variables import CONNECTION_NAMES, connection_variables
from pymachine.driver.contract import Endpoint

ARGV = ["pymachine", "env", "intro"]
VARIABLES = connection_variables("tcp://127.1.2.3:2376", "/home/me/.docker/machine/machines/intro", "intro")

GOLDEN = {
    "bash": """\
export DOCKER_TLS_VERIFY="1"
export DOCKER_HOST="tcp://127.1.2.3:2376"
export DOCKER_CERT_PATH="/home/me/.docker/machine/machines/intro"
export DOCKER_MACHINE_NAME="intro"
# Run this command to configure your shell:\x20
# eval $(pymachine env intro)
""",
    "fish": """\
set -gx DOCKER_TLS_VERIFY "1";
set -gx DOCKER_HOST "tcp://127.1.2.3:2376";
set -gx DOCKER_CERT_PATH "/home/me/.docker/machine/machines/intro";
set -gx DOCKER_MACHINE_NAME "intro";
# Run this command to configure your shell:\x20
# eval (pymachine env intro)
""",
    "powershell": """\
$Env:DOCKER_TLS_VERIFY = "1"
$Env:DOCKER_HOST = "tcp://127.1.2.3:2376"
$Env:DOCKER_CERT_PATH = "/home/me/.docker/machine/machines/intro"
$Env:DOCKER_MACHINE_NAME = "intro"
# Run this command to configure your shell:\x20
# & pymachine env intro | Invoke-Expression
""",
    "cmd": """\
SET DOCKER_TLS_VERIFY=1
SET DOCKER_HOST=tcp://127.1.2.3:2376
SET DOCKER_CERT_PATH=/home/me/.docker/machine/machines/intro
SET DOCKER_MACHINE_NAME=intro
REM Run this command to configure your shell:\x20
REM \t@FOR /f "tokens=*" %i IN ('pymachine env intro') DO @%i
""",
    "tcsh": """\
setenv DOCKER_TLS_VERIFY "1";
setenv DOCKER_HOST "tcp://127.1.2.3:2376";
setenv DOCKER_CERT_PATH "/home/me/.docker/machine/machines/intro";
setenv DOCKER_MACHINE_NAME "intro";
: Run this command to configure your shell:\x20
: eval `pymachine env intro`
""",
    "emacs": """\
(setenv "DOCKER_TLS_VERIFY" "1")
(setenv "DOCKER_HOST" "tcp://127.1.2.3:2376")
(setenv "DOCKER_CERT_PATH" "/home/me/.docker/machine/machines/intro")
(setenv "DOCKER_MACHINE_NAME" "intro")
;; Run this command to configure your shell:\x20
;; (with-temp-buffer (shell-command "pymachine env intro" (current-buffer)) (eval-buffer))
""",
}


@pytest.mark.parametrize("shell", GOLDEN)
def test_ordinary_values_are_written_as_in_docker_machine(shell: str) -> None:
    assert shells.assignments(shells.find(shell), VARIABLES, ARGV) == GOLDEN[shell]


@pytest.mark.parametrize("shell", ["zsh", "sh", "dash", "ksh", "anything"])
def test_unknown_shells_count_as_posix_shells(shell: str) -> None:
    assert shells.assignments(shells.find(shell), VARIABLES, ARGV) == GOLDEN["bash"]


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "unset DOCKER_HOST"),
        ("fish", "set -e DOCKER_HOST;"),
        ("powershell", "Remove-Item Env:\\\\DOCKER_HOST"),
        ("cmd", "SET DOCKER_HOST="),
        ("tcsh", "unsetenv DOCKER_HOST;"),
        ("emacs", '(setenv "DOCKER_HOST" nil)'),
    ],
)
def test_unset_lines_of_each_shell(shell: str, line: str) -> None:
    assert line in shells.removals(shells.find(shell), CONNECTION_NAMES, ARGV).splitlines()


@pytest.mark.parametrize(
    ("shell", "text"),
    [
        ("powershell", '$Env:K = "a `"b`" `$c ``d \\e"'),
        ("emacs", '(setenv "K" "a \\"b\\" $c `d \\\\e")'),
        ("cmd", 'SET K=a "b" $c `d \\e'),
    ],
)
def test_special_characters_in_shells_that_are_not_run_here(shell: str, text: str) -> None:
    assert shells.assignments(shells.find(shell), [("K", 'a "b" $c `d \\e')], ARGV).startswith(text + "\n")


def test_a_program_in_a_folder_with_a_blank_is_quoted_in_the_hint() -> None:
    hint = shells.assignments(shells.DEFAULT, [], ["/my tools/pymachine", "env"]).splitlines()[-1]
    assert hint == '# eval $("/my tools/pymachine" env)'


def test_a_line_break_in_an_argument_cannot_leave_the_comment() -> None:
    text = shells.assignments(shells.DEFAULT, [], ["pymachine", "-s", "a\ntouch evil", "env"])
    assert all(line.startswith("#") for line in text.splitlines())


def test_ipv6_addresses_are_bracketed() -> None:
    assert ("DOCKER_HOST", "tcp://[fd00::1]:2376") in connection_variables(Endpoint("fd00::1").url, "/d", "n")


def test_windows_converts_compose_paths() -> None:
    assert connection_variables("tcp://1.2.3.4:1", "d", "n", windows=True)[-1] == (
        "COMPOSE_CONVERT_WINDOWS_PATHS",
        "true",
    )


@pytest.mark.parametrize(
    ("environ", "windows", "expected"),
    [
        ({"SHELL": "/usr/bin/zsh"}, False, "zsh"),
        ({"SHELL": "fish"}, False, "fish"),
        ({"SHELL": ""}, False, ""),
        ({}, False, ""),
        ({}, True, "cmd"),
        ({"__fish_bin_dir": "x"}, True, "fish"),
        ({"SHELL": "C:\\tools\\bash.exe"}, True, "bash"),
    ],
)
def test_the_shell_is_detected_from_the_environment(environ: dict[str, str], windows: bool, expected: str) -> None:
    assert shells.detect(environ, windows=windows) == expected


def test_without_the_variable_the_calling_process_is_examined() -> None:
    assert shells.detect({}, parent="fish") == "fish"
    assert shells.detect({}, parent="python3") == ""


@pytest.mark.parametrize(
    ("login", "parent", "expected"),
    [
        ("/usr/bin/fish", "bash", "bash"),
        ("/usr/bin/fish", "sh", "sh"),
        ("/usr/bin/fish", "fish", "fish"),
        ("/bin/bash", "fish", "fish"),
        ("/bin/zsh", "bash", "zsh"),
        ("/bin/csh", "tcsh", "csh"),
        ("/bin/csh", "dash", "dash"),
        ("/bin/bash", "pwsh", "pwsh"),
        ("/usr/bin/fish", "python3", "fish"),
        ("/usr/bin/fish", "", "fish"),
        ("/usr/bin/nu", "bash", "nu"),
    ],
)
def test_the_calling_shell_wins_if_its_syntax_differs(login: str, parent: str, expected: str) -> None:
    assert shells.detect({"SHELL": login}, parent=parent) == expected


def test_a_process_that_cannot_be_examined_is_not_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 2**22 + 1)
    assert shells.caller() == ""


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, {"NO_PROXY": "1.2.3.4"}),
        ({"NO_PROXY": "a"}, {"NO_PROXY": "a,1.2.3.4"}),
        ({"no_proxy": "a", "NO_PROXY": "b"}, {"no_proxy": "a,1.2.3.4", "NO_PROXY": "b,1.2.3.4"}),
        ({"no_proxy": "a,1.2.3.4,b"}, {"no_proxy": "a,1.2.3.4,b"}),
        ({"no_proxy": "", "NO_PROXY": "b"}, {"NO_PROXY": "b,1.2.3.4"}),
        ({"no_proxy": "1.2.3.4", "NO_PROXY": "b"}, {"no_proxy": "1.2.3.4", "NO_PROXY": "b,1.2.3.4"}),
        # Another address may begin, end or go on with it.
        ({"NO_PROXY": "1.2.3.40"}, {"NO_PROXY": "1.2.3.40,1.2.3.4"}),
        ({"NO_PROXY": "11.2.3.4,x1.2.3.4"}, {"NO_PROXY": "11.2.3.4,x1.2.3.4,1.2.3.4"}),
        ({"NO_PROXY": "1.2.3.4:80"}, {"NO_PROXY": "1.2.3.4:80,1.2.3.4"}),
        ({"NO_PROXY": "a, 1.2.3.4 ,b"}, {"NO_PROXY": "a, 1.2.3.4 ,b"}),
        ({"NO_PROXY": "*"}, {"NO_PROXY": "*"}),
        ({"NO_PROXY": "a,"}, {"NO_PROXY": "a,1.2.3.4"}),
        ({"NO_PROXY": " , "}, {"NO_PROXY": "1.2.3.4"}),
    ],
)
def test_no_proxy_gets_the_machines_address(environ: dict[str, str], expected: dict[str, str]) -> None:
    assert dict(shells.no_proxy(environ, "1.2.3.4")) == expected
    assert sorted(shells.no_proxy_names(environ)) == sorted(expected)


def test_no_proxy_accepts_bracketed_addresses() -> None:
    assert dict(shells.no_proxy({"NO_PROXY": "[fd00::1]"}, "fd00::1")) == {"NO_PROXY": "[fd00::1]"}


# -- real shells -------------------------------------------------------------------------------------------------

REAL = {
    "sh": 'eval "$(cat %s)"',
    "bash": 'eval "$(cat %s)"',
    "zsh": 'eval "$(cat %s)"',
    "fish": "eval (cat %s)",
    "tcsh": "eval `cat %s`",
}
ODD = [
    "/home/me/my $tuff/m",
    'say "hello" you',
    "it's",
    "back\\slash and `tick`",
    "$(touch evil)",
    "wow! such!",
    "100% ~ & ; | < > # ( ) { } [x] * ?",
    "ünïcödé",
    "ends with \\",
    "",
]


def value_in(shell: str, text: str, folder: Path, *, clear: str = "") -> str:
    """Return the value of K that a program started by `shell` sees after the shell evaluated `text`."""
    script = folder / "text"
    script.write_text(text, encoding="utf-8")
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8", "TERM": "dumb"}
    # -f: tcsh without start-up files. Its commands come on stdin, since `-c` would have it expand `!`.
    argv = [shell, "-f", "-c"] if shell == "tcsh" else [shell, "-c"]
    command = f"{REAL[shell] % script}\n{clear}\nprintenv K"
    ended = subprocess.run([*argv, command], env=environ, cwd=folder, capture_output=True, check=False, timeout=60)
    assert ended.stderr == b"", ended.stderr
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == ["text"]
    return ended.stdout.decode().removesuffix("\n")


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("shell", REAL)
def test_real_shells_keep_special_characters(shell: str, value: str, tmp_path: Path) -> None:
    text = shells.assignments(shells.find(shell), [("K", value)], ["true", "env"])
    assert value_in(shell, text, tmp_path) == value


BREAKING = [
    f"a{end}touch evil{end}b" for end in ("\n", "\r", "\r\n", "\x1b]0;x\x07", "\x85", "\u2028", "\u202e", "\v", "\f")
]


@pytest.mark.parametrize("value", [*BREAKING, '"\ntouch evil\n"', "'\ntouch evil\n'", "\\\n;touch evil;"])
@pytest.mark.parametrize("shell", REAL)
def test_values_are_never_executed(shell: str, value: str, tmp_path: Path) -> None:
    """A shell may split the text at line breaks; the value then differs, but no command runs."""
    text = shells.assignments(shells.find(shell), [("K", value)], ["true", "env"])
    # `value_in` holds that no file was made.
    assert value_in(shell, text, tmp_path).split() == value.split()


@pytest.mark.parametrize("shell", ["powershell", "cmd"])
@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\r\nb"])
def test_shells_that_evaluate_line_by_line_get_one_line_per_value(shell: str, value: str) -> None:
    text = shells.assignments(shells.find(shell), [("K", value), ("L", "l")], ARGV)
    first, second, *_ = text.splitlines()
    assert first.startswith(('$Env:K = "a`', "SET K=a "))
    assert second in ('$Env:L = "l"', "SET L=l")


@pytest.mark.parametrize("shell", REAL)
def test_the_hint_is_never_executed(shell: str, tmp_path: Path) -> None:
    words = ["true", "env", "x\ntouch evil", ";touch evil", "$(touch evil)", "`touch evil`", "&& touch evil"]
    assert value_in(shell, shells.assignments(shells.find(shell), [("K", "v")], words), tmp_path) == "v"


@pytest.mark.parametrize("shell", REAL)
def test_real_shells_unset_the_variables(shell: str, tmp_path: Path) -> None:
    text = shells.assignments(shells.find(shell), [("K", "v")], ["true", "env"])
    text = text.partition("\n")[0] + "\n" + shells.removals(shells.find(shell), ["K"], ["true"])
    assert value_in(shell, text, tmp_path) == ""
