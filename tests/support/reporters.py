"""A reporter whose lines tests can read."""

from __future__ import annotations

from pymachine.system.progress import Reporter, Silent


class RecordingReporter(Silent):
    """A reporter that keeps its messages and warnings in `lines`."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        """Keep a message."""
        self.lines.append(text)

    warn = info

    def prefixed(self, prefix: str) -> Reporter:
        """Return the same reporter: the lines have no prefix."""
        return self
