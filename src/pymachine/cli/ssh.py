"""`ssh`: log into a machine, or run a command on it."""

from __future__ import annotations

from typing import Any

import click

from pymachine.cli import machine_args
from pymachine.cli.context import current
from pymachine.cli.errors import HelpfulUsageError
from pymachine.cli.output import echo
from pymachine.errors import HostNotRunningError
from pymachine.ssh.client import Client


class Verbatim(click.Command):
    """A command that passes all its arguments to ssh."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep all arguments unparsed, except for ``--help`` at the start."""
        if args and args[0] in {"-h", "--help", "-help"} and not ctx.resilient_parsing:
            echo(ctx.get_help())
            ctx.exit()
        ctx.params["words"] = tuple(args)
        ctx.args = []
        return []


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
    return machine_args.complete(ctx, param, incomplete) if not ctx.params.get("words") else []


@click.command("ssh", cls=Verbatim)
@click.argument("words", nargs=-1, metavar="[name] [arg...]", shell_complete=_complete)
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Log into or run a command on a machine with SSH.

    Arguments after the name are passed to ssh unchanged. The exit code is that of the remote command.
    """
    app = current(ctx)
    name = app.names(words[:1])[0]
    if name.startswith("-"):
        raise HelpfulUsageError("Error: Expected a machine name before ssh's options", usage=ctx.get_help())
    try:
        target = app.hosts.open(name).login()
    except HostNotRunningError as error:
        raise HostNotRunningError(f'Error: Cannot run SSH command: Host "{name}" is not running', name=name) from error
    ctx.exit(machine_args.exit_status(Client(target, native=app.native_ssh).session(words[1:])))
