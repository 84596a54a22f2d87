"""Work on several machines at once, in processes that report to one display."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pymachine.cli import parallel
from pymachine.driver.contract import Json
from pymachine.errors import MachineExistsError, PymachineError
from pymachine.system.progress import Reporter, Silent
from support import processes

pytestmark = pytest.mark.usefixtures("interruptible")


class Lines(Silent):
    """Keeps the messages with their prefixes."""

    def __init__(self, lines: list[str] | None = None, prefix: str = "") -> None:
        self.lines = [] if lines is None else lines
        self._prefix = prefix

    def info(self, text: str) -> None:
        self.lines.append(self._prefix + text)

    warn = info

    def prefixed(self, prefix: str) -> Reporter:
        return Lines(self.lines, self._prefix + prefix)


def test_results_and_messages_are_returned_in_order() -> None:
    def act(name: str, reporter: Reporter) -> Json:
        reporter.info("begins")
        with reporter.prefixed("deep ").task("works", total=3, unit="B") as task:
            task.advance(3)
            task.note("done")
        reporter.warn("ends")
        return {"name": name, "pid": os.getpid()}

    lines = Lines()
    results, errors = parallel.run_in_processes(["b", "a"], act, reporter=lines)
    assert errors == []
    assert [result["name"] for result in results] == ["b", "a"]
    assert len({result["pid"] for result in results} | {os.getpid()}) == 3
    assert sorted(lines.lines) == ["(a) begins", "(a) ends", "(b) begins", "(b) ends"]


def test_an_error_of_one_process_keeps_its_details_and_stops_no_other() -> None:
    def act(name: str, reporter: Reporter) -> Json:
        if name == "bad":
            raise MachineExistsError(name)
        if name == "broken":
            raise ZeroDivisionError
        if name == "dead":
            os._exit(9)
        return name

    results, errors = parallel.run_in_processes(["good", "bad", "broken", "dead"], act, reporter=Silent())
    assert results == ["good"]
    assert [error.code for error in errors] == ["machine-exists", "internal", "remote"]
    assert errors[0].brief == 'Docker machine "bad" already exists'
    assert "Choose another name" in errors[0].hint
    assert "ended with exit code 9" in errors[2].brief
    assert all(isinstance(error, PymachineError) for error in errors)


PROGRAM = """
import pathlib, sys, time
from pymachine.cli import parallel
from pymachine.system import signals
from pymachine.system.progress import Silent
folder = pathlib.Path(sys.argv[1])
def act(name, reporter):
    try:
        (folder / f"{name}.begun").touch()
        time.sleep(600)
    finally:
        time.sleep(0.5)  # undoing takes its time, and is not to be interrupted
        (folder / f"{name}.undone").touch()
signals.exit_on_termination()
parallel.run_in_processes(["one", "two"], act, reporter=Silent())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whole_group", [False, True])
def test_after_an_interrupt_each_process_cleans_up(tmp_path: Path, number: signal.Signals, whole_group: bool) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with processes.started(command, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("*.begun"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(2):  # a second signal, from an impatient user
            (os.killpg if whole_group else os.kill)(process.pid, number)
            time.sleep(0.1)
        assert process.wait(30) != 0
    assert sorted(path.name for path in tmp_path.glob("*.undone")) == ["one.undone", "two.undone"]


class Interrupting(Lines):
    """Raises a signal during a message, or while the reporter of a new process is created."""

    def __init__(self, lines: list[str], prefix: str = "", *, at_start: bool = False) -> None:
        super().__init__(lines, prefix)
        self._at_start = at_start

    def info(self, text: str) -> None:
        signal.raise_signal(signal.SIGINT)
        super().info(text)

    def prefixed(self, prefix: str) -> Reporter:
        if self._at_start:
            os.kill(os.getpid(), signal.SIGINT)
        return Interrupting(self.lines, prefix)


@pytest.mark.timeout(60)
def test_an_interrupt_does_not_cut_a_message() -> None:
    def act(name: str, reporter: Reporter) -> Json:
        reporter.info("begins")
        time.sleep(600)

    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        parallel.run_in_processes(["one"], act, reporter=Interrupting(lines))
    assert lines == ["(one) begins"]
    assert multiprocessing.active_children() == []


@pytest.mark.timeout(60)
def test_an_interrupt_during_the_start_leaves_no_process() -> None:
    def act(name: str, reporter: Reporter) -> Json:
        time.sleep(600)

    with pytest.raises(KeyboardInterrupt):
        parallel.run_in_processes(["one", "two"], act, reporter=Interrupting([], at_start=True))
    assert multiprocessing.active_children() == []
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


@pytest.mark.timeout(60)
def test_a_signal_that_was_missed_is_sent_again() -> None:
    """Python notices a signal that comes just before a wait only after the wait."""

    def act(name: str, reporter: Reporter) -> Json:
        handler = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, handler))
        reporter.info("begins")
        time.sleep(600)

    with pytest.raises(KeyboardInterrupt):
        parallel.run_in_processes(["one"], act, reporter=Interrupting([]))
    assert multiprocessing.active_children() == []


def test_a_process_that_dies_within_a_message_is_an_error() -> None:
    def act(name: str, reporter: Reporter) -> Json:
        pipe = vars(reporter)["_end"]
        os.write(pipe.fileno(), b"\0\0\1\0half")
        os._exit(9)

    results, errors = parallel.run_in_processes(["one"], act, reporter=Silent())
    assert results == []
    assert "ended with exit code 9" in errors[0].brief


class ClosedDisplay(Silent):
    """A display whose reader has ended, as in ``create a b | head -1``."""

    def info(self, text: str) -> None:
        raise BrokenPipeError

    def prefixed(self, prefix: str) -> Reporter:
        return self


@pytest.mark.timeout(60)
def test_a_closed_display_ends_all_processes() -> None:
    def act(name: str, reporter: Reporter) -> Json:
        reporter.info("begins")
        time.sleep(600)

    with pytest.raises(BrokenPipeError):
        parallel.run_in_processes(["one"], act, reporter=ClosedDisplay())
    assert multiprocessing.active_children() == []
