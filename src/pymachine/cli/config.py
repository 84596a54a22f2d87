"""`config`: print the flags that connect a docker client to a machine."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import current
from pymachine.errors import PymachineError
from pymachine.hosts import connection


@click.command("config", cls=goflags.GoCommand, evaluated=True)
@goflags.flag("--swarm", is_flag=True, help="Display the Swarm config instead of the Docker daemon")
@machine_args.arguments("[name]")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], *, swarm: bool) -> None:
    """Print the connection config for machine."""
    app = current(ctx)
    app.messages_to_stderr()
    name = machine_args.one(ctx, names)
    try:
        endpoint = connection.check(app.hosts.open(name), swarm=swarm)
    except PymachineError as error:
        raise error.prefixed("Error running connection boilerplate: ") from error
    ca, cert, key = map(str, app.hosts.open(name).client_files())
    app.show(
        f'--tlsverify\n--tlscacert="{ca}"\n--tlscert="{cert}"\n--tlskey="{key}"\n-H={endpoint.url}',
        {"Name": name, "TLSVerify": True, "TLSCACert": ca, "TLSCert": cert, "TLSKey": key, "Host": endpoint.url},
    )
