"""Run programs on a terminal, and find control characters that must not reach it."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

# Sent to redraw progress: move to the start of the lines, erase, wrap no lines, line breaks between them.
REDRAW = re.compile(rb"\r\x1b\[\d+A|\r(?=\x1b\[\?7l|\x1b\[J)|\x1b\[J|\x1b\[\?7[lh]|\x1b\[K\r\n")
# The colours of progress: none, cyan, dim, green, grey, bold red.
COLOUR = re.compile(rb"\x1b\[(?:0|36|2|32|90|1;31)m")
# Sent by `ls --watch`: move to the upper left corner and erase the screen.
CLEAR = b"\x1b[H\x1b[2J"
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def run(
    argv: Sequence[str | Path], *, env: Mapping[str, str], stdin: bytes = b"", timeout: float = 120
) -> tuple[int, bytes]:
    """Run a program on a terminal; return its exit code and the bytes that the terminal received."""
    ours, theirs = pty.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST  # keep line feeds unchanged
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, env=dict(env), start_new_session=True
    )
    os.close(theirs)
    assert process.stdin is not None
    process.stdin.write(stdin)
    process.stdin.close()
    output = []
    try:
        while data := _read(ours):
            output.append(data)
        return process.wait(timeout), b"".join(output)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux reports so that the last program has closed the terminal
        return b""


def unwanted(output: bytes) -> list[str]:
    """Return the control characters in `output`, except line feeds, tabs and pymachine's own sequences."""
    rest = COLOUR.sub(b"", REDRAW.sub(b"", output)).replace(CLEAR, b"")
    text = rest.decode(errors="surrogateescape")
    return sorted({c for c in text if (c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" or c in _BIDI or _raw(c)})


def _raw(character: str) -> bool:
    """Return whether the character stands for a byte that is not UTF-8."""
    return "\udc80" <= character <= "\udcff"
