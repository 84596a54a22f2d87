"""Programs run on a terminal, and what must not reach it."""

from __future__ import annotations

import os
import pty
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

# What progress on a terminal is drawn with: back to the beginning of the line, and erase it.
REDRAW = b"\r\x1b[K"
# `ls --watch`: to the upper left corner, and erase all.
CLEAR = b"\x1b[H\x1b[2J"
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def run(
    argv: Sequence[str | Path], *, env: Mapping[str, str], stdin: bytes = b"", timeout: float = 120
) -> tuple[int, bytes]:
    """Run a program whose stdout and stderr are a terminal; its exit code, and the bytes that the terminal got."""
    ours, theirs = pty.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST  # line feeds as they are written
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, env=dict(env), start_new_session=True
    )
    os.close(theirs)
    assert process.stdin is not None
    process.stdin.write(stdin)
    process.stdin.close()
    said = []
    try:
        while data := _read(ours):
            said.append(data)
        return process.wait(timeout), b"".join(said)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's end of a terminal that its last program has closed
        return b""


def unwanted(said: bytes) -> list[str]:
    """The control characters in what a terminal got, but line feeds, tabs and pymachine's own sequences."""
    own = said.replace(REDRAW, b"").replace(CLEAR, b"")
    text = own.decode(errors="surrogateescape")
    return sorted({c for c in text if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" or c in _BIDI or _raw(c)})


def _raw(character: str) -> bool:
    """Whether it stands for a byte that is no UTF-8."""
    return "\udc80" <= character <= "\udcff"
