"""`inspect`: print the record of a machine, or a part of it."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, current, json_text
from pymachine.cli.errors import HelpfulUsageError, RunError
from pymachine.cli.output import echo
from pymachine.driver.contract import Json
from pymachine.hosts import autostart_services
from pymachine.store.origins import CONFIG, FILE
from pymachine.store.record import Machine
from pymachine.system import printable

# Fields that docker-machine has for every driver. Its older versions did not write all of them.
_BASE_FIELDS = {
    "IPAddress": "",
    "MachineName": "",
    "SSHUser": "",
    "SSHPort": 0,
    "SSHKeyPath": "",
    "StorePath": "",
    "SwarmMaster": False,
    "SwarmHost": "",
    "SwarmDiscovery": "",
}


def _name(ctx: click.Context, names: tuple[str, ...]) -> str:
    """Return the machine's name. docker-machine prints the help with this error."""
    if len(names) > 1:
        raise HelpfulUsageError("Error: Expected one machine name as an argument", usage=ctx.get_help())
    return current(ctx).names(names)[0]


def _show_origins(app: App, machine: Machine) -> None:
    """Print a line for each option whose origin is recorded. Raises `RunError` if there are none."""
    from pymachine.hosts.origins import current_value  # noqa: PLC0415 (only needed with --origin)

    if not machine.origins:
        raise RunError(
            f'The record of "{machine.name}" does not say where its values came from',
            hint="Machines that `create`, `run` and `up` of this version create have it in their record.",
        )
    rows = [
        {"Option": option, "Value": current_value(machine, option), "From": each.kind, "Where": each.where}
        for option, each in sorted(machine.origins.items())
    ]
    shown = [(row["Option"], _shown(row["Value"]), _place(row["From"], row["Where"])) for row in rows]
    table = [("OPTION", "VALUE", "ORIGIN"), *shown]
    widths = [max(len(row[column]) for row in table) for column in range(2)]
    lines = [f"{row[0]:{widths[0]}}   {row[1]:{widths[1]}}   {row[2]}".rstrip() for row in table]
    app.show("\n".join(lines), rows)


def _place(kind: str, where: str) -> str:
    """Return an origin as text. The place of a key says itself that it is in a file."""
    return printable.line(where if kind in (FILE, CONFIG) else f"{kind} {where}".rstrip())


def _shown(value: Json) -> str:
    """Return a value of an option as on the command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = ", ".join(value) if isinstance(value, list) else str("" if value is None else value)
    return printable.line(text) or "empty"


@click.command("inspect", cls=goflags.GoCommand)
@goflags.flag("--format", "-f", "template", help="Format the output using the given go template")
@goflags.flag("--origin", is_flag=True, help="Print where the values of the options of `create` came from")
@machine_args.arguments("[name]")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], *, template: str, origin: bool) -> None:
    """Inspect information about a machine."""
    app = current(ctx)
    if origin:
        if template:
            raise goflags.bad_arguments(ctx, "--origin and --format exclude each other")
        _show_origins(app, app.store.load(_name(ctx, names)))
        return
    machine = app.store.load(_name(ctx, names))
    machine.proxies = machine.proxies.masked()
    record = machine.to_json()
    record["Driver"] = {**_BASE_FIELDS, **record["Driver"]}
    if autostart_services.is_enabled(app.store, machine.name):
        record["Autostart"] = True
    if app.structured or not template:
        app.say(json_text(record, indent=4))
        return
    from pymachine import gotemplate  # noqa: PLC0415

    try:
        app.say(gotemplate.parse(template).render(record))
    except gotemplate.FormatError as error:
        echo(error.partial, nl=False)  # docker-machine prints the text up to the error, too
        raise
