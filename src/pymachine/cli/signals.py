"""Signals: an orderly end when one comes, and none while what was begun has to be finished."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pymachine.cli import errors
from pymachine.system.deferred_signals import ENDING


def listen() -> None:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does, so that what was half-made is undone.

    The first one counts: what it began to undo is not left half undone by another.
    """

    def terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for each in ENDING:
            signal.signal(each, _pass)
        raise errors.Terminated(errors.EXIT_TERMINATED)

    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, terminate)


def _pass(number: int, frame: FrameType | None) -> None:
    """Do nothing. Unlike SIG_IGN, programs that are started do not inherit it."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Do the block to its end, whoever loses patience."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *ENDING)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
