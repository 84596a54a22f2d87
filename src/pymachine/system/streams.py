"""Prepare the standard streams for hosts where they are closed, full, or not in UTF-8.

`env` uses this in every prompt, so it imports only modules that Python has loaded already.
"""

from __future__ import annotations

import _thread
import codecs
import errno
import io
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any, Protocol, TextIO  # importing it takes `env` 3 ms

    class Stream(Protocol):
        """The part of a stream that a reporter needs."""

        def write(self, text: str, /) -> int:
            """Write `text`, and return its length."""

        def flush(self) -> None:
            """Write the buffered text."""

        def isatty(self) -> bool:
            """Return whether it is a terminal."""

        def fileno(self) -> int:
            """Return its file descriptor."""


_ESCAPE = "pymachine-escape"
# Returns a context manager for writing a text to the terminal above redrawn lines; None while there are none.
_display: Callable[[str], AbstractContextManager[None]] | None = None


class OutputError(BaseException):
    """Standard output cannot be written: it is closed, full, or its reader has ended.

    Like an interrupt it is no `Exception`: a driver or the image builder that reports its progress must not handle it
    as a failure of its own.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.why = error.strerror or str(error)
        self.reader_ended = error.errno == errno.EPIPE


def prepare() -> None:
    """Make the standard streams fail in known ways. Call it once, before anything is read, opened or written."""
    for number in range(3):
        _occupy(number)
    if sys.platform != "win32":
        for number in (1, 2):  # a program that shares the terminal or the pipe may have made it non-blocking
            os.set_blocking(number, True)
    codecs.register_error(_ESCAPE, _escape)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if type(sys.stdin) is io.TextIOWrapper:
        sys.stdin.reconfigure(errors="replace")  # input that is not text means no, and is not an error
    sys.stdout = _replaced(sys.stdout, 1, _Output)
    sys.stderr = _replaced(sys.stderr, 2, _Errors)


def _occupy(number: int) -> None:
    """Open the descriptor `number` if it is closed. Otherwise the next file to be opened gets it, and is written to.

    Writing to it still fails, and reading from it ends at once.
    """
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDONLY)  # takes the lowest number that is free, since those below are open
        os.set_inheritable(number, True)  # noqa: FBT003


def _replaced(stream: TextIO | None, number: int, kind: type[_Guarded]) -> TextIO:
    """Return `stream` as one of `kind`. A stream that is not Python's own (a test's) is returned unchanged."""
    if stream is None:
        return kind(io.BufferedWriter(io.FileIO(number, "w", closefd=False)), encoding="utf-8", errors=_ESCAPE)
    if type(stream) is not io.TextIOWrapper:
        return stream
    encoding, lines = stream.encoding, stream.line_buffering
    return kind(stream.detach(), encoding=encoding, errors=_ESCAPE, line_buffering=lines)


class _Guarded(io.TextIOWrapper):
    """A stream that discards everything after its first failure.

    On a terminal control characters are escaped; see `pymachine.system.printable`.
    """

    def write(self, text: str, /) -> int:
        if self.isatty():
            from pymachine.system import printable  # noqa: PLC0415 (`env` mostly writes to a pipe)

            escaped = printable.for_terminal(text)
            if _display is None or not escaped:
                self.write_control(escaped)
            else:
                with _display(escaped):
                    self.write_control(escaped)
                    _Guarded.flush(self)  # before the lines are drawn again
        else:
            self.write_control(text)
        return len(text)

    def write_control(self, text: str) -> None:
        """Write `text` unchanged, for our own control sequences."""
        try:
            super().write(text)
        except OSError as error:
            self.failed(error)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.failed(error)

    def failed(self, error: OSError) -> None:  # noqa: ARG002
        """Redirect to the null device, so that neither later messages nor Python's last flush fail again."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


class _Errors(_Guarded):
    """Standard error. A failure is ignored, since it cannot be reported anywhere."""


class _Output(_Guarded):
    """Standard output. A failure is raised once, in the main thread, at the latest by the flush that ends a run."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._failure: OSError | None = None
        self._main_thread = _thread.get_ident()

    def write(self, text: str, /) -> int:
        self._raise()
        written = super().write(text)
        self._raise()
        return written

    def flush(self) -> None:
        super().flush()
        self._raise()

    def failed(self, error: OSError) -> None:
        super().failed(error)
        self._failure = error

    def put_message(self, text: str) -> None:
        """Write and flush a progress message.

        A full disk does not stop the command; a reader that has ended does, as SIGPIPE would.
        """
        super().write(text)
        self._flush_message()

    def put_control(self, text: str) -> None:
        """Write and flush our own control sequences. For failures see `put_message`."""
        self.write_control(text)
        self._flush_message()

    def _flush_message(self) -> None:
        super().flush()
        if self._failure is not None and self._failure.errno == errno.EPIPE:
            self._raise()

    def _raise(self) -> None:
        # Only the main thread can end the program.
        if self._failure is not None and _thread.get_ident() == self._main_thread:
            failure, self._failure = self._failure, None
            raise OutputError(failure)


class _Messages:
    """Standard output for progress messages; see `_Output.put_message`."""

    def __init__(self, output: _Output) -> None:
        self._output = output
        self.isatty = output.isatty
        self.fileno = output.fileno
        self.encoding = output.encoding

    def write(self, text: str) -> int:
        self._output.put_message(text)
        return len(text)

    def write_control(self, text: str) -> None:
        self._output.put_control(text)

    def flush(self) -> None:
        self._output.put_message("")


def for_messages(stream: TextIO) -> Stream:
    """Return `stream` for progress messages, whose loss must not stop the command."""
    return _Messages(stream) if isinstance(stream, _Output) else stream


def set_display(above: Callable[[str], AbstractContextManager[None]] | None) -> None:
    """Set the context manager in which the standard streams write to a terminal while redrawn lines are on it."""
    global _display  # noqa: PLW0603 (as the streams, it exists once in a process)
    _display = above


def write_control(stream: Stream, text: str) -> None:
    """Write our own control sequences without escaping them."""
    write: Callable[[str], object] = getattr(stream, "write_control", stream.write)
    write(text)


def _escape(error: UnicodeError) -> tuple[bytes, int]:
    """Encode the undecodable bytes of a file name as themselves, and other characters as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return b"".join(_bytes(character) for character in text), error.end


def _bytes(character: str) -> bytes:
    code = ord(character)
    return bytes([code - 0xDC00]) if 0xDC80 <= code <= 0xDCFF else character.encode("ascii", "backslashreplace")
