"""The only way to the standard streams from commands, as `pymachine.system.streams` has prepared them.

click's own `echo` goes around it: it removes escape sequences from what is written to a pipe, and on Windows, or where
the encoding is ASCII, writes to streams of its own.
"""

from __future__ import annotations

import sys


def echo(text: str = "", *, nl: bool = True, err: bool = False) -> None:
    """Write `text`, and a line break with `nl`, to stdout, or to stderr with `err`."""
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{text}\n" if nl else text)
    stream.flush()
