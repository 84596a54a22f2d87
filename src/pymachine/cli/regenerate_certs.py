"""`regenerate-certs`: issue new certificates, without restarting the engine or containers."""

from __future__ import annotations

import sys
from functools import partial

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, pass_app
from pymachine.cli.errors import RunError
from pymachine.cli.output import echo
from pymachine.hosts import certificates


@click.command("regenerate-certs", cls=goflags.GoCommand)
@goflags.flag("--force", "-f", is_flag=True, help="Force rebuild and do not prompt")
@goflags.flag("--client-certs", is_flag=True, help="Also regenerate client certificates and CA.")
@machine_args.arguments()
@pass_app
def command(app: App, names: tuple[str, ...], *, force: bool, client_certs: bool) -> None:
    """Regenerate TLS Certificates for a machine."""
    if not force and not _confirmed(app):
        return
    app.reporter.info("Regenerating TLS certificates")
    chosen = app.names(names)
    for name in chosen:
        app.store.load(name)
    if not client_certs:
        machine_args.each(app, names, partial(certificates.regenerate, app.hosts))
        return
    machine_args.raise_all(machine_args.collect_errors(chosen, partial(certificates.check_regenerable, app.hosts)))
    app.reporter.info("Regenerating local certificates")
    with certificates.renewed_authority(app.hosts) as keep:

        def regenerate(name: str) -> None:
            certificates.regenerate(app.hosts, name)
            keep()

        machine_args.each(app, names, regenerate)


def _confirmed(app: App) -> bool:
    """Ask for confirmation. Unlike in `rm`, the end of the input is an error, as in docker-machine."""
    echo("Regenerate TLS machine certs?  Warning: this is irreversible. (y/n): ", nl=False, err=app.structured)
    answer = sys.stdin.readline()
    if not answer:
        if sys.stdin.isatty():
            echo(err=app.structured)
        raise RunError("EOF", hint="Use --force if nobody can answer.")
    return answer.strip().lower() in {"y", "yes"}
