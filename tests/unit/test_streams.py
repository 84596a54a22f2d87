"""Closed or full standard streams, or readers that have ended: no traceback, and nothing half done."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.store.record import Machine
from pymachine.store.store import Store
from support import fake_engine
from support.runner import PROGRAM, Outcome, Pymachine, private_store

# Commands that print a result, messages, help, usage, a script or JSON.
PRINTING = [
    "ls",
    "ls --json",
    "ls --format '{{.Name}}'",
    "env intro",
    "env --json intro",
    "inspect intro",
    "version",
    "--help",
    "help create",
    "create --help",
    "completion bash",
    "doctor --driver none",
    "",
]
FAILING = ["ls --no-such-flag", "no-such-command", "inspect nosuch", "rm", "env nosuch"]


@pytest.fixture(scope="module")
def program() -> Iterator[Pymachine]:
    with private_store() as made, fake_engine.machine(made.store):
        yield made


def run_script(program: Pymachine, script: str) -> Outcome:
    """Run a script in which ``$P`` is pymachine."""
    done = program.run(["bash", "-c", script], code=None, env={"P": str(PROGRAM), "DOCKER_HOST": ""})
    for said in ("Traceback", "internal error", "Exception ignored"):
        assert said not in done.text, f"{script}\n{done.text}"
    return done


def test_a_host_name_that_is_not_utf8_is_printed_as_its_bytes(program: Pymachine, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[bytes]:
        argv = [str(PROGRAM), "-s", str(tmp_path), *words]
        return subprocess.run(argv, env=program.environment(), capture_output=True, check=False)

    assert run("create", "-d", "none", "--url", "tcp://b\udcffd:1", "u").returncode == 0
    for command in ("env", "config", "version"):
        done = run(command, "u")
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"dial tcp: lookup b\xffd: no such host" in done.stderr


@pytest.mark.parametrize("words", PRINTING)
def test_a_failed_write_to_stdout_is_an_error_with_its_reason(program: Pymachine, words: str) -> None:
    full = run_script(program, f"$P {words} >/dev/full")
    assert (full.code, full.stdout) == (1, "")
    assert "cannot write to standard output: No space left on device" in full.stderr
    if "--json" in words:
        assert json.loads(full.stderr.splitlines()[-1])["error"]["code"] == "system"
    closed = run_script(program, f"$P {words} >&-")
    assert closed.code == 1
    assert "cannot write to standard output: Bad file descriptor" in closed.stderr


@pytest.mark.parametrize("words", ["ls", "env intro", "--help", "completion bash", "inspect intro"])
def test_a_reader_that_ended_causes_no_error_message(program: Pymachine, words: str) -> None:
    done = run_script(program, f"{{ sleep 0.5; $P {words}; echo $? >&2; }} | true")
    assert done.stderr == "1\n"


@pytest.mark.parametrize("words", FAILING)
def test_an_error_keeps_its_text_and_exit_code(program: Pymachine, words: str) -> None:
    plain = run_script(program, f"$P {words}")
    assert plain.code != 0
    for stream in (">&-", ">/dev/full"):
        without_output = run_script(program, f"$P {words} {stream}")
        assert without_output.code == plain.code
        assert plain.stderr in without_output.stderr
    for stream in ("2>&-", "2>/dev/full", ">&- 2>&- <&-"):
        assert run_script(program, f"$P {words} {stream}").code == plain.code


def test_a_closed_stdin_counts_as_empty(program: Pymachine) -> None:
    said = run_script(program, "$P rm intro <&-")
    assert said.code == 0
    assert "Are you sure?" in said.stdout
    assert Store(program.store).exists("intro")


def test_an_answer_that_is_not_utf8_means_no(program: Pymachine) -> None:
    said = run_script(program, "printf '\\377\\n' | $P rm intro")
    assert said.code == 0
    assert Store(program.store).exists("intro")


def test_files_of_the_store_do_not_reuse_closed_streams(program: Pymachine) -> None:
    """The standard output of a child must not go into a file of the store."""
    Store(program.store).save(Machine(name="other", driver_name="none", driver={"URL": "tcp://127.0.0.1:1"}))
    before = (program.store / "machines/other/config.json").read_bytes()
    run_script(program, "$P rename other another >&- 2>&- <&-; $P rename another other >&- 2>&- <&-")
    record = json.loads((program.store / "machines/other/config.json").read_bytes())
    assert record["Name"] == json.loads(before)["Name"] == "other"


@pytest.mark.parametrize("names", ["fresh", "one two"])
@pytest.mark.parametrize("stream", [">&-", ">/dev/full"])
def test_messages_that_cannot_be_written_do_not_stop_a_command(program: Pymachine, stream: str, names: str) -> None:
    """The work is done, as with other programs, and the exit code shows that output was lost."""
    done = run_script(program, f"$P create -d none --url tcp://127.0.0.1:1 {names} {stream}")
    assert done.code == 1
    assert "cannot write to standard output" in done.stderr
    assert all(Store(program.store).exists(name) for name in names.split())
    done = run_script(program, f"$P rm -y {names} {stream}")
    assert done.code == 1
    assert not any(Store(program.store).exists(name) for name in names.split())


def test_a_prompt_that_cannot_be_written_is_not_answered(program: Pymachine) -> None:
    assert run_script(program, "echo y | $P rm intro >/dev/full").code == 1
    assert Store(program.store).exists("intro")


def test_create_stops_if_its_reader_ended_and_leaves_no_machine(program: Pymachine) -> None:
    create = "$P create -d none --url tcp://127.0.0.1:1 fresh"
    done = run_script(program, f"{{ sleep 0.5; {create}; echo $? >&2; }} | true")
    assert done.stderr == "1\n"
    assert not Store(program.store).exists("fresh")


def test_all_output_reaches_a_non_blocking_pipe(program: Pymachine) -> None:
    script = (
        "import fcntl, os, subprocess, sys\n"
        "reader, writer = os.pipe(); os.set_blocking(writer, False); fcntl.fcntl(writer, 1031, 4096)\n"
        "done = subprocess.Popen([sys.argv[1], 'completion', 'bash'], stdout=writer); os.close(writer)\n"
        "import time; time.sleep(2)\n"
        "print(len(open(reader).read()), done.wait())"
    )
    size = len(program("completion", "bash").stdout)
    done = program.run([sys.executable, "-c", script, str(PROGRAM)])
    assert done.stdout == f"{size} 0\n", done.text
    assert size > 0


def test_names_outside_of_the_terminals_encoding_are_escaped(program: Pymachine, tmp_path: Path) -> None:
    Store(tmp_path).save(Machine(name="箱\udce9", driver_name="none", driver={"URL": "tcp://127.0.0.1:1"}))
    for encoding, shown in (("utf-8", "箱".encode() + b"\xe9"), ("latin-1", b"\\u7bb1\xe9")):
        done = subprocess.run(
            [PROGRAM, "-s", tmp_path, "ls", "-q"],
            env={**program.environment(), "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=True,
        )
        assert done.stdout == shown + b"\n"
        done = subprocess.run(
            [PROGRAM, "-s", tmp_path, "ls", "--json"],
            env={**program.environment(), "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=True,
        )
        assert json.loads(done.stdout)[0]["Name"] == "箱\udce9"
        done = subprocess.run(
            [PROGRAM, "-s", tmp_path, "inspect", "no箱\udce9"],
            env={**program.environment(), "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert b'machine "no' + shown + b'" does not exist' in done.stderr
