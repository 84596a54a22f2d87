"""Lines at the bottom of a terminal that are redrawn while messages appear above them.

A thread redraws them. It imports `pymachine.system.line_rendering`, and rich with it, only when a step takes longer
than a moment, so that a fast command pays nothing. The cursor is never hidden, so it stays visible if the process is
killed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pymachine.system import printable, streams
from pymachine.system.steps import LiveRow, Step, duration, marks

if TYPE_CHECKING:
    from pymachine.system.line_rendering import Renderer
    from pymachine.system.progress import Reporter
    from pymachine.system.streams import Stream

# Steps that are shorter are not shown.
DELAY_SECONDS = 0.3
REDRAW_SECONDS = 0.1
# Free columns at the right, for the "^C" that the terminal itself writes.
_MARGIN = 3
# A line that is wider than the terminal believes must not wrap, since that would move the lines below it.
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_ERASE_LINE, _ERASE_BELOW = "\x1b[K", "\x1b[J"

# Held while the thread imports and draws. A process that is forked meanwhile would wait for the import for ever.
_at_work = threading.Lock()


def _begin_child() -> None:
    """Let a forked process write as if nothing was drawn: the lines belong to its parent."""
    _at_work.release()
    streams.set_display(None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_at_work.acquire, after_in_parent=_at_work.release, after_in_child=_begin_child)


class LiveLines:
    """The redrawn lines of one terminal: a line for each step and each row that is shown."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._entries: list[Step | LiveRow] = []
        self._rows: list[LiveRow] = []
        self._drawn: list[str] = []  # the lines on the screen
        self._within_line = False
        self._renderer: Renderer | None = None
        self._stop = threading.Event()

    def write(self, text: str) -> None:
        """Write a message of one line above the redrawn ones."""
        with self._lock:
            self._write_above([printable.for_terminal(printable.line(text))])

    @contextmanager
    def shown(self, step: Step) -> Iterator[None]:
        """Show `step` during the block."""
        try:
            self._add(step)
            yield
        finally:
            self._remove([step])

    def row(self, name: str, reporter: Reporter) -> LiveRow:
        """Return a new row for the operation on `name`. Its warnings go to `reporter`.

        The first message of any row shows the table.
        """
        row = LiveRow(name, reporter.prefixed(f"({name}) ").warn, changed=self._row_changed)
        self._rows.append(row)
        return row

    def _row_changed(self, row: LiveRow) -> None:
        with self._lock:
            if row not in self._entries:
                self._add(*self._rows)  # all at once, so that they have the order in which they were requested
            if all(each.outcome for each in self._rows):
                rows, self._rows = self._rows, []
                final = self._renderer.final_lines(rows) if self._renderer else self._plain(rows)
                self._remove(rows, final)

    def _add(self, *entries: Step | LiveRow) -> None:
        with self._lock:
            first = not self._entries
            self._entries += entries
            if first:
                self._stop = threading.Event()
                threading.Thread(target=self._redraw, args=(self._stop,), daemon=True).start()

    def _remove(self, entries: Sequence[Step | LiveRow], final: list[str] | None = None) -> None:
        """Stop showing `entries`, and write the lines `final` above the others."""
        with self._lock:
            self._entries = [each for each in self._entries if each not in entries]
            if not self._entries:
                self._stop.set()
                self._within_line = False
                streams.set_display(None)
            if self._drawn:
                self._put(self._return() + _ERASE_BELOW, [])
                self._draw()
            if final:
                self._write_above(final)

    def _redraw(self, stop: threading.Event) -> None:
        """Redraw the lines until `stop` is set: the thread of this class."""
        if stop.wait(DELAY_SECONDS):
            return
        with _at_work:
            from pymachine.system.line_rendering import Renderer  # noqa: PLC0415 (30 ms, in this thread only)

            self._renderer = self._renderer or Renderer(encoding(self._stream))
        while not stop.is_set():
            with _at_work, self._lock:
                if not stop.is_set():
                    self._draw()
            stop.wait(REDRAW_SECONDS)

    def _draw(self) -> None:
        """Draw the lines in place of those that are on the screen."""
        if self._renderer is None or self._within_line:
            return
        now = time.monotonic()
        lines = self._rendered([each for each in self._entries if now - each.began >= DELAY_SECONDS])
        if lines:
            streams.set_display(self._above)
        if lines or self._drawn:
            self._put(self._return() + _frame(lines), lines)

    def _rendered(self, entries: Sequence[Step | LiveRow]) -> list[str]:
        assert self._renderer is not None  # noqa: S101 (for the type checker)
        columns, rows = _size(self._stream)
        return self._renderer.lines(entries, width=columns - _MARGIN, height=rows - 1)

    def _plain(self, rows: Sequence[LiveRow]) -> list[str]:
        """Return the rows of operations that ended before rich was needed, with the renderer's columns."""
        mark, longest = marks(encoding(self._stream)), max(len(row.name) for row in rows)
        texts = (f"{mark[row.outcome]} {row.name:{longest}} {duration(row.seconds()):>5} {row.text}" for row in rows)
        return [printable.for_terminal(printable.line(text)) for text in texts]

    def _write_above(self, texts: list[str]) -> None:
        before = self._return() + _ERASE_BELOW if self._drawn else ""
        after = _frame(self._drawn) if self._drawn else ""
        self._put(before + "".join(f"{text}\n" for text in texts) + after, self._drawn)

    @contextmanager
    def _above(self, text: str) -> Iterator[None]:
        """Erase the lines while another part of the program writes `text`. The thread draws them again."""
        with self._lock:
            if self._drawn:
                self._put(self._return() + _ERASE_BELOW, [])
            yield
            self._within_line = not text.endswith("\n")

    def _return(self) -> str:
        """Return the sequence that moves the cursor from the end of the lines to their beginning.

        A window that became narrower has wrapped them, or will. To count that would be a guess, and a wrong one would
        erase messages above. So the upper part of such lines stays.
        """
        return f"\r\x1b[{len(self._drawn) - 1}A" if len(self._drawn) > 1 else "\r"

    def _put(self, text: str, drawn: list[str]) -> None:
        """Write `text` at once, so that an interrupt cannot cut it. Then the lines `drawn` are on the screen."""
        self._drawn = drawn
        streams.write_control(self._stream, text)
        self._stream.flush()


def encoding(stream: Stream) -> str:
    """Return the encoding of `stream`."""
    return getattr(stream, "encoding", None) or sys.stdout.encoding or "utf-8"


def _frame(lines: list[str]) -> str:
    return _NO_WRAP + f"{_ERASE_LINE}\r\n".join(lines) + _ERASE_BELOW + _WRAP


def _size(stream: Stream) -> tuple[int, int]:
    """Return the terminal's columns and rows now: the user may have resized it."""
    try:
        size = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        return 80, 24
    return size.columns or 80, size.lines or 24
