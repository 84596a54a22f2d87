"""The one place where errors become text and exit codes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress

import click

from pymachine.cli.output import echo
from pymachine.errors import EXIT_ERROR, PymachineError, UsageError
from pymachine.system import os_errors, printable, streams
from pymachine.system.signals import EXIT_TERMINATED, Terminated

PROGRAM = "pymachine"
EXIT_INTERRUPTED = 130


class HelpfulUsageError(UsageError):
    """A command line that cannot be acted on; the command's help is shown with it."""

    code = "usage-help"

    def __init__(self, brief: str, *, usage: str = "") -> None:
        super().__init__(brief)
        self.usage = usage


class FlagError(HelpfulUsageError):
    """A flag that is not known, or whose value cannot be read."""

    code = "flag"


class UnknownCommandError(UsageError):
    """There is no command of that name."""

    code = "unknown-command"


class RunError(PymachineError):
    """Something in a command's own steps failed; the brief is docker-machine's sentence."""

    code = "failed"


class OperatingSystemError(PymachineError):
    """The operating system refused: a full disk, a missing permission, a file where a folder should be."""

    code = "system"


class InternalError(PymachineError):
    """A fault of pymachine itself."""

    code = "internal"


class SeveralError(PymachineError):
    """Some of several machines failed; each has its line."""

    code = "several"
    has_lines = True

    def __init__(self, errors: Sequence[PymachineError]) -> None:
        super().__init__("\n".join(map(brief, errors)), exit_code=max(error.exit_code for error in errors))
        self.details = "\n".join(dict.fromkeys(error.details for error in errors if error.details))
        self.hint = "\n".join(dict.fromkeys(error.hint for error in errors if error.hint))
        self.errors = list(errors)


def joined(errors: Sequence[PymachineError]) -> PymachineError:
    """One error for all of `errors`, which must not be empty."""
    return errors[0] if len(errors) == 1 else SeveralError(errors)


def known(error: BaseException) -> PymachineError:
    """`error` as one of ours."""
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
        hint="This is a fault of pymachine. Run the command again with --debug to see where, and report it.",
    )


def exit_code(error: BaseException) -> int:
    """The exit code that `error` means."""
    if isinstance(error, Terminated):
        return EXIT_TERMINATED
    if isinstance(error, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return EXIT_ERROR
    return known(error).exit_code


def brief(error: PymachineError) -> str:
    """The error's own sentence for a person: on one line, unless its class has more."""
    return printable.block(error.brief) if error.has_lines else printable.line(error.brief)


def text(error: PymachineError) -> str:
    """What a person reads: the brief, what an outside program said, how to mend it."""
    lines = [brief(error)]
    if error.details:
        lines += ["    " + line for line in _lines(error.details)]
    if error.hint:
        lines += ["Hint: " + line for line in _lines(error.hint)]
    return "\n".join(lines)


def _lines(text: str) -> list[str]:
    return printable.block(text).removesuffix("\n").split("\n")


def as_json(error: PymachineError) -> str:
    """What a program reads: one JSON object on one line."""
    body = {"code": error.code, "message": error.brief, "details": error.details, "hint": error.hint}
    return printable.for_json(json.dumps({"error": body}))


def report(error: BaseException, *, program: str = PROGRAM, debug: bool = False, structured: bool = False) -> int:
    """Tell of `error` on stderr (help goes to stdout) and return the exit code.

    Commands are named as those of `program`, which is what we were called as.
    """
    if isinstance(error, BrokenPipeError) or (isinstance(error, streams.OutputError) and error.reader_ended):
        return EXIT_ERROR
    if debug:
        import traceback  # noqa: PLC0415 (6 ms that only this needs)

        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt | Terminated):
        echo("Interrupted.", err=True)
        return exit_code(error)
    told = known(error)
    told.brief, told.hint = called_as(program, told.brief), called_as(program, told.hint)
    if isinstance(told, HelpfulUsageError) and told.usage and not structured:
        with suppress(streams.OutputError):  # the error itself goes to stderr
            _show_usage(told)
    echo(as_json(told) if structured else text(told), err=True)
    return told.exit_code


def _show_usage(told: HelpfulUsageError) -> None:
    if isinstance(told, FlagError):
        echo("Incorrect Usage.\n")
    echo(told.usage)
    echo()


def called_as(program: str, text: str) -> str:
    """`text` with its commands ("pymachine start x", but not "of pymachine") as commands of `program`."""
    if program == PROGRAM or PROGRAM not in text:
        return text
    from pymachine.cli.app import COMMANDS  # noqa: PLC0415 (which imports this module)

    return re.sub(rf"\b{PROGRAM}(?= (?:{'|'.join(COMMANDS)})\b)", lambda _: program, text)
