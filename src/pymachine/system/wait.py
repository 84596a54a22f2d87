"""Deadlines, and polling until a condition holds."""

from __future__ import annotations

import time

from pymachine.errors import TimeoutExpiredError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar  # importing it takes `env` 3 ms

    T = TypeVar("T")

# A timeout of zero would make a socket non-blocking, with other errors.
_SHORTEST_SECONDS = 0.001


class Deadline:
    """A moment on the monotonic clock, `seconds` from now. Nested waits share it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self, at_most: float | None = None) -> float:
        """Return the seconds left: at least 0, and no more than `at_most`."""
        left = max(0.0, self._end - time.monotonic())
        return left if at_most is None else min(left, at_most)

    def socket_timeout(self, at_most: float | None = None) -> float:
        """Return the seconds left as the timeout of a socket, which is never 0."""
        return max(self.remaining(at_most), _SHORTEST_SECONDS)

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self._end


class GrowingPause:
    """The pause before a lost connection is opened again: `first` seconds, then twice as long, up to `longest`."""

    def __init__(self, first: float = 1.0, longest: float = 30.0) -> None:
        self._first = first
        self._longest = longest
        self._seconds = 0.0

    def after(self, lasted: float) -> float:
        """Return the next pause in seconds. `lasted` is how long the connection worked.

        After one that worked for longer than the longest pause, the next can probably be opened again soon.
        """
        is_first = lasted > self._longest or not self._seconds
        self._seconds = self._first if is_first else min(self._seconds * 2, self._longest)
        return self._seconds


def until(
    check: Callable[[], T | None],
    *,
    deadline: Deadline | float,
    what: str,
    interval: float = 0.05,
    longest: float = 1.0,
) -> T:
    """Call `check` until it returns a true value, and return that.

    The pause between calls starts at `interval` seconds and grows by half each time, up to `longest`. `deadline` may
    be in seconds from now. `check` is called at least once, and once more at the very end. Errors of `check` are
    passed on. Raises `TimeoutExpiredError`, naming `what`, at the deadline.
    """
    end = deadline if isinstance(deadline, Deadline) else Deadline(deadline)
    pause = interval
    while True:
        last = end.expired
        found = check()
        if found:
            return found
        if last:
            raise TimeoutExpiredError(f"{what}: not within {end.seconds:g} seconds")
        time.sleep(end.remaining(at_most=pause))
        pause = min(pause * 1.5, longest)
