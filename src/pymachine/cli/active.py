"""`active`: which machine the environment points at."""

from __future__ import annotations

import os

import click

from pymachine.cli import goflags
from pymachine.cli.context import App, pass_app
from pymachine.cli.errors import RunError
from pymachine.cli.listing import rows


@click.command("active", cls=goflags.GoCommand)
@goflags.flag("--timeout", "-t", type=int, default=10, help="Timeout in seconds")
@goflags.arguments("words", "")
@pass_app
def command(app: App, words: tuple[str, ...], *, timeout: int) -> None:
    """Print which machine is active."""
    if words:
        raise RunError("Error: Too many arguments given")
    host = os.environ.get("DOCKER_HOST", "")
    for row in rows(app, app.store.names(), timeout=timeout, engine=False) if host else []:
        if row.active:
            app.say(row.name)
            return
    raise RunError("No active host found", hint=f'Make one active: eval "$({app.program} env NAME)"')
