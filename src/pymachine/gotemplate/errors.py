"""Errors of ``--format`` templates, and the exceptions that end a loop."""

from __future__ import annotations

from pymachine.errors import UsageError


class FormatError(UsageError):
    """A ``--format`` template that cannot be parsed, or cannot be executed on the data."""

    code = "template"

    partial = ""
    """The text rendered before the error; docker-machine prints it."""


class EvaluationError(Exception):
    """An error in a value or a function. `execute` adds the position in the template."""


class BreakLoop(Exception):  # noqa: N818 (control flow, not an error)
    """Raised by ``{{break}}``."""


class ContinueLoop(Exception):  # noqa: N818 (control flow, not an error)
    """Raised by ``{{continue}}``."""


def parse_error(text: str, line: int = 1) -> FormatError:
    """Return the error for a template that cannot be parsed."""
    return FormatError(f"template parsing error: template: :{line}: {text}")
