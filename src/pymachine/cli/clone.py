"""`clone`: make a machine of another one's disk."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import current
from pymachine.cli.errors import HelpfulUsageError


@click.command("clone", cls=goflags.GoCommand)
@machine_args.arguments("MACHINE NAME")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Make machine NAME as a copy of MACHINE, with its images and containers and an identity of its own.

    MACHINE may run or not. Its containers are there in NAME, and start there if their restart policy says so.
    """
    if len(names) != 2:
        raise HelpfulUsageError("Error: Expected a machine and the name of its copy", usage=ctx.get_help())
    app = current(ctx)
    app.copies.clone(*names)
    app.show(
        "To see how to connect your Docker Client to the Docker Engine running on this virtual machine, "
        f"run: {app.program} env {names[1]}",
        [machine_args.summary(app, names[1])],
    )
