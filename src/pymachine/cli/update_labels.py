"""`update-labels`: refuse the command of GitLab Runner's fork of docker-machine, with the answer that it expects."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, pass_app
from pymachine.errors import UnsupportedError


@click.command("update-labels", cls=goflags.GoCommand, hidden=True, structured=False)
@goflags.flag("--label", multiple=True, help="A label, key=value")
@machine_args.arguments()
@pass_app
def command(app: App, names: tuple[str, ...], *, label: tuple[str, ...]) -> None:  # noqa: ARG001 (none is set)
    """Not supported: no driver has labels outside of the engine."""
    for name in app.names(names):
        app.store.load(name)
    raise UnsupportedError("driver does not support labels")
