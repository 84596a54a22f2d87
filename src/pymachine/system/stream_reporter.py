"""Show progress messages: redrawn lines on a terminal (`pymachine.system.live_lines`), plain lines elsewhere.

As in docker-machine, messages and warnings go to stdout and only errors to stderr. Commands whose stdout is evaluated
(`env`, `config`) have a reporter on stderr.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from pymachine.system import printable
from pymachine.system.progress import Reporter, Row, Task, human
from pymachine.system.steps import Step

if TYPE_CHECKING:
    from pymachine.system.live_lines import LiveLines
    from pymachine.system.streams import Stream

# A step that takes longer is shown with its duration.
PATIENCE_SECONDS = 3.0
PLAIN_LINE_SECONDS = 5.0


class StreamReporter:
    """A reporter that writes to a text stream: redrawn lines on a terminal, plain lines elsewhere.

    Several tasks may run in parallel. On a terminal each has a line, as soon as it takes longer than a moment.
    """

    def __init__(self, stream: Stream, *, terminal: bool | None = None, rewrite: Callable[[str], str] = str) -> None:
        """`rewrite` is applied to each message, for example to change the names of commands in it."""
        self._stream = stream
        self._rewrite = rewrite
        self._terminal = stream.isatty() and os.environ.get("TERM") != "dumb" if terminal is None else terminal
        self._lock = threading.RLock()

    @cached_property
    def _live(self) -> LiveLines:
        from pymachine.system.live_lines import LiveLines  # noqa: PLC0415 (only on a terminal)

        return LiveLines(self._stream)

    def info(self, text: str) -> None:
        """Write a line. On a terminal it appears above the redrawn lines."""
        text = self._rewrite(text)
        if self._terminal:
            self._live.write(text)
        else:
            self._write(text)

    def warn(self, text: str) -> None:
        """Write a line. As in docker-machine, the text itself says that it is a warning."""
        self.info(text)

    def prefixed(self, prefix: str) -> Reporter:
        """Return a view of this reporter that puts `prefix` before each line."""
        return _Prefixed(self, prefix)

    def row(self, name: str) -> Row:
        """Return the reporter of one of several operations: on a terminal a row of a table, elsewhere prefixed lines.

        Request the rows of all operations before the first message of any.
        """
        return self._live.row(name, self) if self._terminal else _PlainRow(self, f"({name}) ")

    @contextmanager
    def task(self, title: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        """Show `title` and the progress during the block: on a terminal all the time, elsewhere now and then."""
        if self._terminal:
            step = Step(title, total, unit)
            with self._live.shown(step):
                yield step
        else:
            yield _PlainTask(Step(title, total, unit), self._write, self._lock)

    def _write(self, text: str) -> None:
        with self._lock:
            self._stream.write(printable.line(text) + "\n")
            self._stream.flush()


class _PlainTask:
    """A task whose progress is printed as lines: at the start, then every few seconds."""

    def __init__(self, step: Step, write: Callable[[str], None], lock: threading.RLock) -> None:
        self._step = step
        self._write = write
        self._lock = lock
        self._written_at = 0.0
        self._changed(first=True)

    def advance(self, amount: int = 1) -> None:
        self._step.advance(amount)
        self._changed()

    def note(self, text: str) -> None:
        self._step.note(text)
        self._changed()

    def _changed(self, *, first: bool = False) -> None:
        with self._lock:
            now = time.monotonic()
            if first or now - self._written_at >= PLAIN_LINE_SECONDS:
                self._written_at = now
                self._write(self._line())

    def _line(self) -> str:
        step, seconds = self._step, self._step.seconds()
        parts = [step.title]
        if step.total:
            parts.append(f"{step.percent}% ({human(step.done, step.unit)} of {human(step.total, step.unit)})")
        elif step.done:
            parts.append(human(step.done, step.unit))
        if step.unit == "B" and step.done and seconds > 1:
            parts.append(f"{human(step.done / seconds, 'B')}/s")
        if step.text:
            parts.append(step.text)
        if not step.done and seconds >= PATIENCE_SECONDS:
            parts.append(f"{seconds:.0f} s")
        return " ".join(parts)


class _Prefixed:
    def __init__(self, inner: Reporter, prefix: str) -> None:
        self._inner = inner
        self._prefix = prefix

    def info(self, text: str) -> None:
        self._inner.info(self._prefix + text)

    def warn(self, text: str) -> None:
        self._inner.warn(self._prefix + text)

    def prefixed(self, prefix: str) -> Reporter:
        return _Prefixed(self._inner, self._prefix + prefix)

    def task(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Task]:
        return self._inner.task(self._prefix + title, total=total, unit=unit)


class _PlainRow(_Prefixed):
    def end(self, result: str | None) -> None:
        """Do nothing: the caller prints results and errors."""
