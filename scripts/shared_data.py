"""Write the manual pages and the completion files of the wheel into a folder, as below ``/usr/share``.

Usage: ``scripts/shared_data.py FOLDER``. All are generated from the command line itself. The output does not depend on
the host, its time and its settings. It depends on the version of click, which has the templates of the completion.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Remove the variables that defaults depend on.
os.environ["HOME"] = "/home/user"
for _name in [name for name in os.environ if name.startswith(("MACHINE_", "PYMACHINE_", "_PYMACHINE_"))]:
    del os.environ[_name]

import click  # noqa: E402 (reads the variables above)

from pymachine import __version__  # noqa: E402
from pymachine.cli import app, create_options  # noqa: E402
from pymachine.cli.commands import COMMANDS  # noqa: E402
from pymachine.driver import registry  # noqa: E402

COMPLETION_FILES = {
    "bash": "bash-completion/completions/pymachine",
    "zsh": "zsh/site-functions/_pymachine",
    "fish": "fish/vendor_completions.d/pymachine.fish",
}
# Characters that roff would take for others: a minus becomes a hyphen, which cannot be copied into a shell.
ROFF = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", '"': r"\(dq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti"})
EXIT_STATUS = [
    ("0", "Success."),
    ("1", "An error."),
    ("3", "A pre-create check failed, and nothing was created."),
    ("130", "Interrupted (Ctrl-C)."),
    ("143", "Ended by SIGTERM or SIGHUP."),
]


def main() -> int:
    """Write all files."""
    share = Path(sys.argv[1])
    root = click.Context(app.group, info_name="pymachine", **app.CONTEXT_SETTINGS)
    for context in contexts(root):
        write(share / "man" / "man1" / f"{page_name(context)}.1", page(context))
    for shell, path in COMPLETION_FILES.items():
        command = [sys.executable, "-m", "pymachine", "completion", shell]
        write(share / path, subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout)
    return 0


def write(path: Path, text: str) -> None:
    """Write a file and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def contexts(context: click.Context) -> Iterator[click.Context]:
    """Yield the context of a command, then those of its listed subcommands."""
    yield context
    for command in subcommands(context):
        yield from contexts(click.Context(command, info_name=command.name, parent=context, **app.CONTEXT_SETTINGS))


def subcommands(context: click.Context) -> Iterator[click.Command]:
    """Yield the listed subcommands of a command."""
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None and not command.hidden:
                yield command


def page_name(context: click.Context) -> str:
    """Return the name of a command's page, such as ``pymachine-snapshot-create``."""
    return context.command_path.replace(" ", "-")


def page(context: click.Context) -> str:
    """Return the manual page of a command."""
    return "".join(f"{line}\n" for line in lines(context))


def lines(context: click.Context) -> Iterator[str]:
    """Yield the lines of a command's manual page."""
    name = escape(page_name(context))
    # Without a date, so that the page is the same whenever it is built.
    yield f'.TH "{name.upper()}" 1 "" "pymachine {__version__}" "pymachine"'
    # Do not hyphenate words and do not spread lines.
    yield from (".nh", ".ad l")
    yield from (".SH NAME", rf"{name} \- {escape(summary(context.command, context.parent))}", ".SH SYNOPSIS")
    pieces = " ".join(context.command.collect_usage_pieces(context))
    yield rf"\fB{escape(context.command_path)}\fR {escape(pieces)}"
    yield ".SH DESCRIPTION"
    yield from description(context.command)
    yield ".SH OPTIONS"
    yield from options(context, context.command.get_params(context))
    for driver, extra in driver_options(context):
        yield f".SS Options of the driver {escape(driver)}"
        yield from options(context, extra)
    commands = list(subcommands(context))
    if commands:
        yield ".SH COMMANDS"
        for command in commands:
            yield from (".TP", rf"\fB{name}\-{escape(command.name or '')}\fR(1)", escape(summary(command, context)))
    if context.parent is None:
        yield ".SH EXIT STATUS"
        for status, meaning in EXIT_STATUS:
            yield from (".TP", rf"\fB{status}\fR", escape(meaning))
    else:
        yield from (".SH SEE ALSO", rf"\fB{escape(page_name(context.parent))}\fR(1)")


def summary(command: click.Command, parent: click.Context | None) -> str:
    """Return what a command does, in one line without a full stop."""
    listed = COMMANDS[command.name or ""] if parent is not None and parent.parent is None else ""
    return (listed or command.get_short_help_str(limit=200)).rstrip(".")


def description(command: click.Command) -> Iterator[str]:
    """Yield the lines of a command's description."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", (command.help or "").partition("\f")[0].strip())):
        if number:
            yield ".PP"
        yield text(" ".join(paragraph.split()))


def options(context: click.Context, params: list[click.Parameter]) -> Iterator[str]:
    """Yield the lines of a list of options."""
    for param in params:
        record = param.get_help_record(context)
        # click has records of arguments too, which repeat the synopsis.
        if record is not None and isinstance(param, click.Option):
            names, meaning = record
            found = re.fullmatch(r"(.*?)(?: ([^-\s]\S*))?", names)
            flags, value = found.groups(default="") if found else (names, "")
            shown = re.sub(r"(?<!\S)-\S*[^\s,]", lambda word: rf"\fB{escape(word[0])}\fR", flags)
            yield from (".TP", rf"{shown} \fI{escape(value)}\fR" if value else shown, text(" ".join(meaning.split())))


def driver_options(context: click.Context) -> Iterator[tuple[str, list[click.Parameter]]]:
    """Yield each driver with the options that it adds to a command."""
    command = context.command
    if isinstance(command, create_options.DriverOptionsCommand):
        own = command.get_params(context)
        for driver in registry.names():
            # A context shares with its parent which driver's options it has, so each driver needs another parent.
            parent = click.Context(app.group)
            parsed = command.make_context(command.name, ["--driver", driver], parent=parent, resilient_parsing=True)
            flags = {param.name for param in own}
            yield driver, [param for param in command.get_params(parsed) if param.name not in flags]


def escape(words: str) -> str:
    """Return words as roff shows them unchanged."""
    shown = words.translate(ROFF)
    return "".join(letter if letter.isascii() else rf"\[u{ord(letter):04X}]" for letter in shown)


def text(words: str) -> str:
    r"""Return a line of text. A leading dot would be a request of roff."""
    return rf"\&{escape(words)}" if words.startswith((".", "'")) else escape(words)


if __name__ == "__main__":
    sys.exit(main())
