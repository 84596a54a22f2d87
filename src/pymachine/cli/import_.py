"""`import`: create a machine from a file that `export` wrote."""

from __future__ import annotations

from pathlib import Path

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import current
from pymachine.cli.errors import HelpfulUsageError
from pymachine.driver import registry
from pymachine.driver.abilities import ConnectionImportable


@click.command("import", cls=goflags.GoCommand)
@goflags.arguments("words", "FILE [NAME]", complete=machine_args.complete_file)
@click.pass_context
def command(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Import a machine from an exported FILE, under its old name or NAME.

    A whole machine is imported stopped; `start` issues certificates of this store for it. Connection details become a
    machine that clients can use, but that cannot be started or stopped.
    """
    if not 1 <= len(words) <= 2:
        raise HelpfulUsageError("Error: Expected a file and an optional name as arguments", usage=ctx.get_help())
    from pymachine.hosts.import_ import import_  # noqa: PLC0415 (zstandard)

    app = current(ctx)
    machine = import_(
        app.hosts,
        Path(words[0]),
        name=words[1] if len(words) == 2 else "",
        connection_driver=registry.name_with(ConnectionImportable),
    )
    if app.structured:
        app.show("", [machine_args.summary(app, machine.name)])
    else:
        app.say(f'Machine "{machine.name}" was imported.')
