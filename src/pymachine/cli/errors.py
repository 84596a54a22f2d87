"""Turn errors into text, JSON and exit codes. No other module does."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress

import click

from pymachine.cli.commands import COMMANDS
from pymachine.cli.output import echo
from pymachine.errors import EXIT_ERROR, PymachineError, UsageError
from pymachine.system import os_errors, printable, streams
from pymachine.system.signals import EXIT_TERMINATED, Terminated

PROGRAM = "pymachine"
EXIT_INTERRUPTED = 130


class HelpfulUsageError(UsageError):
    """The arguments are wrong. The command's help is shown with the error."""

    code = "usage-help"

    def __init__(self, brief: str, *, hint: str = "", usage: str = "") -> None:
        super().__init__(brief, hint=hint)
        self.usage = usage


class FlagError(HelpfulUsageError):
    """An unknown flag, or a wrong value for a flag."""

    code = "flag"


class UnknownCommandError(UsageError):
    """No command has that name."""

    code = "unknown-command"


class RunError(PymachineError):
    """A command failed in one of its own steps. The message is docker-machine's where it has one."""

    code = "failed"


class OperatingSystemError(PymachineError):
    """The operating system refused an operation: full disk, missing permission, file instead of a folder."""

    code = "system"


class InternalError(PymachineError):
    """A bug in pymachine."""

    code = "internal"


class SeveralError(PymachineError):
    """An operation on several machines failed for some of them. The message has a line for each."""

    code = "several"
    has_lines = True

    def __init__(self, errors: Sequence[PymachineError]) -> None:
        super().__init__("\n".join(map(brief, errors)), exit_code=max(error.exit_code for error in errors))
        self.details = "\n".join(dict.fromkeys(error.details for error in errors if error.details))
        self.hint = "\n".join(dict.fromkeys(error.hint for error in errors if error.hint))
        self.errors = list(errors)


def joined(errors: Sequence[PymachineError]) -> PymachineError:
    """Return one error for all of `errors`, which must not be empty."""
    return errors[0] if len(errors) == 1 else SeveralError(errors)


def known(error: BaseException) -> PymachineError:
    """Return `error` as a `PymachineError`."""
    if isinstance(error, PymachineError):
        return error
    if isinstance(error, click.ClickException):
        return UsageError(error.format_message())
    if isinstance(error, streams.OutputError):
        return OperatingSystemError(f"cannot write to standard output: {error.why}")
    if isinstance(error, OSError) and error.errno is not None:
        return OperatingSystemError(os_errors.reason(error), hint=os_errors.hint(error))
    return InternalError(
        f"internal error: {type(error).__name__}: {error}",
        hint="This is a bug in pymachine. Run the command again with --debug to see where, and report it.",
    )


def exit_code(error: BaseException) -> int:
    """Return the exit code for `error`."""
    if isinstance(error, Terminated):
        return EXIT_TERMINATED
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return EXIT_ERROR
    return known(error).exit_code


def brief(error: PymachineError) -> str:
    """Return the error's message for a person: one line, unless its class allows more."""
    return printable.block(error.brief) if error.has_lines else printable.line(error.brief)


def text(error: PymachineError) -> str:
    """Return the whole text for a person: the message, the output of an outside program, the hint."""
    lines = [brief(error)]
    if error.details:
        lines += ["    " + line for line in _lines(error.details)]
    if error.hint:
        lines += ["Hint: " + line for line in _lines(error.hint)]
    return "\n".join(lines)


def _lines(text: str) -> list[str]:
    return printable.block(text).removesuffix("\n").split("\n")


def as_json(error: PymachineError) -> str:
    """Return the error for a program: one JSON object on one line."""
    body = {"code": error.code, "message": error.brief, "details": error.details, "hint": error.hint}
    return printable.for_json(json.dumps({"error": body}))


def report(error: BaseException, *, program: str = PROGRAM, debug: bool = False, structured: bool = False) -> int:
    """Print `error` on stderr and its help on stdout, and return the exit code.

    Commands in the text are shown as commands of `program`, the name that pymachine was called by.
    """
    if isinstance(error, BrokenPipeError) or (isinstance(error, streams.OutputError) and error.reader_ended):
        return EXIT_ERROR
    if debug:
        import traceback  # noqa: PLC0415 (takes 6 ms)

        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt | Terminated):
        echo("Interrupted.", err=True)
        return exit_code(error)
    known_error = known(error)
    known_error.brief, known_error.hint = called_as(program, known_error.brief), called_as(program, known_error.hint)
    if isinstance(known_error, HelpfulUsageError) and known_error.usage and not structured:
        with suppress(streams.OutputError):  # the error itself goes to stderr
            _show_usage(known_error)
    echo(as_json(known_error) if structured else text(known_error), err=True)
    return known_error.exit_code


def _show_usage(known_error: HelpfulUsageError) -> None:
    if isinstance(known_error, FlagError):
        echo("Incorrect Usage.\n")
    echo(known_error.usage)
    echo()


def called_as(program: str, text: str) -> str:
    """Return `text` with "pymachine start x" replaced by "PROGRAM start x". Other mentions of pymachine stay."""
    if program == PROGRAM or PROGRAM not in text:
        return text
    return re.sub(rf"\b{PROGRAM}(?= (?:{'|'.join(COMMANDS)})\b)", lambda _: program, text)
