"""Progress messages: a redrawn line on a terminal, plain lines elsewhere.

Nothing below `cli` prints; it uses a `Reporter`. As in docker-machine, messages and warnings go to stdout and only
errors to stderr. Commands whose stdout is evaluated (`env`, `config`) have a reporter on stderr.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

from pymachine.system import printable, streams

if TYPE_CHECKING:
    from pymachine.system.streams import Stream

REDRAW_SECONDS = 0.1
TICK_SECONDS = 1.0
# A step that takes longer is shown with its duration.
PATIENCE_SECONDS = 3.0
PLAIN_LINE_SECONDS = 5.0
# Return to the beginning of the line, and erase it.
_ERASE = "\r\x1b[K"


class Task(Protocol):
    """One long step with a known or unknown amount of work. Its methods may be called from any thread."""

    def advance(self, amount: int = 1) -> None:
        """Report that `amount` more bytes or pieces are done."""

    def note(self, text: str) -> None:
        """Show `text`, which may be empty, after the title."""


class Reporter(Protocol):
    """Receives the messages of long steps."""

    def info(self, text: str) -> None:
        """Show a message of one line."""

    def warn(self, text: str) -> None:
        """Show a warning of one line."""

    def task(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """Return a context manager for a long step. It counts bytes if `unit` is "B", and pieces if it is empty."""

    def prefixed(self, prefix: str) -> Reporter:
        """Return this reporter with `prefix` before each line, such as docker-machine's ``(NAME) ``."""


def human(amount: float, unit: str) -> str:
    """Return `amount` as text: bytes in binary multiples, other units unchanged."""
    if unit != "B":
        return f"{amount:.0f}{unit}"
    for prefix in ("", "Ki", "Mi", "Gi"):
        if amount < 1024 or prefix == "Gi":
            return f"{amount:.0f} {prefix}B" if prefix in ("", "Ki") else f"{amount:.1f} {prefix}B"
        amount /= 1024
    raise AssertionError("unreachable")


class StreamReporter:
    """A reporter that writes to a text stream: a redrawn line on a terminal, plain lines elsewhere.

    Several tasks may run in parallel. On a terminal they share the last line.
    """

    def __init__(self, stream: Stream, *, terminal: bool | None = None, rewrite: Callable[[str], str] = str) -> None:
        """`rewrite` is applied to each message, for example to change the names of commands in it."""
        self._stream = stream
        self._rewrite = rewrite
        self._terminal = stream.isatty() and os.environ.get("TERM") != "dumb" if terminal is None else terminal
        self._lock = threading.RLock()
        self._active: list[_StreamTask] = []
        self._drawn_at = 0.0
        self._drawn = False
        self._ticker: threading.Thread | None = None

    def info(self, text: str) -> None:
        """Write a line, above the one that is redrawn."""
        with self._lock:
            self._erase()
            self._stream.write(printable.line(self._rewrite(text)) + "\n")
            self._draw(force=True)
            self._stream.flush()

    def warn(self, text: str) -> None:
        """Write a line. As in docker-machine, the text itself says that it is a warning."""
        self.info(text)

    def prefixed(self, prefix: str) -> Reporter:
        """Return a view of this reporter that puts `prefix` before each line."""
        return _Prefixed(self, prefix)

    @contextmanager
    def task(self, title: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        """Show `title` and the progress during the block: on a terminal all the time, elsewhere now and then."""
        task = _StreamTask(self, title, total, unit)
        with self._lock:
            self._active.append(task)
            self._keep_ticking()
        self.changed(task)
        try:
            yield task
        finally:
            with self._lock:
                self._active.remove(task)
                self._erase()
                self._draw(force=True)
                self._stream.flush()

    def changed(self, task: _StreamTask) -> None:
        """Redraw, or print a plain line, unless that happened a moment ago."""
        with self._lock:
            if self._terminal:
                self._draw()
                self._stream.flush()
            elif task.due():
                self._stream.write(printable.line(task.line()) + "\n")
                self._stream.flush()

    def _keep_ticking(self) -> None:
        """Redraw the line once a second, so that a step without messages does not look hung."""
        if self._terminal and (self._ticker is None or not self._ticker.is_alive()):
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()

    def _tick(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            with self._lock:
                if not self._active:
                    self._ticker = None
                    return
                self._draw()
                self._stream.flush()

    def _draw(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if not self._terminal or not self._active or (not force and now - self._drawn_at < REDRAW_SECONDS):
            return
        self._drawn_at = now
        width = _terminal_width(self._stream)
        line = printable.for_terminal(printable.line("  ".join(task.line() for task in self._active)))
        streams.write_control(self._stream, _ERASE + line[: width - 1])
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            streams.write_control(self._stream, _ERASE)
            self._drawn = False


class _StreamTask:
    def __init__(self, reporter: StreamReporter, title: str, total: int | None, unit: str) -> None:
        self._reporter = reporter
        self._title = title
        self._total = total
        self._unit = unit
        self._done = 0
        self._note = ""
        self._began = self._said_at = time.monotonic()
        self._said = False

    def advance(self, amount: int = 1) -> None:
        self._done += amount
        self._reporter.changed(self)

    def note(self, text: str) -> None:
        self._note = text
        self._reporter.changed(self)

    def due(self) -> bool:
        """Return whether to print a plain line now: at the start, then every few seconds."""
        now = time.monotonic()
        if self._said and now - self._said_at < PLAIN_LINE_SECONDS:
            return False
        self._said, self._said_at = True, now
        return True

    def line(self) -> str:
        parts = [self._title]
        if self._total:
            percent = min(100, 100 * self._done // self._total)
            parts.append(f"{percent}% ({human(self._done, self._unit)} of {human(self._total, self._unit)})")
        elif self._done:
            parts.append(human(self._done, self._unit))
        seconds = time.monotonic() - self._began
        if self._unit == "B" and self._done and seconds > 1:
            parts.append(f"{human(self._done / seconds, 'B')}/s")
        if self._note:
            parts.append(self._note)
        if not self._done and seconds >= PATIENCE_SECONDS:
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


class Terse:
    """A view of a reporter that passes on warnings and progress, but no other messages."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner

    def info(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Pass it on."""
        self._inner.warn(text)

    def prefixed(self, prefix: str) -> Reporter:
        """Return such a view of the reporter with that prefix."""
        return Terse(self._inner.prefixed(prefix))

    def task(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """Pass it on."""
        return self._inner.task(title, total=total, unit=unit)


class Silent:
    """A reporter that shows nothing, for library use and tests."""

    def info(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""

    def prefixed(self, prefix: str) -> Reporter:  # noqa: ARG002
        """Return itself."""
        return self

    @contextmanager
    def task(self, title: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:  # noqa: ARG002
        """Return a context manager whose task shows nothing."""
        yield _SilentTask()


class _SilentTask:
    def advance(self, amount: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def _terminal_width(stream: Stream) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
