"""`import`: create a machine from a file that `export` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pymachine.cli import goflags, machine_args, share_options
from pymachine.cli.context import current
from pymachine.cli.errors import HelpfulUsageError
from pymachine.driver import registry
from pymachine.driver.abilities import ConnectionImportable


@click.command("import", cls=goflags.GoCommand)
@share_options.flags(
    share="Share a folder of this host with a whole machine, as PATH[:GUEST_PATH][:ro], and do not ask",
    no_share="Share no folder of this host, and do not ask",
)
@goflags.arguments("words", "FILE [NAME]", complete=machine_args.complete_file)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    words: tuple[str, ...],
    **_: Any,  # the options of `share_options`, which reads them from the context
) -> None:
    """Import a machine from an exported FILE, under its old name or NAME.

    A whole machine is imported stopped; `start` issues certificates of this store for it. Connection details become a
    machine that clients can use, but that cannot be started or stopped.

    The folders that a machine shared are not in its export. On a terminal, `import` asks whether to share the folders
    that `create` would share. Elsewhere it shares none.
    """
    if not 1 <= len(words) <= 2:
        raise HelpfulUsageError("Error: Expected a file and an optional name as arguments", usage=ctx.get_help())
    from pymachine.hosts.import_ import import_  # noqa: PLC0415 (zstandard)
    from pymachine.hosts.shares import ShareRequest  # noqa: PLC0415 (the help does not need it)

    app = current(ctx)
    unanswered = False

    def choose_shares() -> ShareRequest:
        nonlocal unanswered
        chosen = share_options.ask(app, ctx)
        unanswered = chosen is None
        return chosen or ShareRequest()

    machine = import_(
        app.hosts,
        Path(words[0]),
        name=words[1] if len(words) == 2 else "",
        connection_driver=registry.name_with(ConnectionImportable),
        share=share_options.from_command_line(ctx),
        choose_shares=choose_shares,
    )
    if app.structured:
        app.show("", [machine_args.summary(app, machine.name)])
    else:
        app.say(f'Machine "{machine.name}" was imported.')
    if unanswered:
        app.reporter.info(
            f"It shares no folder of this host. To share one: pymachine modify --share PATH {machine.name}"
        )
