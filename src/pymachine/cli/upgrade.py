"""`upgrade`: replace a machine's image with the newest one and keep its data."""

from __future__ import annotations

from functools import partial

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, pass_app
from pymachine.hosts.upgrade import upgrade


@click.command("upgrade", cls=goflags.GoCommand)
@machine_args.arguments()
@pass_app
def command(app: App, names: tuple[str, ...]) -> None:
    """Upgrade a machine to the latest version of Docker.

    Containers and data are kept. The old image is kept until the new one works.
    """
    machine_args.each(app, names, partial(upgrade, app.hosts))
