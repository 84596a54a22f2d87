"""The interface for progress messages. Nothing below `cli` prints; it uses a `Reporter`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, runtime_checkable


class Task(Protocol):
    """One long step with a known or unknown amount of work. Its methods may be called from any thread."""

    def advance(self, amount: int = 1) -> None:
        """Report that `amount` more bytes or pieces are done."""

    def note(self, text: str) -> None:
        """Show `text`, which may be empty, after the title."""


class Reporter(Protocol):
    """Receives the messages of long steps."""

    def info(self, text: str) -> None:
        """Show a message of one line."""

    def warn(self, text: str) -> None:
        """Show a warning of one line."""

    def task(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """Return a context manager for a long step. It counts bytes if `unit` is "B", and pieces if it is empty."""

    def prefixed(self, prefix: str) -> Reporter:
        """Return this reporter with `prefix` before each line, such as docker-machine's ``(NAME) ``."""


def human(amount: float, unit: str) -> str:
    """Return `amount` as text: bytes in binary multiples, other units unchanged."""
    if unit != "B":
        return f"{amount:.0f}{unit}"
    for prefix in ("", "Ki", "Mi", "Gi"):
        if amount < 1024 or prefix == "Gi":
            return f"{amount:.0f} {prefix}B" if prefix in ("", "Ki") else f"{amount:.1f} {prefix}B"
        amount /= 1024
    raise AssertionError("unreachable")


@runtime_checkable
class Row(Reporter, Protocol):
    """The reporter of one of several operations that run in parallel, such as the creation of one machine."""

    def end(self, result: str | None) -> None:
        """Show `result`, or where the operation failed if it is None. Call it once, after the last message."""


@runtime_checkable
class RowReporter(Protocol):
    """A reporter that can show operations in parallel as a table with one row each."""

    def row(self, name: str) -> Row:
        """Return the reporter of the operation on `name`."""


class Terse:
    """A view of a reporter that passes on warnings and progress, but no other messages."""

    def __init__(self, inner: Reporter) -> None:
        self._inner = inner

    def info(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Pass it on."""
        self._inner.warn(text)

    def prefixed(self, prefix: str) -> Reporter:
        """Return such a view of the reporter with that prefix."""
        return Terse(self._inner.prefixed(prefix))

    def task(self, title: str, *, total: int | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """Pass it on."""
        return self._inner.task(title, total=total, unit=unit)


class Silent:
    """A reporter that shows nothing, for library use and tests."""

    def info(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""

    def prefixed(self, prefix: str) -> Reporter:  # noqa: ARG002
        """Return itself."""
        return self

    @contextmanager
    def task(self, title: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:  # noqa: ARG002
        """Return a context manager whose task shows nothing."""
        yield _SilentTask()


class _SilentTask:
    def advance(self, amount: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass
