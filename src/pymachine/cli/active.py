"""`active`: print the machine that the environment points at."""

from __future__ import annotations

import os

import click

from pymachine.cli import goflags
from pymachine.cli.context import App, pass_app
from pymachine.cli.errors import RunError
from pymachine.cli.listing import rows
from pymachine.driver.contract import State


@click.command("active", cls=goflags.GoCommand)
@goflags.flag("--timeout", "-t", type=int, default=10, help="Timeout in seconds")
@goflags.arguments("words", "")
@pass_app
def command(app: App, words: tuple[str, ...], *, timeout: int) -> None:
    """Print which machine is active."""
    if words:
        raise RunError("Error: Too many arguments given")
    host = os.environ.get("DOCKER_HOST", "")
    found = rows(app, app.store.names(), timeout=timeout, engine=False) if host else []
    for row in found:
        if row.active or row.active_swarm:
            app.show(row.name, {"Name": row.name})
            return
    if any(row.state is State.TIMEOUT for row in found):
        raise RunError("Error getting active host: timeout")
    raise RunError("No active host found", hint=f'Make one active: eval "$({app.program} env NAME)"')
