"""`provision`: set up the engine of existing machines again."""

from __future__ import annotations

from functools import partial

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, pass_app
from pymachine.hosts.provision import provision


@click.command("provision", cls=goflags.GoCommand)
@machine_args.arguments()
@pass_app
def command(app: App, names: tuple[str, ...]) -> None:
    """Re-provision existing machines.

    Only what is missing or wrong is changed. Nothing is restarted on a machine that is set up correctly.
    """
    machine_args.each(app, names, partial(provision, app.hosts))
