"""Signals: an orderly end when one comes, and none while what was begun has to be finished."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pymachine.cli import errors

# Windows has no SIGHUP.
_ENDING = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]


def listen() -> None:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does, so that what was half-made is undone.

    The first one counts: what it began to undo is not left half undone by another.
    """

    def terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for each in _ENDING:
            signal.signal(each, _pass)
        raise errors.Terminated(errors.EXIT_TERMINATED)

    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, terminate)


@contextmanager
def deferred() -> Iterator[Callable[[], None]]:
    """Have signals wait until the function that this gives is called, or the block has ended.

    For the start of a program: a signal in the middle of it would leave it running with nobody who knows of it.
    """
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        came.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, *_ENDING)}

    def release() -> None:
        while before:
            signal.signal(*before.popitem())
        first, came[:] = came[:1], []
        for number in first:
            signal.raise_signal(number)

    try:
        yield release
    finally:
        release()


def _pass(number: int, frame: FrameType | None) -> None:
    """Do nothing. Unlike SIG_IGN, programs that are started do not inherit it."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Do the block to its end, whoever loses patience."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *_ENDING)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
