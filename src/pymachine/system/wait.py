"""Waiting with a deadline, in one place."""

from __future__ import annotations

import time

from pymachine.errors import TimeoutExpiredError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar  # importing it takes `env` 3 ms

    T = TypeVar("T")

# A socket's timeout of zero would mean that it does not block, with an error of another class.
_SHORTEST_SECONDS = 0.001


class Deadline:
    """A moment on the monotonic clock, `seconds` from now; passed down so that nested waits share it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self, at_most: float | None = None) -> float:
        """Seconds that are left, never negative, and no more than `at_most`."""
        left = max(0.0, self._end - time.monotonic())
        return left if at_most is None else min(left, at_most)

    def socket_timeout(self, at_most: float | None = None) -> float:
        """Seconds that are left, as the timeout of a socket: never zero."""
        return max(self.remaining(at_most), _SHORTEST_SECONDS)

    @property
    def expired(self) -> bool:
        """Whether the moment has come."""
        return time.monotonic() >= self._end


def until(
    check: Callable[[], T | None],
    *,
    deadline: Deadline | float,
    what: str,
    interval: float = 0.05,
    longest: float = 1.0,
) -> T:
    """Call `check` until it returns something true, and return that.

    The pause between calls starts at `interval` seconds and grows by a half each time up to `longest`. What
    `check` raises is passed on. Raises `TimeoutExpiredError`, naming `what`, at the deadline (a `Deadline`, or
    seconds from now); `check` is called at least once, and once more at the very end.
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
