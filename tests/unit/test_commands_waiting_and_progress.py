"""Running outside commands, waiting, and progress messages."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pymachine.errors import CommandError, TimeoutExpiredError
from pymachine.system import run as run_module
from pymachine.system.progress import human
from pymachine.system.run import (
    CommandFailedError,
    CommandNotFoundError,
    CommandOutputError,
    CommandTimeoutError,
    quote,
    run,
)
from pymachine.system.stream_reporter import StreamReporter
from pymachine.system.wait import Deadline, GrowingPause, until
from support import processes


def test_run_returns_output_and_exit_code() -> None:
    result = run(["sh", "-c", "cat; echo err >&2"], stdin="in")
    assert (result.returncode, result.stdout, result.stderr) == (0, "in", "err\n")


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert run(["printf", r"\377"]).stdout == "\ufffd"


def test_each_kind_of_failure_has_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(CommandNotFoundError, match="no-such-program: command not found"):
        run(["no-such-program"])
    with pytest.raises(CommandFailedError, match="exit code 3") as failed:
        run(["sh", "-c", "echo why >&2; exit 3"])
    assert failed.value.details == "why"
    with pytest.raises(CommandFailedError, match="was ended by SIGKILL") as killed:
        run(["sh", "-c", "kill -9 $$"])
    assert killed.value.result.returncode == -signal.SIGKILL
    with pytest.raises(CommandTimeoutError, match="did not end within 0.2 seconds"):
        run(["sleep", "30"], timeout=0.2)
    with pytest.raises(CommandError, match="no folder"):
        run(["true"], cwd=tmp_path / "none")
    assert run(["false"], check=False).returncode == 1


@pytest.mark.parametrize("where", ["1", "2"], ids=["stdout", "stderr"])
def test_a_program_with_endless_output_is_ended(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setattr(run_module, "MOST_OUTPUT", 100_000)
    assert len(run(["head", "-c", "100000", "/dev/zero"]).stdout) == 100_000
    with pytest.raises(CommandOutputError, match="sh printed more than 100000 bytes, and was ended: sh -c"):
        run(["sh", "-c", f"head -c 3000000 /dev/zero >&{where}; sleep 0"], timeout=60)


def test_a_program_may_ignore_its_input_or_leave_a_child_behind() -> None:
    assert run(["true"], stdin=b"x" * 1_000_000).returncode == 0
    with pytest.raises(CommandTimeoutError, match="did not end within 0.3 seconds"):
        run(["sh", "-c", "sleep 20 & exit 0"], timeout=0.3)


def test_a_program_may_clean_up_after_an_interrupt(tmp_path: Path) -> None:
    """The terminal interrupts both processes, so the program is not killed at once."""
    command = "trap 'echo cleaned > done; exit' INT; echo > begun; while :; do sleep 0.01; done"
    # A busy host may need more time than a user would wait.
    code = f"from pymachine.system import run; run._INTERRUPTED_SECONDS = 60.0; run.run(['sh', '-c', {command!r}])"
    with processes.started([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE) as running:
        until((tmp_path / "begun").exists, deadline=60.0, what="the program to begin")
        os.killpg(running.pid, signal.SIGINT)
        until((tmp_path / "done").exists, deadline=60.0, what="the program to clean up")
        running.wait()


def test_a_shell_reads_quoted_arguments_unchanged() -> None:
    argv = [sys.executable, "a b", "$x", "it's"]
    assert run(["sh", "-c", f"printf '%s|' {quote(argv[1:])}"]).stdout == "a b|$x|it's|"


def test_a_pause_grows_until_a_connection_has_worked_for_long() -> None:
    pause = GrowingPause(first=1.0, longest=5.0)
    assert [pause.after(lasted) for lasted in (0.0, 0.0, 5.0, 0.0, 5.1, 0.0)] == [1.0, 2.0, 4.0, 5.0, 1.0, 2.0]


def test_until_returns_the_result_or_names_what_it_waited_for() -> None:
    answers = iter([None, "", "yes"])
    assert until(lambda: next(answers), deadline=5, what="an answer", interval=0.001) == "yes"
    with pytest.raises(TimeoutExpiredError, match="the moon: not within 0.05 seconds"):
        until(lambda: None, deadline=Deadline(0.05), what="the moon", interval=0.01)


def test_until_checks_once_even_without_time() -> None:
    asked = []
    with pytest.raises(TimeoutExpiredError):
        until(lambda: asked.append(1), deadline=0.0, what="nothing")
    assert len(asked) == 1


def test_plain_streams_get_lines_without_control_characters() -> None:
    stream = io.StringIO()
    reporter = StreamReporter(stream)
    with reporter.prefixed("(intro) ").task("Downloading", total=4, unit="B") as task:
        task.advance(2)
        reporter.info("news")
        task.advance(2)
    assert stream.getvalue() == "(intro) Downloading 0% (0 B of 4 B)\nnews\n"


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [(0, "B", "0 B"), (2048, "B", "2 KiB"), (5 << 20, "B", "5.0 MiB"), (3 << 30, "B", "3.0 GiB"), (7, "", "7")],
)
def test_amounts_have_readable_units(amount: int, unit: str, text: str) -> None:
    assert human(amount, unit) == text
