"""`restart`: restart a machine."""

from __future__ import annotations

import os
from functools import partial

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, pass_app
from pymachine.hosts import lifecycle


@click.command("restart", cls=goflags.GoCommand)
@machine_args.arguments()
@pass_app
def command(app: App, names: tuple[str, ...]) -> None:
    """Restart a machine."""
    program = os.path.basename(app.program)  # noqa: PTH119 (a word, not a file)
    last = f"Restarted machines may have new IP addresses. You may need to re-run the `{program} env` command."
    machine_args.each(app, names, partial(lifecycle.restart, app.hosts), last=last)
