"""`prune`: remove machines that have outlived their time."""

from __future__ import annotations

import click

from pymachine.cli import goflags
from pymachine.cli.context import App, pass_app
from pymachine.cli.errors import RunError
from pymachine.hosts import prune
from pymachine.system import printable


@click.command("prune", cls=goflags.GoCommand)
@goflags.flag("--dry-run", "-n", is_flag=True, help="Only tell what would be removed")
@goflags.arguments("words", "")
@pass_app
def command(app: App, words: tuple[str, ...], *, dry_run: bool) -> None:
    """Remove machines that have outlived their time to live, or whose `run` is gone.

    Also finish or undo changes of machines that were interrupted.
    """
    if words:
        raise RunError("Error: Too many arguments given")
    if not dry_run:
        app.manager.sweep()
    found = prune.find(app.store)
    gone = [outlived for outlived in found if dry_run or outlived.remove(app.manager, app.reporter)]
    lines = [printable.line(f"{outlived.name}: {outlived.why}") for outlived in gone] if dry_run else []
    app.show("\n".join(lines), [{"Name": outlived.name, "Reason": outlived.why} for outlived in gone])
    if len(gone) < len(found):
        raise RunError("Some machines could not be removed", hint="See above; `rm -f` lets go of their records.")
