"""Run the command line: set up signals and logging, and turn errors into exit codes."""

from __future__ import annotations

import os
import sys

import click
from click.shell_completion import shell_complete

from pymachine.cli import app, errors
from pymachine.cli.output import echo
from pymachine.system import signals, streams

COMPLETE_VARIABLE = "_PYMACHINE_COMPLETE"
_DEBUG_WORDS = ("-D", "--debug", "-debug")


def main(argv: list[str]) -> int:
    """Run the command line `argv` (with the program's name first) and return the exit code."""
    program = _program(argv)
    try:
        return _reported(argv, program)
    except streams.OutputError as lost:
        return errors.report(lost, program=program, structured=_asks_for_json(argv[1:]))


def _reported(argv: list[str], program: str) -> int:
    """Run the command line, report its error, and return the exit code. Raises `OutputError`."""
    debug = structured = False
    try:
        words, asked = _without_debug(argv[1:])
        debug = asked or app.debug_from_environment()
        structured = _asks_for_json(words)
        signals.exit_on_termination()
        if debug:
            _log_to_stderr()
        code = _run(argv, words, debug=debug)
    except (Exception, KeyboardInterrupt, signals.Terminated) as error:  # noqa: BLE001 (errors become exit codes here)
        code = errors.report(error, program=program, debug=debug, structured=structured)
    sys.stdout.flush()
    return code


def _run(argv: list[str], words: list[str], *, debug: bool) -> int:
    program = _program(argv)
    if os.path.basename(argv[0]) != program:  # noqa: PTH119 (a word, not a file)
        argv = [program, *argv[1:]]
    instruction = os.environ.get(COMPLETE_VARIABLE)
    if instruction:
        return shell_complete(app.group, {}, program, COMPLETE_VARIABLE, instruction)
    # Not click's own `main`: it hides which signal interrupted the command.
    try:
        with app.group.make_context(program, words, obj={"argv": argv, "debug": debug}) as ctx:
            result = app.group.invoke(ctx)
    except click.exceptions.Exit as end:
        result = end.exit_code
    return result if isinstance(result, int) else 0


def _program(argv: list[str]) -> str:
    """Return the name that pymachine was called by, such as ``docker-machine`` through a link."""
    name = os.path.basename(argv[0])  # noqa: PTH119 (a word, not a file)
    return "pymachine" if name == "__main__.py" else name


def _asks_for_json(words: list[str]) -> bool:
    """Return whether to print errors as JSON. Words after ``--`` or ``ssh`` belong to another program."""
    own = next((at for at, word in enumerate(words) if word in ("--", "ssh")), len(words))
    return not {"--json", "-json"}.isdisjoint(words[:own])


def _without_debug(words: list[str]) -> tuple[list[str], bool]:
    """Remove ``--debug`` from anywhere in `words`. Words after ``--`` or ``ssh`` belong to another program."""
    kept: list[str] = []
    found = False
    for index, word in enumerate(words):
        if word in ("--", "ssh"):
            return kept + words[index:], found
        if word in _DEBUG_WORDS:
            found = True
        else:
            kept.append(word)
    return kept, found


def _log_to_stderr() -> None:
    import logging  # noqa: PLC0415 (takes 20 ms)

    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG, format="%(relativeCreated)6d ms %(name)s: %(message)s")
    for noisy in ("filelock", "urllib3", "paramiko"):
        logging.getLogger(noisy).setLevel(logging.INFO)
    echo(f"pymachine: debug mode, Python {sys.version.split()[0]}, pid {os.getpid()}", err=True)
