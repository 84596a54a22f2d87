"""Format rows of cells as an aligned table."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pymachine.system import printable


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows`, which have the same length, as lines with aligned columns. The first row is the header."""
    cells = [[cell(text) for text in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(rows[0]))]
    return "\n".join(
        "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def cell(text: str) -> str:
    """Return `text` as a table cell: without line breaks, and escaped as stdout will show it."""
    shown = printable.line(text)
    return printable.for_terminal(shown) if sys.stdout.isatty() else shown
