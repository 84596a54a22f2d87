"""Format rows of cells as an aligned table."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pymachine.system import printable

_NARROWEST = 5
_PADDING = 3


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows`, which have the same length, as lines with aligned columns. The first row is the header."""
    return "\n".join(line.rstrip() for line in align([[cell(text) for text in row] for row in rows]))


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose columns are aligned as by Go's tabwriter: at least 5 wide, 3 blanks between.

    The last cell of a row has no width, so that rows may differ in length.
    """
    widths = [
        max((max(_NARROWEST, len(row[column]) + _PADDING) for row in rows if column < len(row) - 1), default=0)
        for column in range(max(map(len, rows), default=0))
    ]
    return [
        "".join(text.ljust(widths[column]) if column < len(row) - 1 else text for column, text in enumerate(row))
        for row in rows
    ]


def cell(text: str) -> str:
    """Return `text` as a table cell: without line breaks, and escaped as stdout will show it."""
    shown = printable.line(text)
    return printable.for_terminal(shown) if sys.stdout.isatty() else shown
