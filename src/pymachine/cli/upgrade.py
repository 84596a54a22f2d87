"""`upgrade`: a newer image under the same data."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machines
from pymachine.cli.context import App, pass_app


@click.command("upgrade", cls=goflags.GoCommand)
@machines.arguments()
@pass_app
def command(app: App, names: tuple[str, ...]) -> None:
    """Upgrade a machine to the latest version of Docker.

    Containers and data are kept, and so is the old image, until the new one has answered.
    """
    machines.each(app, names, app.upkeep.upgrade)
