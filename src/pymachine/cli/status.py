"""`status`: print the state of a machine."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import current
from pymachine.errors import PymachineError


@click.command("status", cls=goflags.GoCommand)
@machine_args.arguments("[name]")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Get the status of a machine."""
    app = current(ctx)
    name = machine_args.one(ctx, names)
    try:
        state = app.hosts.open(name).state().word
    except PymachineError as error:
        raise error.prefixed(f"error getting state for host {name}: ") from error
    app.show(state, {"Name": name, "State": state})
