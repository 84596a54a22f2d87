"""Signals and processes of tests: what is started has the usual signals, and is ended with its test."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def give_children_default_signals() -> None:
    """Have programs that are started take the signals that end them, where the test run itself ignores them.

    A shell starts ``make test &`` with SIGINT ignored, and `nohup` ignores SIGHUP; an ignored signal is inherited, a
    handler is not. The test run goes on as before.
    """
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _go_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def _go_on(number: int, frame: FrameType | None) -> None:
    """Do nothing."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT in the block, whatever this process did with it before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def started(argv: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """A program in a process group of its own, which is killed with all that it started when the block ends."""
    process = subprocess.Popen(argv, start_new_session=True, **options)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a program that leads a process group, and what is left of the group; close our ends of its pipes."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.close()


def parent(pid: int) -> int:
    """The process that started `pid`; 0 if there is no such process (any more)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(status.rpartition(")")[2].split()[1])  # the name before it may have blanks and parentheses
