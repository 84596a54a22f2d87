"""`kill`: stop machines abruptly."""

from __future__ import annotations

from functools import partial

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, pass_app
from pymachine.hosts import lifecycle


@click.command("kill", cls=goflags.GoCommand)
@machine_args.arguments()
@pass_app
def command(app: App, names: tuple[str, ...]) -> None:
    """Kill (abruptly stop) a machine."""
    machine_args.each(app, names, partial(lifecycle.kill, app.hosts))
