"""`stop`: stop a machine, in an orderly way."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machines
from pymachine.cli.context import App, pass_app


@click.command("stop", cls=goflags.GoCommand)
@machines.arguments()
@pass_app
def command(app: App, names: tuple[str, ...]) -> None:
    """Stop a machine, in an orderly way."""
    machines.each(app, names, app.manager.stop)
