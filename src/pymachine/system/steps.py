"""What progress shows: steps, and rows of operations that run in parallel."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pymachine.system.progress import Reporter, Task

# As in docker-machine: "Creating machine...", "Docker is up and running!"
_STEP_ENDINGS = ("...", "!")


class Step:
    """A task and how much of it is done. Several threads may report at once."""

    def __init__(self, title: str, total: int | None, unit: str) -> None:
        self.title = title
        self.total = total
        self.unit = unit
        self.done = 0
        self.text = ""
        self.began = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more bytes or pieces."""
        with self._lock:
            self.done += amount

    def note(self, text: str) -> None:
        """Keep `text`, which is shown after the title."""
        self.text = text

    def seconds(self) -> float:
        """Return for how long the step has been running."""
        return time.monotonic() - self.began

    @property
    def percent(self) -> int:
        """How much is done. Zero if the total is unknown."""
        return min(100, 100 * self.done // self.total) if self.total else 0


class LiveRow:
    """A row of the table that shows operations in parallel: the operation's current step.

    Warnings are written above the table, and messages that are no steps, such as the fingerprint of a host key.
    """

    def __init__(self, name: str, warn: Callable[[str], None], *, changed: Callable[[LiveRow], None]) -> None:
        self.name = name
        self.text = ""
        self.steps: list[Step] = []
        self.outcome = ""
        self.began = time.monotonic()
        self.lasted = 0.0
        self.warn = warn
        self._changed = changed

    def info(self, text: str) -> None:
        """Show a message in the row if it names a step, else above the table."""
        if text.endswith(_STEP_ENDINGS):
            self.text = text
            self._changed(self)
        else:
            self.warn(text)

    def prefixed(self, prefix: str) -> Reporter:  # noqa: ARG002
        """Return the row itself: it names the machine already."""
        return self

    @contextmanager
    def task(self, title: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        """Show a task in the row. Of several, the last that began is shown."""
        step = Step(title, total, unit)
        self.text = title
        self.steps.append(step)
        self._changed(self)
        try:
            yield step
        finally:
            self.steps.remove(step)

    def end(self, result: str | None) -> None:
        """Show the outcome. When the last row ends, the table becomes ordinary lines."""
        self.outcome = "failed" if result is None else "done"
        self.text = result if result is not None else f"Failed: {self.text}" if self.text else "Failed"
        self.lasted = self.seconds()
        self._changed(self)

    def seconds(self) -> float:
        """Return how long the operation took, or has taken until now."""
        return self.lasted or time.monotonic() - self.began


def is_unicode(encoding: str) -> bool:
    """Return whether `encoding` has the characters of spinners, bars and marks."""
    try:
        "⠋━╸╺✓✗…".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def marks(encoding: str) -> dict[str, str]:
    """Return the sign for each outcome of a row."""
    return {"done": "✓", "failed": "✗"} if is_unicode(encoding) else {"done": "+", "failed": "x"}


def duration(seconds: float) -> str:
    """Return a duration in seconds as text: "12 s", "2:05"."""
    return f"{seconds:.0f} s" if seconds < 59.5 else clock(seconds)


def clock(seconds: float) -> str:
    """Return a duration in seconds as text: "0:12", "1:02:05"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
