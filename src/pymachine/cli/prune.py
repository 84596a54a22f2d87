"""`prune`: remove expired machines."""

from __future__ import annotations

import click

from pymachine.cli import goflags
from pymachine.cli.context import App, pass_app
from pymachine.cli.errors import RunError
from pymachine.hosts import prune
from pymachine.hosts.sweep import sweep
from pymachine.system import printable


@click.command("prune", cls=goflags.GoCommand)
@goflags.flag("--dry-run", "-n", is_flag=True, help="List what would be removed, without removing it")
@goflags.arguments("words", "")
@pass_app
def command(app: App, words: tuple[str, ...], *, dry_run: bool) -> None:
    """Remove machines whose time to live has passed, and those that a killed `run` left behind.

    Also finish or undo interrupted changes of machines.
    """
    if words:
        raise RunError("Error: Too many arguments given")
    if not dry_run:
        sweep(app.hosts)
    found = prune.find(app.store)
    gone = [expired for expired in found if dry_run or prune.remove_expired(app.hosts, expired)]
    lines = [printable.line(f"{expired.name}: {expired.reason}") for expired in gone] if dry_run else []
    app.show("\n".join(lines), [{"Name": expired.name, "Reason": expired.reason} for expired in gone])
    if len(gone) < len(found):
        raise RunError(
            "Some machines could not be removed", hint="See the errors above. `rm -f` removes their records."
        )
