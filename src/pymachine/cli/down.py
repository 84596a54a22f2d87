"""`down`: stop or remove the machine of a project."""

from __future__ import annotations

import click

from pymachine.cli import goflags, project
from pymachine.cli.context import App, pass_app


@click.command("down", cls=goflags.GoCommand)
@project.file_flag
@project.name_flag
@goflags.flag("--remove", is_flag=True, help="Remove the machine with its images, containers and volumes")
@pass_app
def command(app: App, /, *, file: str, name: str, remove: bool) -> None:
    """Stop the machine of the project whose pymachine.toml is in this folder or above it."""
    from pymachine.hosts import lifecycle, project as projects  # noqa: PLC0415 (the help does not need it)
    from pymachine.hosts.remove import remove as remove_machine  # noqa: PLC0415

    found = project.read_for(file)
    project.announce(app, found)
    name = project.machine_name(found, name)
    exists = app.store.exists(name)
    if not exists:
        app.reporter.info(f'There is no machine "{name}".')
    else:
        projects.check_owner(app.store.load(name), found.path)
        if remove:
            remove_machine(app.hosts, name)
            app.reporter.info(f'Removed "{name}".')
        elif not lifecycle.ensure_stopped(app.hosts, name):
            app.reporter.info(f'The machine "{name}" is stopped.')
    app.show("", [{"Name": name, "Removed": exists and remove}])
