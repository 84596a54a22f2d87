"""`autostart`: start machines when this host boots."""

from __future__ import annotations

from functools import partial

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, pass_app
from pymachine.hosts import autostart, autostart_services, lifecycle
from pymachine.system import printable


@click.group("autostart", short_help="Start machines when this host boots")
def command() -> None:
    """Start machines when this host boots.

    A service of the user starts the machine, and shuts it down with this host: systemd's on Linux. On macOS, launchd
    starts it at login.
    """


@command.command("enable", cls=goflags.GoCommand)
@machine_args.arguments()
@pass_app
def enable(app: App, names: tuple[str, ...]) -> None:
    """Start machines at each boot of this host from now on. They are not started now."""
    chosen = _chosen(app, names)
    for name in chosen:
        at_boot = autostart.enable(app.hosts, name)
        app.reporter.info(f'Machine "{name}" starts when {"this host boots" if at_boot else "you log in"}.')
    if app.structured:
        app.show("", _rows(app, chosen))


@command.command("disable", cls=goflags.GoCommand)
@machine_args.arguments()
@pass_app
def disable(app: App, names: tuple[str, ...]) -> None:
    """Do not start machines at boot any more. They are not stopped now."""
    chosen = _chosen(app, names)
    for name in chosen:
        was_enabled = autostart.disable(app.hosts, name)
        more = " any more" if was_enabled else ", and did not before"
        app.reporter.info(f'Machine "{name}" does not start when this host boots{more}.')
    if app.structured:
        app.show("", _rows(app, chosen))


@command.command("ls", cls=goflags.GoCommand)
@pass_app
def list_(app: App) -> None:
    """List the machines that start when this host boots."""
    names = [name for name in app.store.names() if autostart_services.is_enabled(app.store, name)]
    app.show("\n".join(printable.line(name) for name in names), _rows(app, names))


@command.command("run", cls=goflags.GoCommand, hidden=True)
@machine_args.arguments()
@pass_app
def run(app: App, names: tuple[str, ...]) -> None:
    """Start machines that do not run. The service runs this at boot."""
    machine_args.each(app, names, partial(lifecycle.ensure_running, app.hosts))


def _chosen(app: App, names: tuple[str, ...]) -> list[str]:
    """Return the machines to act on. Raises if one of them does not exist, before anything is changed."""
    chosen = app.names(names)
    for name in chosen:
        app.store.load(name)
    return chosen


def _rows(app: App, names: list[str]) -> list[dict[str, object]]:
    return [{"Name": name, "Autostart": autostart_services.is_enabled(app.store, name)} for name in names]
