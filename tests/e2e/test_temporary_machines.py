"""`run`, `--ttl` and `prune`, with machines of the driver none, which need no time to start."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence

import pytest

from support.runner import Pymachine

NONE = ("--driver", "none", "--url", "tcp://127.0.0.1:2376")


def run(program: Pymachine, *words: str, code: int | None = 0) -> str:
    return program("run", *NONE, *words, code=code).stdout


def started(program: Pymachine, *words: str) -> subprocess.Popen[str]:
    """Start a `run` and wait until its command has begun."""
    process = program.start("run", *NONE, *words)
    assert process.stdout
    for line in process.stdout:
        if line == "begun\n":
            return process
    raise AssertionError("the command did not begin")


def names(program: Pymachine) -> Sequence[str]:
    return program("ls", "-q").stdout.split()


def test_the_command_gets_the_environment_of_the_machine_and_its_own_flags(pymachine: Pymachine) -> None:
    text = run(
        pymachine, "--name", "job-1", "--", "sh", "-c", 'echo "$DOCKER_HOST $DOCKER_MACHINE_NAME $0 $1"', "-x", "-y"
    )
    assert text == "tcp://127.0.0.1:2376 job-1 -x -y\n"
    # A machine of the driver none has no certificates, so the store's are used.
    assert run(pymachine, "sh", "-c", "echo $DOCKER_CERT_PATH") == f"{pymachine.store / 'certs'}\n"
    assert names(pymachine) == []


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_run_returns_the_exit_code_of_the_command(pymachine: Pymachine, script: str, code: int) -> None:
    run(pymachine, "sh", "-c", script, code=code)
    assert names(pymachine) == []


def test_a_command_that_cannot_be_run_is_reported(pymachine: Pymachine) -> None:
    outcome = pymachine("run", *NONE, "/no/such/program", code=127)
    assert "command not found" in outcome.stderr
    assert pymachine("run", *NONE, "/", code=126).stderr.startswith("/: ")
    assert "No command" in pymachine("run", *NONE, code=1).stderr
    assert names(pymachine) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_reaches_the_command_and_the_machine_is_removed(pymachine: Pymachine, number: signal.Signals) -> None:
    script = "trap 'echo trapped; exit 5' TERM INT HUP; echo begun; while :; do sleep 0.1; done"
    process = started(pymachine, "sh", "-c", script)
    assert len(names(pymachine)) == 1
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert "trapped" in text
    assert process.returncode == (5 if number is signal.SIGINT else 143)
    assert names(pymachine) == []


def test_a_command_that_ignores_sigterm_is_killed(pymachine: Pymachine) -> None:
    process = started(pymachine, "sh", "-c", "trap '' TERM; echo begun; while :; do sleep 0.1; done")
    process.terminate()
    time.sleep(0.5)
    process.terminate()  # a second signal must not leave the machine behind
    process.communicate(timeout=60)
    assert names(pymachine) == []


def test_prune_removes_the_machine_of_a_killed_run_but_not_of_a_live_one(pymachine: Pymachine) -> None:
    alive = started(pymachine, "--name", "alive", "sh", "-c", "echo begun; sleep 600")
    dead = started(pymachine, "--name", "dead", "sh", "-c", "echo begun; exec sleep 600")
    os.killpg(dead.pid, signal.SIGKILL)
    dead.communicate(timeout=60)
    assert names(pymachine) == ["alive", "dead"]
    assert pymachine("prune", "--dry-run").stdout == "dead: the run that it was made for is gone\n"
    assert names(pymachine) == ["alive", "dead"]
    removed = json.loads(pymachine("prune", "--json").stdout)
    assert removed == [{"Name": "dead", "Reason": "the run that it was made for is gone"}]
    assert names(pymachine) == ["alive"]
    os.killpg(alive.pid, signal.SIGTERM)
    alive.communicate(timeout=60)
    assert names(pymachine) == []


def test_prune_does_not_remove_a_kept_machine(pymachine: Pymachine) -> None:
    outcome = pymachine("run", *NONE, "--keep", "--name", "kept", "--", "true")
    assert 'The machine "kept" is kept' in outcome.stderr
    pymachine("prune")
    assert names(pymachine) == ["kept"]


def test_create_removes_expired_machines(pymachine: Pymachine) -> None:
    pymachine("create", *NONE, "--ttl", "1s", "short")
    time.sleep(1.5)
    outcome = pymachine("create", *NONE, "--ttl", "1h30m", "long")
    assert 'Removed "short": its time to live ended' in outcome.stdout
    assert names(pymachine) == ["long"]
    left = json.loads((pymachine.store / "machines/long/config.json").read_text())["Expires"] - time.time()
    assert 5300 < left < 5400


@pytest.mark.parametrize("text", ["2", "-1h", "soon", ""])
def test_an_invalid_time_to_live_is_refused(pymachine: Pymachine, text: str) -> None:
    outcome = pymachine("create", *NONE, f"--ttl={text}", "x", code=None)
    if text:
        assert outcome.code == 1
        assert re.search(rf'invalid value "{re.escape(text)}" for flag -ttl: expected a duration', outcome.stderr)
        assert names(pymachine) == []


def test_create_makes_several_machines_and_reports_an_existing_one(pymachine: Pymachine) -> None:
    pymachine("create", *NONE, "b")
    outcome = pymachine("create", *NONE, "a", "b", "c", code=1)
    assert 'Docker machine "b" already exists' in outcome.stderr
    assert names(pymachine) == ["a", "b", "c"]
    assert "(a) Creating machine..." in outcome.stdout
    assert outcome.stdout.count("To see how to connect") == 2
