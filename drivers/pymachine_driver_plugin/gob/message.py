"""Read the messages of a stream: bytes behind their length."""

from __future__ import annotations

from collections.abc import Callable

from pymachine_driver_plugin.gob.errors import GobError
from pymachine_driver_plugin.gob.numbers import read_uint, to_int


class MessageReader:
    """Reads the message of a value from `source`.

    `source` returns as many bytes as its argument says. It is the stream or, for the value of an interface, `take` of
    the message around it. A type that is defined inside a value ends the message, so one value may take several.
    """

    def __init__(self, source: Callable[[int], bytes | memoryview]) -> None:
        self._source = source
        self._data = memoryview(b"")
        self._at = 0
        self.next()

    @property
    def left(self) -> int:
        """How many bytes of the message are left."""
        return len(self._data) - self._at

    def next(self) -> None:
        """Begin the next message. Raises `GobError` if bytes of the current one are left."""
        self.end()
        self._data = memoryview(self._source(read_uint(self._source)))
        self._at = 0

    def end(self) -> None:
        """Raise `GobError` if bytes of the message are left."""
        if self.left:
            raise GobError(f"a message has {self.left} more bytes than its value or definition")

    def take(self, count: int) -> memoryview:
        """Return the next bytes without copying them. Raises `GobError` if there are fewer."""
        if count > self.left:
            raise GobError(f"a message ends too early: {count} bytes should follow, but {self.left} are left")
        self._at += count
        return self._data[self._at - count : self._at]

    def uint(self) -> int:
        """Return the next number, unsigned."""
        return read_uint(self.take)

    def int(self) -> int:
        """Return the next number, signed."""
        return to_int(self.uint())
