"""Render the redrawn lines of a terminal with rich: layout for any width, bars, colours.

Texts come from guests and mirrors too. They are escaped, and passed to rich as `Text`, which interprets no markup.
"""

from __future__ import annotations

import io
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.text import Text

from pymachine.system import printable
from pymachine.system.progress import human
from pymachine.system.steps import LiveRow, Step, clock, duration, is_unicode, marks

if TYPE_CHECKING:
    from rich.console import OverflowMethod

# Longer lines are hard to read, and wrap if the window becomes narrower.
MOST_COLUMNS = 110
_UNLIMITED = 10_000
_SHORTEST_BAR, _LONGEST_BAR = 8, 30
_RATE_SECONDS = 10.0
_LONGEST_REST_SECONDS = 100 * 3600.0
# More of a text is never visible.
_MOST_CHARACTERS = 1000
# In the order in which they are shown, with their styles.
_FIGURES = {"percent": "cyan", "amount": "", "speed": "", "left": "", "lasted": "dim"}
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ASCII_SPINNER = "|/-\\"
_STYLES = {"done": "green", "failed": "bold red"}


class Renderer:
    """Renders steps and rows as lines, in the colours that TERM, COLORTERM and NO_COLOR allow."""

    def __init__(self, encoding: str) -> None:
        """`encoding` decides between line-drawing characters and ASCII."""
        unicode = is_unicode(encoding)
        self._spinner = _SPINNER if unicode else _ASCII_SPINNER
        self._marks = marks(encoding)
        self._overflow: OverflowMethod = "ellipsis" if unicode else "crop"
        self._output = _Output(encoding)
        self._console = Console(
            file=self._output,
            force_terminal=True,
            force_jupyter=False,
            legacy_windows=False,
            no_color=bool(os.environ.get("NO_COLOR")),
            width=MOST_COLUMNS,
        )
        self._rates: WeakKeyDictionary[Step, _Rate] = WeakKeyDictionary()

    def lines(self, entries: Sequence[Step | LiveRow], *, width: int, height: int) -> list[str]:
        """Return at most `height` lines of at most `width` cells.

        Of too many rows, those that have ended are left out first.
        """
        width = max(1, min(width, MOST_COLUMNS))
        shown = list(entries)
        if len(shown) > max(1, height):
            running = [each for each in entries if not (isinstance(each, LiveRow) and each.outcome)]
            shown = (running or shown)[: max(1, height - 1)]
        names = [Text(_clean(each.name)).cell_len for each in entries if isinstance(each, LiveRow)]
        column = min(max(names, default=0), max(4, width // 3))
        texts = [
            self._row(each, column, width) if isinstance(each, LiveRow) else self._step(each, width) for each in shown
        ]
        if len(shown) < len(entries) and height > 1:
            texts.append(self._cut(Text(f"  and {len(entries) - len(shown)} more", "dim"), width))
        return [self._encoded(text) for text in texts]

    def final_lines(self, rows: Sequence[LiveRow]) -> list[str]:
        """Return the lines that remain of rows that have ended. They may wrap."""
        column = max(Text(_clean(row.name)).cell_len for row in rows)
        return [self._encoded(self._row(row, column, _UNLIMITED)) for row in rows]

    def _row(self, row: LiveRow, column: int, width: int) -> Text:
        mark, style = (self._marks[row.outcome], _STYLES[row.outcome]) if row.outcome else self._turning()
        name = self._cut(Text(_clean(row.name)), column)
        name.pad_right(column - name.cell_len)
        head = Text.assemble((mark, style), " ", name, " ")
        if width >= 30:
            head.append(f"{duration(row.seconds()):>5} ", "dim")
        current = [] if row.outcome else row.steps[-1:]  # a copy: another thread may end the step now
        step = current[0] if current else None
        return self._cut(head + self._body(step, row.text, width - head.cell_len), width)

    def _step(self, step: Step, width: int) -> Text:
        mark, style = self._turning()
        head = Text.assemble((mark, style), " ")
        body = self._body(step, step.title, width - head.cell_len, seconds=step.seconds())
        return self._cut(head + body, width)

    def _body(self, step: Step | None, title: str, width: int, *, seconds: float = 0) -> Text:
        """Return the title, and as many of the step's figures as fit. The title gets at least two fifths."""
        text = Text(_clean(step.title if step else title))
        if step is None:
            return text
        least = min(text.cell_len, max(8, 2 * width // 5))
        room = width - least
        shown: dict[str, str] = {}
        for kind, figure in self._figures(step, seconds).items():
            if figure and len(figure) < room:
                shown[kind] = figure
                room -= len(figure) + 1
        text = self._cut(text, least + room)
        room -= text.cell_len - least
        bar = min(_LONGEST_BAR, _SHORTEST_BAR + room) if "bar" in shown else 0
        note = self._cut(Text(_clean(step.text), "dim"), room - 1 - max(0, bar - _SHORTEST_BAR))
        figures = [Text(shown[kind], style) for kind, style in _FIGURES.items() if kind in shown]
        # A note after the figures does not move them when it changes.
        parts = [text, self._bar(step, bar), *figures, note] if step.total else [text, note, *figures]
        return Text(" ").join(part for part in parts if part)

    def _figures(self, step: Step, seconds: float) -> dict[str, str]:
        """Return the step's figures, the most important first. Those that do not apply are empty."""
        rate = self._rates.setdefault(step, _Rate()).per_second(step)
        left = max(0, (step.total or 0) - step.done) / rate if rate else _LONGEST_REST_SECONDS
        amount = human(step.done, step.unit) if step.done else ""
        return {
            "percent": f"{step.percent:3}%" if step.total else "",
            "lasted": "" if step.total or seconds < 1 else duration(seconds),
            "left": f"{clock(left)} left" if step.total and left < _LONGEST_REST_SECONDS else "",
            "speed": f"{human(rate, 'B')}/s" if step.unit == "B" and rate else "",
            "bar": " " * _SHORTEST_BAR if step.total else "",
            "amount": f"{amount} of {human(step.total, step.unit)}" if step.total and amount else amount,
        }

    def _bar(self, step: Step, width: int) -> Text:
        if not width:
            return Text()
        bar = ProgressBar(
            total=step.total,
            completed=min(step.done, step.total or 0),
            width=width,
            style="bright_black",
            complete_style="cyan",
            finished_style="green",
        )
        text = Text()
        for segment in self._console.render(bar, self._console.options.update(width=width)):
            text.append(segment.text, segment.style)
        text.pad_right(width - text.cell_len)  # without colours the rest of the bar is blank
        return text

    def _turning(self) -> tuple[str, str]:
        return self._spinner[int(time.monotonic() * 10) % len(self._spinner)], "cyan"

    def _cut(self, text: Text, width: int) -> Text:
        if width < 1:
            return Text()
        text.truncate(width, overflow=self._overflow)
        return text

    def _encoded(self, text: Text) -> str:
        """Return `text` with the sequences for its colours."""
        self._console.print(text, end="", soft_wrap=True)
        return self._output.taken()


class _Output(io.StringIO):
    """A buffer with the terminal's encoding, by which rich chooses its characters."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def taken(self) -> str:
        """Return the content, and empty the buffer."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


class _Rate:
    """The speed of a step over the last seconds, so that a stalled download shows."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def per_second(self, step: Step) -> float:
        """Add a sample, and return bytes or pieces per second. Zero if it is unknown."""
        now = time.monotonic()
        if not self._samples:
            self._samples.append((step.began, 0))
        self._samples.append((now, step.done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_SECONDS:
            self._samples.popleft()
        (began, before), (end, done) = self._samples[0], self._samples[-1]
        return (done - before) / (end - began) if end - began >= 0.5 else 0.0


def _clean(text: str) -> str:
    return printable.for_terminal(printable.line(text[:_MOST_CHARACTERS]))
