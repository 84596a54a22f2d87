"""`help`: print the list of commands, or one command's help."""

from __future__ import annotations

import click

from pymachine.cli import goflags
from pymachine.cli.output import echo


@click.command("help", cls=goflags.GoCommand, structured=False)
@goflags.arguments("words", "[command]")
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Shows a list of commands or help for one command."""
    root = ctx.find_root()
    if not words:
        echo(root.get_help())
        return
    group = root.command
    if not isinstance(group, click.Group):
        raise TypeError("the program is not a group")
    found = group.get_command(root, words[0])
    if found is not None:
        # Run the command with --help, so that `create` also lists its driver's options.
        found.make_context(words[0], ["--help"], parent=root)
