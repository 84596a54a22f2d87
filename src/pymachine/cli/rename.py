"""`rename`: rename a machine."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import current
from pymachine.cli.errors import HelpfulUsageError
from pymachine.hosts.rename import rename


@click.command("rename", cls=goflags.GoCommand)
@machine_args.arguments("NAME NEW")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Rename a stopped machine.

    Its folder, host name and certificate change too, and so does a docker context of the same name.
    """
    if len(names) != 2:
        raise HelpfulUsageError("Error: Expected a machine name and its new name as arguments", usage=ctx.get_help())
    app = current(ctx)
    rename(app.hosts, *names)
    if app.structured:
        app.show("", [machine_args.summary(app, names[1])])
    else:
        app.say(f'Machine "{names[0]}" is now called "{names[1]}".')
