"""Signals that wait, so that a program is not started by somebody who is gone by then."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

# Beside SIGINT. Windows has no SIGHUP.
ENDING = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]


@contextmanager
def deferred() -> Iterator[Callable[[], None]]:
    """Have signals wait until the function that this gives is called, or the block has ended.

    For the start of a program: a signal in the middle of it would leave it running with nobody who knows of it. Signals
    that are ignored (`nohup`) stay so, since the program inherits that.
    """
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        came.append(number)

    heeded = [number for number in (signal.SIGINT, *ENDING) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, remember) for number in heeded}

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
