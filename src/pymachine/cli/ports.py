"""`ports`: list the forwarded ports of machines, and those that cannot be forwarded."""

from __future__ import annotations

from collections.abc import Sequence

import click

from pymachine.cli import goflags, machine_args, tables
from pymachine.cli.context import App, pass_app
from pymachine.driver.abilities import ForwardedPort, PortForwardable
from pymachine.driver.contract import Driver, State

# The number of ports that `problem` names, for one line.
_MOST_PROBLEMS = 5


@click.command("ports", cls=goflags.GoCommand)
@machine_args.arguments()
@pass_app
def command(app: App, names: tuple[str, ...]) -> None:
    """List the ports of machines that are forwarded to this host, and those that cannot be forwarded.

    Without names, list the ports of all machines. The ports of the engine and of SSH are not listed: see `url` and
    `inspect`.
    """
    chosen = app.names(names) if names else app.store.names()
    found: dict[str, Sequence[ForwardedPort]] = {}

    def ask(name: str) -> None:
        driver = app.hosts.open(name).driver
        if not isinstance(driver, PortForwardable):
            raise driver.unsupported("forwarding ports")
        found[name] = driver.forwarded_ports() if driver.state() is State.RUNNING else ()

    errors = machine_args.collect_errors(chosen, ask)
    rows = [(name, port) for name in chosen for port in found.get(name, ())]
    lines = [(name, f"{port.port}/{port.protocol}", port.address, port.problem or "-") for name, port in rows]
    app.show(
        tables.table([("NAME", "PORT", "ADDRESS", "PROBLEM"), *lines]),
        [
            {
                "Name": name,
                "Protocol": port.protocol,
                "Port": port.port,
                "Address": port.address,
                "Problem": port.problem,
            }
            for name, port in rows
        ],
    )
    if names:  # a list of all machines skips those that forward no ports or cannot be read
        machine_args.raise_all(errors)


def problem(driver: Driver) -> str:
    """Return which ports of a running machine cannot be forwarded, and why. Empty if all are."""
    ports = driver.forwarded_ports() if isinstance(driver, PortForwardable) else ()
    refused = [f"{_short(port)}: {port.problem}" for port in ports if port.problem]
    if len(refused) > _MOST_PROBLEMS:
        refused[_MOST_PROBLEMS:] = [f"and {len(refused) - _MOST_PROBLEMS} more, see `pymachine ports`"]
    return f"not forwarded: {'; '.join(refused)}" if refused else ""


def _short(port: ForwardedPort) -> str:
    """Return the port, with its address if it is not the machine's own."""
    name = f"{port.port}/{port.protocol}"
    return f"[{port.address}]:{name}" if ":" in port.address else name
