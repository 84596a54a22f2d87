"""`config`: the flags that connect a docker client to a machine."""

from __future__ import annotations

import click

from pymachine import paths
from pymachine.cli import goflags, machines
from pymachine.cli.context import current
from pymachine.errors import PymachineError


@click.command("config", cls=goflags.GoCommand)
@goflags.flag("--swarm", is_flag=True, help="Display the Swarm config instead of the Docker daemon")
@machines.arguments("[name]")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], *, swarm: bool) -> None:  # noqa: ARG001 (accepted; see create)
    """Print the connection config for machine."""
    app = current(ctx)
    app.news_on_stderr()
    name = machines.one(app, names, usage=ctx.get_help())
    try:
        endpoint = app.manager.check(name)
    except PymachineError as error:
        raise error.prefixed("Error running connection boilerplate: ") from error
    folder = app.store.machine_dir(name)
    app.say("--tlsverify")
    app.say(f'--tlscacert="{folder / paths.CA_CERT}"')
    app.say(f'--tlscert="{folder / paths.CLIENT_CERT}"')
    app.say(f'--tlskey="{folder / paths.CLIENT_KEY}"')
    app.say(f"-H={endpoint.url}")
