"""`inspect`: the record of a machine, or a part of it."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import current, json_text
from pymachine.cli.errors import HelpfulUsageError
from pymachine.cli.output import echo

# What docker-machine has for every driver; its older versions did not write all of it.
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
    """The machine. Here docker-machine has its help with the error."""
    if len(names) > 1:
        raise HelpfulUsageError("Error: Expected one machine name as an argument", usage=ctx.get_help())
    return current(ctx).names(names)[0]


@click.command("inspect", cls=goflags.GoCommand)
@goflags.flag("--format", "-f", "template", help="Format the output using the given go template")
@machine_args.arguments("[name]")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], *, template: str) -> None:
    """Inspect information about a machine."""
    app = current(ctx)
    record = app.store.load(_name(ctx, names)).to_json()
    record["Driver"] = {**_BASE_FIELDS, **record["Driver"]}
    if app.structured or not template:
        app.say(json_text(record, indent=4))
        return
    from pymachine import gotemplate  # noqa: PLC0415

    try:
        app.say(gotemplate.parse(template).render(record))
    except gotemplate.FormatError as error:
        echo(error.partial, nl=False)  # which docker-machine has printed by then
        raise
