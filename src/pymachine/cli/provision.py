"""`provision`: set up the engine of existing machines once more."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, pass_app


@click.command("provision", cls=goflags.GoCommand)
@machine_args.arguments()
@pass_app
def command(app: App, names: tuple[str, ...]) -> None:
    """Re-provision existing machines.

    What is right already is left alone: a machine that is set up well is not changed, and nothing is restarted.
    """
    machine_args.each(app, names, app.manager.provision)
