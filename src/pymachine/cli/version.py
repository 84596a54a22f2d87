"""`version`: print the client's version, or that of a machine's engine."""

from __future__ import annotations

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.app import DOCKER_MACHINE_VERSION, version_line
from pymachine.cli.context import current
from pymachine.errors import PymachineError


@click.command("version", cls=goflags.GoCommand)
@machine_args.arguments("[name]")
@click.pass_context
def command(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Show the client's version, or a machine's Docker version."""
    app = current(ctx)
    if not names:
        import platform  # noqa: PLC0415

        from pymachine import __version__  # noqa: PLC0415

        versions = {
            "Version": __version__,
            "Python": platform.python_version(),
            "DockerMachine": DOCKER_MACHINE_VERSION.partition(",")[0],
        }
        app.show(version_line(ctx.find_root().command_path), versions)
        return
    from pymachine.docker import api  # noqa: PLC0415 (ssl and http cost 30 ms)

    name = machine_args.one(ctx, names)
    try:
        endpoint = app.hosts.open(name).endpoint()
    except PymachineError as error:
        raise error.prefixed("Unable to query docker version: ") from error
    version = api.version(endpoint, certificates=app.hosts.open(name).client_files())
    app.show(version, {"Name": name, "DockerVersion": version})
