"""The standard streams, prepared for hosts where they are closed, full, or not in UTF-8.

`env` runs through here in every prompt: nothing is imported that Python has not loaded already.
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
    from typing import Any, Protocol, TextIO  # importing it takes `env` 3 ms

    class Stream(Protocol):
        """What a reporter needs of a stream."""

        def write(self, text: str, /) -> int:
            """Write `text`, and return its length."""

        def flush(self) -> None:
            """Write what is still held back."""

        def isatty(self) -> bool:
            """Tell whether it is a terminal."""

        def fileno(self) -> int:
            """Return its descriptor."""


_ESCAPE = "pymachine-escape"


class OutputError(BaseException):
    """Standard output does not take what is written to it: it is closed, full, or its reader has ended.

    Like an interrupt it is no `Exception`: a driver or the image builder that reports its progress must not take it
    for a failure of its own.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.why = error.strerror or str(error)
        self.reader_ended = error.errno == errno.EPIPE


def prepare() -> None:
    """Have the standard streams fail in known ways. Call it once, before anything is read, opened or written."""
    for number in range(3):
        _occupy(number)
    if sys.platform != "win32":
        for number in (1, 2):  # a program that shares the terminal or the pipe may have made it non-blocking
            os.set_blocking(number, True)
    codecs.register_error(_ESCAPE, _escape)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if type(sys.stdin) is io.TextIOWrapper:
        sys.stdin.reconfigure(errors="replace")  # an answer that is no text is a no, and no fault
    sys.stdout = _replaced(sys.stdout, 1, _Output)
    sys.stderr = _replaced(sys.stderr, 2, _Errors)


def _occupy(number: int) -> None:
    """Open the descriptor `number` if it is closed: the next file that is opened would take it, and be written to.

    It stays unusable for what it is for: writing to it is refused, and reading from it ends at once.
    """
    try:
        os.fstat(number)
    except OSError:
        os.open(os.devnull, os.O_RDONLY)  # takes the lowest number that is free, since those below are open
        os.set_inheritable(number, True)  # noqa: FBT003


def _replaced(stream: TextIO | None, number: int, kind: type[_Guarded]) -> TextIO:
    """`stream` as one of `kind`; a stream that is none of Python's own (a test's) is left as it is."""
    if stream is None:
        return kind(io.BufferedWriter(io.FileIO(number, "w", closefd=False)), encoding="utf-8", errors=_ESCAPE)
    if type(stream) is not io.TextIOWrapper:
        return stream
    encoding, lines = stream.encoding, stream.line_buffering
    return kind(stream.detach(), encoding=encoding, errors=_ESCAPE, line_buffering=lines)


class _Guarded(io.TextIOWrapper):
    """A stream whose first failure is its last: from then on it leads nowhere.

    A terminal gets control characters as escapes, whoever wrote them; see `pymachine.system.printable`.
    """

    def write(self, text: str, /) -> int:
        if self.isatty():
            from pymachine.system import printable  # noqa: PLC0415 (`env` mostly writes to a pipe)

            self.write_control(printable.for_terminal(text))
        else:
            self.write_control(text)
        return len(text)

    def write_control(self, text: str) -> None:
        """Write `text` as it is: control sequences of our own."""
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
        """Lead to nowhere, so that neither later messages nor Python's own last flush fail once more."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


class _Errors(_Guarded):
    """Standard error. What it does not take is lost: there is no other place to say so."""


class _Output(_Guarded):
    """Standard output. A failure is raised once, in the main thread: at the latest by the flush that ends a run."""

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
        """Write and flush a message about what is being done.

        A full disk behind it stops nothing that was begun; a reader that ended does, as SIGPIPE would.
        """
        super().write(text)
        self._flush_message()

    def put_control(self, text: str) -> None:
        """Write and flush control sequences of our own, as `put_message` does a message."""
        self.write_control(text)
        self._flush_message()

    def _flush_message(self) -> None:
        super().flush()
        if self._failure is not None and self._failure.errno == errno.EPIPE:
            self._raise()

    def _raise(self) -> None:
        # A display's clock, or one of several machines: the thread is not the one that can end the program.
        if self._failure is not None and _thread.get_ident() == self._main_thread:
            failure, self._failure = self._failure, None
            raise OutputError(failure)


class _Messages:
    """Standard output for a reporter's messages: see `_Output.put_message`."""

    def __init__(self, output: _Output) -> None:
        self._output = output
        self.isatty = output.isatty
        self.fileno = output.fileno

    def write(self, text: str) -> int:
        self._output.put_message(text)
        return len(text)

    def write_control(self, text: str) -> None:
        self._output.put_control(text)

    def flush(self) -> None:
        self._output.put_message("")


def for_messages(stream: TextIO) -> Stream:
    """`stream` for messages about what is being done, whose loss must not stop it."""
    return _Messages(stream) if isinstance(stream, _Output) else stream


def write_control(stream: Stream, text: str) -> None:
    """Write control sequences of our own, which are not escaped as others' are on a terminal."""
    write: Callable[[str], object] = getattr(stream, "write_control", stream.write)
    write(text)


def _escape(error: UnicodeError) -> tuple[bytes, int]:
    """Write a file's name that is no text as the bytes that it is, and what the encoding lacks as an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return b"".join(_bytes(character) for character in text), error.end


def _bytes(character: str) -> bytes:
    code = ord(character)
    return bytes([code - 0xDC00]) if 0xDC80 <= code <= 0xDCFF else character.encode("ascii", "backslashreplace")
