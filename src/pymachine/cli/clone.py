"""`clone`: create a machine as a copy of another one."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import current
from pymachine.cli.errors import HelpfulUsageError
from pymachine.hosts.clone import clone


@click.command("clone", cls=goflags.GoCommand)
@machine_args.arguments("MACHINE NAME")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Create machine NAME as a copy of MACHINE, with its images and containers.

    NAME gets its own host name, keys and certificates. MACHINE may be running or stopped. Containers start in NAME if
    their restart policy says so.
    """
    if len(names) != 2:
        raise HelpfulUsageError("Error: Expected a machine and the name of its copy", usage=ctx.get_help())
    app = current(ctx)
    clone(app.hosts, *names)
    app.show(
        "To see how to connect your Docker Client to the Docker Engine running on this virtual machine, "
        f"run: {app.program} env {names[1]}",
        [machine_args.summary(app, names[1])],
    )
