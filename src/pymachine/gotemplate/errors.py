"""What can be wrong with a template."""

from __future__ import annotations

from pymachine.errors import UsageError


class TemplateError(UsageError):
    """A template that cannot be parsed, or not be executed over the data."""

    code = "template"

    partial = ""
    """The text that had been rendered by then; docker-machine prints it."""


class Failure(Exception):  # noqa: N818 (not an error for users: it has no place yet)
    """What went wrong in a value or a function; the template adds where."""


class Break(Exception):  # noqa: N818 (not an error)
    """``{{break}}`` was met."""


class Continue(Exception):  # noqa: N818 (not an error)
    """``{{continue}}`` was met."""


def parsing(text: str, line: int = 1) -> TemplateError:
    """The error for a template that is none."""
    return TemplateError(f"template parsing error: template: :{line}: {text}")
