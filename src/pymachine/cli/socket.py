"""`socket`: the unix socket of a machine, for programs that cannot use TLS."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import current
from pymachine.hosts import local_socket


@click.command("socket", cls=goflags.GoCommand)
@machine_args.arguments("[name]")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Print the path of a machine's local socket, which reaches its engine over SSH.

    If the machine has none, make it, as `modify --socket` does. It exists whenever the machine runs, until
    `modify --no-socket`.
    """
    app = current(ctx)
    app.messages_to_stderr()
    name = machine_args.one(ctx, names)
    path = local_socket.ensure(app.hosts, name)
    app.show(str(path), {"Name": name, "Socket": str(path)})
