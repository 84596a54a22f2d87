"""Signals: an orderly end when one comes, and none while what was begun has to be finished."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pymachine.cli import errors

# Windows has no SIGHUP.
_ENDING = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]


def listen() -> None:
    """Let SIGTERM and SIGHUP end a run as Ctrl-C does, so that what was half-made is undone."""

    def terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise errors.Terminated(errors.EXIT_TERMINATED)

    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, terminate)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Do the block to its end, whoever loses patience."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *_ENDING)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
