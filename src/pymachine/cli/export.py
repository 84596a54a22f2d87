"""`export`: write a machine, or its connection details, to one file."""

from __future__ import annotations

from pathlib import Path

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import current
from pymachine.cli.errors import HelpfulUsageError, RunError

SUFFIX = ".pymachine.tar.zst"


@click.command("export", cls=goflags.GoCommand)
@goflags.flag("--connection", is_flag=True, help="Export only the URL and the certificates that a docker client needs")
@goflags.flag("--force", "-f", is_flag=True, help="Overwrite an existing file")
@machine_args.arguments("NAME [FILE]")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], *, connection: bool, force: bool) -> None:
    """Export a stopped machine with all its data, or its connection details, to FILE.

    FILE is NAME.pymachine.tar.zst in the current folder by default. Keep it secret: the key in it gives access to
    every engine of this store.
    """
    if not 1 <= len(names) <= 2:
        raise HelpfulUsageError(
            "Error: Expected a machine name and an optional file as arguments", usage=ctx.get_help()
        )
    from pymachine.hosts.export import export, export_connection  # noqa: PLC0415 (zstandard)

    app = current(ctx)
    name = names[0]
    target = Path(names[1] if len(names) == 2 else name + SUFFIX)
    if target.is_dir():
        target /= name + SUFFIX
    if target.exists() and not force:
        raise RunError(f"{target} already exists", hint="Choose another file, or overwrite it with --force.")
    if connection:
        export_connection(app.hosts, name, target)
    else:
        export(app.hosts, name, target)
    app.show(f"Exported {name} to {target}", {"Name": name, "File": str(target.absolute())})
