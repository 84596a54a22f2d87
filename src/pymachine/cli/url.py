"""`url`: print the URL of a machine's engine."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import current


@click.command("url", cls=goflags.GoCommand)
@machine_args.arguments("[name]")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Get the URL of a machine."""
    app = current(ctx)
    name = machine_args.one(ctx, names)
    url = app.hosts.open(name).endpoint().url
    app.show(url, {"Name": name, "URL": url})
