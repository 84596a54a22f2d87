"""Print to the standard streams that `pymachine.system.streams` has prepared. All commands print through this module.

click's `echo` would bypass these streams: it removes escape sequences from output to a pipe, and on Windows, or with
an ASCII encoding, it opens its own streams.
"""

from __future__ import annotations

import sys


def echo(text: str = "", *, nl: bool = True, err: bool = False) -> None:
    """Write `text` to stdout (with `err`: stderr), followed by a line break unless `nl` is false."""
    stream = sys.stderr if err else sys.stdout
    stream.write(f"{text}\n" if nl else text)
    stream.flush()
