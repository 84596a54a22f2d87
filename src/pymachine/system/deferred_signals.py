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

    For what must not be left in the middle: the start of a program, which would run on with nobody who knows of it, or
    a message that is half read. Signals that are ignored (`nohup`) stay so, since a program that is started inherits
    that.
    """
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        came.append(number)

    now = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING)}
    before = {number: handler for number, handler in now.items() if handler is not signal.SIG_IGN}

    def release() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        first, came[:] = came[:1], []
        for number in first:
            signal.raise_signal(number)

    try:
        for number in before:
            signal.signal(number, remember)
        yield release
    finally:
        release()
