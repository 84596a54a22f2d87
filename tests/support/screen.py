"""A program on an emulated terminal: what a user sees on the screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pyte
from pyte import modes

# Only against hanging: a busy host may need long for a step.
_SECONDS = 120.0


class Screen:
    """The screen of a program that runs."""

    def __init__(self, child: pexpect.spawn, columns: int, rows: int) -> None:
        self._child = child
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.received = b""
        self.shown: set[str] = set()
        """All lines that were on the screen at any time."""

    @property
    def lines(self) -> list[str]:
        """The lines that are not empty, without trailing blanks."""
        return [line.rstrip() for line in self._screen.display if line.strip()]

    @property
    def is_left_usable(self) -> bool:
        """Whether the cursor is visible at the beginning of a line, and lines wrap."""
        cursor = self._screen.cursor
        return not cursor.hidden and cursor.x == 0 and modes.DECAWM in self._screen.mode

    def colours(self, text: str) -> set[str]:
        """Return the colours of the characters of the line that contains `text`."""
        rows = [number for number, line in enumerate(self._screen.display) if text in line]
        return {cell.fg for number in rows for cell in self._screen.buffer[number].values() if cell.data != " "}

    def until(self, seen: Callable[[list[str]], object]) -> list[str]:
        """Wait until `seen` is true of the lines on the screen, and return them."""
        deadline = time.monotonic() + _SECONDS
        while not seen(self.lines):
            assert time.monotonic() < deadline, self.lines
            assert self._receive(), self.lines
        return self.lines

    def ended(self) -> tuple[int, list[str]]:
        """Wait until the program has ended. Return its exit code and the lines on the screen."""
        while self._receive():
            pass
        self._child.close()
        return self._child.exitstatus, self.lines

    def resize(self, columns: int) -> None:
        """Change the width. As in xterm, lines on the screen do not wrap."""
        self._screen.resize(columns=columns)
        self._child.setwinsize(self._screen.lines, columns)

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._child.sendintr()

    def _receive(self) -> bool:
        """Show what the program writes next. Return False if it has ended."""
        try:
            data = self._child.read_nonblocking(65536, timeout=0.2)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.received += data
        self._stream.feed(data)
        self.shown.update(self.lines)
        return True


@contextmanager
def started(
    argv: Sequence[str | Path], *, env: Mapping[str, str], columns: int = 80, rows: int = 24, cwd: Path | None = None
) -> Iterator[Screen]:
    """Start a program on a terminal of that size, and end it at the end of the block."""
    program, *words = map(str, argv)
    child = pexpect.spawn(program, words, env=dict(env), cwd=cwd, dimensions=(rows, columns), timeout=_SECONDS)
    try:
        yield Screen(child, columns, rows)
    finally:
        child.close(force=True)
