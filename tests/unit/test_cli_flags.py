"""Command-line grammar, errors and exit codes, which follow docker-machine's."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pymachine.cli import app, errors, goflags, main as main_module
from pymachine.errors import DriverError, PrecreateError
from pymachine.system import signals


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Run a command line in this process, on an empty store."""
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(tmp_path / "store"))
    monkeypatch.delenv("MACHINE_DEBUG", raising=False)
    monkeypatch.setattr(main_module.signals, "exit_on_termination", lambda: None)

    def call(*words: str, program: str = "pymachine") -> Outcome:
        code = main_module.main([program, *words])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


# -- the parser --------------------------------------------------------------------------------------------------

FLAGS = [
    goflags.Flag(["--number", "-n"], type=int, default=3, env="T_NUMBER"),
    goflags.Flag(["--quiet", "-q"], is_flag=True, env="T_QUIET"),
    goflags.Flag(["--label"], multiple=True, env="T_LABEL"),
    goflags.Flag(["--text", "-t"], env="T_TEXT"),
    goflags.Flag(["--memory", "-m"], type=goflags.SIZE, default=1024, env="T_MEMORY"),
]


@pytest.mark.parametrize(
    ("words", "given", "rest"),
    [
        ([], {}, []),
        (["-n", "4"], {"number": [4]}, []),
        (["--n=0x10"], {"number": [16]}, []),
        (["-number", "-4"], {"number": [-4]}, []),
        (["-n=+5", "-n=0", "-n=00", "-n=-0X1f"], {"number": [5, 0, 0, -31]}, []),
        (["-n=010", "-n=-017"], {"number": [8, -15]}, []),
        (["-n=9223372036854775807", "-n=-9223372036854775808"], {"number": [2**63 - 1, -(2**63)]}, []),
        (["a", "-q", "b"], {"quiet": [True]}, ["a", "b"]),
        (["-q=false", "-q=T"], {"quiet": [False, True]}, []),
        (["-q", "false"], {"quiet": [True]}, ["false"]),
        (["--label", "a", "-label=b=c"], {"label": ["a", "b=c"]}, []),
        (["--", "-q", "--"], {}, ["-q", "--"]),
        (["a", "--", "-q"], {}, ["a", "-q"]),
        (["-"], {}, ["-"]),
        (["-t", "-q"], {"text": ["-q"]}, []),
        (["-t="], {"text": [""]}, []),
        (["-m", "1024", "-m=0x10", "-m=-1"], {"memory": [1024, 16, -1]}, []),
        (
            ["-m=512m", "-m=4g", "-m=4G", "-m=60GB", "-m=2GiB", "-m=1t"],
            {"memory": [512, 4096, 4096, 61440, 2048, 2**20]},
            [],
        ),
        (["-m=1.5g", "-m=0.25t", "-m=2.0m", "-m=010g"], {"memory": [1536, 262144, 2, 10240]}, []),
    ],
)
def test_arguments_are_parsed_as_go_does(words: list[str], given: dict[str, list[object]], rest: list[str]) -> None:
    assert goflags.scan(FLAGS, words) == (given, rest)


def test_flags_can_end_at_the_first_positional_argument() -> None:
    assert goflags.scan(FLAGS, ["-q", "ls", "-n", "1"], interspersed=False) == ({"quiet": [True]}, ["ls", "-n", "1"])


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-bogus"], "flag provided but not defined: -bogus"),
        (["--bogus=1"], "flag provided but not defined: -bogus"),
        (["-qn"], "flag provided but not defined: -qn"),
        (["-n", "x"], 'invalid value "x" for flag -n: parse error'),
        (["--number=1.5"], 'invalid value "1.5" for flag -number: parse error'),
        *(
            (["-n", number], f'invalid value "{number}" for flag -n: parse error')
            for number in ("", " 5", "5 ", "1_0", "0b1", "0o7", "08", "0x", "--5", "٣", "5\n")
        ),
        *(
            (["-n", number], f'invalid value "{number}" for flag -n: value out of range')
            for number in ("9223372036854775808", "-9223372036854775809", "9" * 5000)
        ),
        (["-q=maybe"], 'invalid boolean value "maybe" for -q: parse error'),
        (["-t"], "flag needs an argument: -t"),
        (["---q"], "bad flag syntax: ---q"),
        (["-=x"], "bad flag syntax: -=x"),
    ],
)
def test_invalid_arguments_have_gos_error_messages(words: list[str], text: str) -> None:
    with pytest.raises(errors.FlagError) as caught:
        goflags.scan(FLAGS, words)
    assert caught.value.brief == text


@pytest.mark.parametrize(
    "size",
    [
        "",
        "4x",
        "g",
        "4 g",
        "4gg",
        "4gib2",
        "-4g",
        "+4g",
        "0x4g",
        "1e3m",
        ".5g",
        "1.g",
        "0.1m",
        "1.0001g",
        "4k",
        "٤g",
        "4g\n",
        "9" * 5000 + "g",
    ],
)
def test_a_bad_size_has_gos_error_message_and_an_example(size: str) -> None:
    with pytest.raises(errors.FlagError) as caught:
        goflags.scan(FLAGS, ["-m", size])
    assert caught.value.brief == f'invalid value "{size}" for flag -m: parse error'
    assert "512m, 4g" in caught.value.hint


def test_the_environment_may_give_a_size_with_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_MEMORY", "2g")
    assert values()["memory"] == 2048
    monkeypatch.setenv("T_MEMORY", "much")
    with pytest.raises(errors.FlagError, match="much.*from T_MEMORY") as caught:
        values()
    assert "512m, 4g" in caught.value.hint


def test_help_can_show_a_default_that_depends_on_the_host() -> None:
    shown = goflags.Flag(["--memory"], type=goflags.SIZE, default=1024, default_text="2048, or less").get_help_record(
        click.Context(click.Command("t"))
    )
    assert shown is not None
    assert "[default: 2048, or less]" in shown[1]


def values(*words: str) -> dict[str, object]:
    command = goflags.GoCommand("t", params=list(FLAGS), structured=False)
    return goflags.parse(command, click.Context(command), words)[0]


def test_the_command_line_wins_over_the_environment_and_that_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert values() == {"number": 3, "quiet": False, "label": (), "text": "", "memory": 1024}
    for name, text in {"T_NUMBER": "5", "T_QUIET": "1", "T_LABEL": "a, b", "T_TEXT": "t"}.items():
        monkeypatch.setenv(name, text)
    assert values() == {"number": 5, "quiet": True, "label": ("a", "b"), "text": "t", "memory": 1024}
    assert values("-n=6", "-q=false", "--label", "c", "-t", "") == {
        "number": 6,
        "quiet": False,
        "label": ("c",),
        "text": "",
        "memory": 1024,
    }


def test_an_environment_variable_with_a_bad_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_QUIET", "certainly")
    assert values()["quiet"] is False
    monkeypatch.setenv("T_NUMBER", "many")
    with pytest.raises(errors.FlagError, match="from T_NUMBER"):
        values()


# -- whole command lines -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["help"], ["--help"], ["-h"]])
def test_help_lists_every_command(run, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    outcome = run(*words)
    assert outcome.code == 0
    unwrapped = " ".join(outcome.out.split())
    assert [name for name, summary in app.COMMANDS.items() if f" {name} {summary}" not in unwrapped] == []


@pytest.mark.parametrize("name", sorted(app.COMMANDS))
def test_every_command_has_help_under_its_name(run, name: str) -> None:  # type: ignore[no-untyped-def]
    direct, through_help = run(name, "--help"), run("help", name)
    assert (direct.code, through_help.code) == (0, 0)
    assert direct.out.startswith(f"Usage: pymachine {name} ")
    assert through_help.out == direct.out


@pytest.mark.parametrize("words", [["bogus"], ["help", "bogus"]])
def test_an_unknown_command_has_docker_machines_message(run, words: list[str]) -> None:  # type: ignore[no-untyped-def]
    outcome = run(*words, program="/opt/docker-machine")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "docker-machine: 'bogus' is not a docker-machine command. See 'docker-machine --help'.\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["ls", "-bogus"], "flag provided but not defined: -bogus\n"),
        (["ls", "-t", "x"], 'invalid value "x" for flag -t: parse error\n'),
        (["create", "--bogus", "x"], "flag provided but not defined: -bogus\n"),
    ],
)
def test_incorrect_usage_prints_the_error_and_the_help(run, words: list[str], text: str) -> None:  # type: ignore[no-untyped-def]
    outcome = run(*words)
    assert outcome.code == 1
    assert outcome.out.startswith(f"Incorrect Usage.\n\nUsage: pymachine {words[0]} ")
    assert outcome.err == text


def test_incorrect_usage_before_the_command(run) -> None:  # type: ignore[no-untyped-def]
    outcome = run("--bogus", "ls")
    assert (outcome.code, outcome.err) == (1, "flag provided but not defined: -bogus\n")


@pytest.mark.parametrize("word", ["-D", "-debug", "--debug"])
def test_debug_is_accepted_anywhere(run, word: str) -> None:  # type: ignore[no-untyped-def]
    for words in ([word, "ls"], ["ls", word], ["ls", "-q", word]):
        outcome = run(*words)
        assert outcome.code == 0
        assert "debug mode" in outcome.err


def test_a_bad_value_of_the_debug_variable(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("MACHINE_DEBUG", "perhaps")
    outcome = run("ls")
    assert outcome.code == 1
    assert outcome.err.startswith("Error parsing boolean value from MACHINE_DEBUG: ")


def test_debug_shows_the_traceback(run) -> None:  # type: ignore[no-untyped-def]
    assert "Traceback" not in run("status", "x").err
    assert "Traceback" in run("-D", "status", "x").err


def test_version(run) -> None:  # type: ignore[no-untyped-def]
    for words in (["version"], ["--version"], ["-v"]):
        assert run(*words, program="/x/docker-machine").out.startswith("docker-machine version 0.")


def test_json_errors(run) -> None:  # type: ignore[no-untyped-def]
    outcome = run("ls", "--json", "--filter", "x")
    assert outcome.code == 1
    assert outcome.err.startswith('{"error": {"code": ')


# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DriverError("no", details="a\nb", hint="mend"), 1, "no\n    a\n    b\nHint: mend\n"),
        (PrecreateError("no"), 3, "no\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (signals.Terminated(), 143, "Interrupted.\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/s/x"), 1, "No space left on device: /s/x\nHint: Free"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/s/x"),
            1,
            "Permission denied: /s/x\nHint: / belongs",
        ),
        (ZeroDivisionError("ups"), 1, "internal error: ZeroDivisionError: ups\nHint: This is a bug in pymachine."),
        (errors.joined([DriverError("a", hint="h"), PrecreateError("b", hint="h")]), 3, "a\nb\nHint: h\n"),
    ],
)
def test_errors_become_text_and_exit_codes(
    error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert errors.report(error) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(text)


def test_a_closed_pipe_causes_no_traceback(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("pymachine")
    ended = subprocess.run(
        ["bash", "-c", f"{program} help | true; {program} -s {tmp_path} help create | head -1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == ""


# -- what may be imported ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["ls"], ["ip", "x"], ["status", "x"], ["ls", "-q"], ["url", "x"]])
def test_commands_that_only_read_import_no_heavy_module(words: list[str], tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pymachine.cli.main import main\n"
        f"main(['pymachine', '-s', {str(tmp_path)!r}, *{words!r}])\n"
        "print('MODULES', *sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(ended.stdout.partition("MODULES")[2].split())
    heavy = {"cryptography", "paramiko", "requests", "pycdlib", "pysequoia", "debian", "zstandard", "pymachine.image"}
    heavy |= {"rich", "pymachine.system.live_lines"}
    assert loaded & heavy == set()
    if words == ["--help"]:
        commands = {app.module_of(name) for name in app.COMMANDS}
        assert loaded & commands == set()
