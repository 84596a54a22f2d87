"""`completion`: print the completion script for a shell. It completes machine names too."""

from __future__ import annotations

import os

import click
from click.shell_completion import get_completion_class

from pymachine.cli import goflags
from pymachine.cli.context import current
from pymachine.cli.main import COMPLETE_VARIABLE
from pymachine.cli.output import echo

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", cls=goflags.GoCommand, structured=False, evaluated=True)
@goflags.arguments("words", "bash|zsh|fish")
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Print the completion script for a shell.

    For bash, add this line to ~/.bashrc: eval "$(pymachine completion bash)"
    """
    shell = get_completion_class(words[0]) if len(words) == 1 and words[0] in SHELLS else None
    if shell is None:
        raise goflags.bad_arguments(ctx, f"Error: Expected one of {', '.join(SHELLS)} as an argument")
    root = ctx.find_root()
    program = os.path.basename(current(ctx).program)  # noqa: PTH119 (a word, not a file)
    echo(shell(root.command, {}, program, COMPLETE_VARIABLE).source())
