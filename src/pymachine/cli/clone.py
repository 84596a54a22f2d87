"""`clone`: create a machine as a copy of another one."""

from __future__ import annotations

from typing import Any

import click

from pymachine.cli import goflags, machine_args, share_options
from pymachine.cli.context import current
from pymachine.cli.errors import HelpfulUsageError
from pymachine.hosts.clone import clone


@click.command("clone", cls=goflags.GoCommand)
@share_options.flags(
    share="Share a folder of this host, as PATH[:GUEST_PATH][:ro], instead of those that MACHINE shares",
    no_share="Share no folder of this host",
)
@machine_args.arguments("MACHINE NAME")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    names: tuple[str, ...],
    **_: Any,  # the options of `share_options`, which reads them from the context
) -> None:
    """Create machine NAME as a copy of MACHINE, with its images and containers.

    NAME gets its own host name, keys and certificates, and shares the folders that MACHINE shares. MACHINE may be
    running or stopped. Containers start in NAME if their restart policy says so.
    """
    if len(names) != 2:
        raise HelpfulUsageError("Error: Expected a machine and the name of its copy", usage=ctx.get_help())
    app = current(ctx)
    clone(app.hosts, *names, shares=share_options.from_command_line(ctx))
    app.show(
        "To see how to connect your Docker Client to the Docker Engine running on this virtual machine, "
        f"run: {app.program} env {names[1]}",
        [machine_args.summary(app, names[1])],
    )
