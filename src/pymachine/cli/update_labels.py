"""`update-labels`: asked for by GitLab Runner, whose docker-machine labels cloud machines; it knows this answer."""

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
    """Refused: no driver here has labels outside of the engine."""
    for name in app.names(names):
        app.store.load(name)
    raise UnsupportedError("driver does not support labels")
