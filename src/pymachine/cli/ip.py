"""`ip`: print the IP addresses of machines."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, pass_app
from pymachine.errors import PymachineError
from pymachine.hosts import connection


@click.command("ip", cls=goflags.GoCommand)
@machine_args.arguments()
@pass_app
def command(app: App, names: tuple[str, ...]) -> None:
    """Get the IP address of a machine."""
    chosen = app.names(names)
    addresses: dict[str, str] = {}

    def ask(name: str) -> None:
        try:
            addresses[name] = connection.ip(app.hosts.open(name))
        except PymachineError as error:
            raise error.prefixed("Error getting IP address: ") from error

    for name in chosen:
        app.store.load(name)
    errors = machine_args.collect_errors(chosen, ask)
    found = [name for name in chosen if name in addresses]
    if app.structured:
        app.show("", [{"Name": name, "IPAddress": addresses[name]} for name in found])
    for name in () if app.structured else found:
        app.say(addresses[name])  # may be empty: a `none` machine's URL may have no host
    machine_args.raise_all(errors)
