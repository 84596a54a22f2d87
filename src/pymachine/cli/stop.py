"""`stop`: shut machines down."""

from __future__ import annotations

from functools import partial

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, pass_app
from pymachine.hosts import lifecycle


@click.command("stop", cls=goflags.GoCommand)
@machine_args.arguments()
@pass_app
def command(app: App, names: tuple[str, ...]) -> None:
    """Stop a machine gracefully."""
    machine_args.each(app, names, partial(lifecycle.stop, app.hosts))
