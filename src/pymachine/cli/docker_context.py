"""`context`: docker contexts for machines. `docker --context NAME` needs no environment variables."""

from __future__ import annotations

from typing import Any

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, pass_app
from pymachine.cli.errors import RunError
from pymachine.hosts.docker_context import make_context, remove_context
from pymachine.system import printable


@click.group("context", short_help="Create, list and remove docker contexts for machines")
def command() -> None:
    """Create, list and remove docker contexts for machines.

    A context follows its machine: new certificates and a new name update it, and `rm` removes it.
    """


@command.command("create", cls=goflags.GoCommand)
@goflags.flag("--name", "context", help="Name of the context (default: the machine's name)")
@goflags.flag("--socket", is_flag=True, help="Use the machine's local socket instead of TLS, and make it if necessary")
@machine_args.arguments()
@pass_app
def create(app: App, names: tuple[str, ...], *, context: str, socket: bool) -> None:
    """Create docker contexts for running machines."""
    chosen = app.names(names)
    if context and len(chosen) > 1:
        raise RunError("Error: --name can be used with only one machine")
    for name in chosen:
        made = make_context(app.hosts, name, context or name, socket=socket)
        app.reporter.info(f'Created the docker context "{made}". Use it: docker --context {made} info')
    if app.structured:
        app.show("", _rows(app, chosen))


@command.command("ls", cls=goflags.GoCommand)
@pass_app
def list_(app: App) -> None:
    """List the machines that have a docker context."""
    rows = _rows(app, app.store.names())
    app.show("\n".join("\t".join(printable.line(str(value)) for value in row.values()) for row in rows), rows)


@command.command("rm", cls=goflags.GoCommand)
@machine_args.arguments()
@pass_app
def remove(app: App, names: tuple[str, ...]) -> None:
    """Remove the docker contexts of machines, but not the machines."""
    chosen = app.names(names)
    removed = {name: remove_context(app.hosts, name) for name in chosen}
    text = "\n".join(f'Removed the docker context "{printable.line(context)}".' for context in removed.values())
    app.show(text, [{"Name": name, "DockerContext": context} for name, context in removed.items()])


def _rows(app: App, names: list[str]) -> list[dict[str, Any]]:
    from pymachine.errors import PymachineError  # noqa: PLC0415

    rows = []
    for name in names:
        try:
            context = app.store.load(name).context
        except PymachineError:  # `ls` shows the error
            continue
        if context:
            rows.append({"Name": name, "DockerContext": context})
    return rows
