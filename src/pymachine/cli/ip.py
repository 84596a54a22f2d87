"""`ip`: where a machine is."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machines
from pymachine.cli.context import App, pass_app
from pymachine.errors import HostNotRunningError


@click.command("ip", cls=goflags.GoCommand)
@machines.arguments()
@pass_app
def command(app: App, names: tuple[str, ...]) -> None:
    """Get the IP address of a machine."""
    chosen = app.names(names)
    addresses: dict[str, str] = {}

    def ask(name: str) -> None:
        try:
            addresses[name] = app.manager.endpoint(name).address
        except HostNotRunningError as error:
            raise error.prefixed("Error getting IP address: ") from error

    for name in chosen:
        app.store.load(name)
    errors = machines.gather(chosen, ask)
    found = [name for name in chosen if name in addresses]
    app.show(
        "\n".join(addresses[name] for name in found),
        [{"Name": name, "IPAddress": addresses[name]} for name in found],
    )
    machines.raise_all(errors)
