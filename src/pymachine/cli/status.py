"""`status`: what a machine does."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machines
from pymachine.cli.context import current


@click.command("status", cls=goflags.GoCommand)
@machines.arguments("[name]")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Get the status of a machine."""
    app = current(ctx)
    name = machines.one(app, names, usage=ctx.get_help())
    state = app.manager.state(name).word
    app.show(state, {"Name": name, "State": state})
