"""Handling of the signals that end a process: exit cleanly, defer, ignore, block."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_TERMINATED = 143
TERMINATION = tuple(number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None)
"""Windows has no SIGHUP."""
ENDING = (signal.SIGINT, *TERMINATION)
"""All signals that end a process politely."""


class Terminated(SystemExit):
    """SIGTERM or SIGHUP came.

    It differs from an interrupt: a program in the foreground receives Ctrl-C itself, but not these.
    """

    def __init__(self) -> None:
        super().__init__(EXIT_TERMINATED)


def exit_on_termination() -> None:
    """Let SIGTERM and SIGHUP raise `Terminated`, so that cleanup runs as after Ctrl-C.

    Later ones are dropped, so that they do not end the cleanup. Signals that are ignored stay ignored.
    """

    def terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        for each in TERMINATION:
            signal.signal(each, _drop)
        raise Terminated

    for number in TERMINATION:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, terminate)


def _drop(number: int, frame: FrameType | None) -> None:
    """Do nothing. Unlike SIG_IGN, child processes do not inherit it."""


def exit_only_on_sigterm() -> None:
    """Let the first SIGTERM raise `Terminated` and ignore all other signals: for a worker that its parent ends.

    A terminal sends Ctrl-C to the workers too. SIGTERM is handled first: one that comes meanwhile must not be lost.
    """

    def terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    for number in ENDING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def deferred() -> Iterator[Callable[[], None]]:
    """Defer signals until the yielded function is called or the block ends.

    For steps that must not be cut in two: the start of a child process, which would run on unknown to us, or the
    reading of a message. Signals that are ignored (`nohup`) stay ignored, since a child process inherits that.
    """
    came: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        came.append(number)

    handlers = {number: signal.getsignal(number) for number in ENDING}
    before = {number: handler for number, handler in handlers.items() if handler is not signal.SIG_IGN}

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


@contextmanager
def ignored() -> Iterator[None]:
    """Ignore signals in the block, such as a cleanup that an impatient user must not end."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def blocked() -> Iterator[None]:
    """Block signals in the block. A process that is forked in it starts with them blocked; see `unblock`."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock() -> None:
    """Unblock the signals that this process inherited as blocked."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
