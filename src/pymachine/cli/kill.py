"""`kill`: kill (abruptly stop) a machine."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machines
from pymachine.cli.context import App, pass_app


@click.command("kill", cls=goflags.GoCommand)
@machines.arguments()
@pass_app
def command(app: App, names: tuple[str, ...]) -> None:
    """Kill (abruptly stop) a machine."""
    machines.each(app, names, app.manager.kill)
