"""`inspect`: print the record of a machine, or a part of it."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import current, json_text
from pymachine.cli.errors import HelpfulUsageError
from pymachine.cli.output import echo

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
        echo(error.partial, nl=False)  # docker-machine prints the text up to the error, too
        raise
