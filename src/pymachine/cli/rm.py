"""`rm`: remove machines."""

from __future__ import annotations

import sys

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, current
from pymachine.cli.errors import HelpfulUsageError, brief
from pymachine.cli.output import echo
from pymachine.errors import PymachineError
from pymachine.hosts.remove import forget, remove
from pymachine.system import printable


@click.command("rm", cls=goflags.GoCommand)
@goflags.flag("--force", "-f", is_flag=True, help="Remove local configuration even if machine cannot be removed")
@goflags.flag("-y", "yes", is_flag=True, help="Assumes automatic yes to proceed with remove, without prompting")
@goflags.flag(
    "--restore",
    is_flag=True,
    help="Restore an existing host to its original state, including engine and data",
)
@machine_args.arguments()
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], *, force: bool, yes: bool, restore: bool) -> None:
    """Remove a machine."""
    if not names:
        raise HelpfulUsageError("Error: Expected to get one or more machine names as arguments", usage=ctx.get_help())
    app = current(ctx)
    app.reporter.info(f"About to remove {', '.join(names)}")
    app.reporter.info("WARNING: This action will delete both local reference and remote instance.")
    removed: list[str] = []
    errors: list[PymachineError] = []
    if force or yes or _confirmed(app):
        chosen = list(dict.fromkeys(names))
        # The machines are removed in parallel, and reported in the order of the arguments.
        for name, error in machine_args.outcomes(chosen, lambda name: remove(app.hosts, name, restore=restore)):
            if error is not None:
                error.prefixed(f'Error removing host "{name}": ')
                if not force:
                    errors.append(error)
                    continue
                echo(app.named(brief(error)), err=True)
                if not _forget(app, name):
                    continue
            removed.append(name)
            app.reporter.info(f"Successfully removed {name}")
    if app.structured:
        app.show("", [{"Name": name, "Removed": name in removed} for name in dict.fromkeys(names)])
    machine_args.raise_all(errors)


def _confirmed(app: App) -> bool:
    """Ask for confirmation. The end of the input means no."""
    echo("Are you sure? (y/n): ", nl=False, err=app.structured)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        echo(err=app.structured)
    return answer.strip().lower() in {"y", "yes"}


def _forget(app: App, name: str) -> bool:
    """Remove the machine from the store by force. Return whether it was removed."""
    if not app.store.exists(name):
        echo(f'Can\'t remove "{printable.line(name)}"', err=True)
        return False
    try:
        forget(app.hosts, name)
    except PymachineError as error:
        echo(app.named(f'Can\'t remove "{printable.line(name)}": {brief(error)}'), err=True)
        return False
    return True
