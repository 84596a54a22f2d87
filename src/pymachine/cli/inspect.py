"""`inspect`: the record of a machine, or a part of it."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machines
from pymachine.cli.context import current, json_text


@click.command("inspect", cls=goflags.GoCommand)
@goflags.flag("--format", "-f", "template", help="Format the output using the given go template")
@machines.arguments("[name]")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...], *, template: str) -> None:
    """Inspect information about a machine."""
    app = current(ctx)
    record = app.store.load(machines.one(app, names, usage=ctx.get_help())).to_json()
    if app.structured or not template:
        app.say(json_text(record, indent=4))
        return
    from pymachine import gotemplate  # noqa: PLC0415

    try:
        app.say(gotemplate.parse(template).render(record))
    except gotemplate.TemplateError as error:
        click.echo(error.partial, nl=False)  # which docker-machine has printed by then
        raise
