"""`run`: create a machine for one command, and remove it afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from pymachine.cli import create_options, goflags, project, project_file, project_trust, share_options
from pymachine.cli.context import App, current
from pymachine.cli.errors import HelpfulUsageError, RunError
from pymachine.cli.output import echo
from pymachine.hosts import client_environment, prune
from pymachine.hosts.create import CreateRequest
from pymachine.hosts.create_from_template import create
from pymachine.hosts.remove import remove
from pymachine.system import signals, user_command
from pymachine.system.progress import Terse

if TYPE_CHECKING:
    from pymachine.hosts.host import Hosts
    from pymachine.hosts.provision_scripts import Script

NOT_FOUND = 127
NOT_EXECUTABLE = 126


class Run(project.ProjectCommand):
    """A command whose options end at the first argument: later ones belong to the command to run."""

    interspersed = False


@click.command("run", cls=Run, structured=False)
@create_options.flags
@share_options.for_new_machines
@project.file_flag
@project.no_file_flag
@project_trust.flag
@goflags.flag("--keep", is_flag=True, help="Keep the machine when the command has ended")
@goflags.flag("--name", help="Name of the machine (default: a random one)")
@goflags.arguments("words", "COMMAND [arg...]")
@click.pass_context
def command(ctx: click.Context, /, words: tuple[str, ...], **given: Any) -> None:
    """Create a machine, run a command with it, and remove the machine, whether or not the command succeeds.

    The environment of the command is set as by `env`. The exit code is that of the command.
    """
    app = current(ctx)
    app.messages_to_stderr()
    if not words:
        raise HelpfulUsageError("Error: No command specified", usage=ctx.get_help())
    name = given["name"] or f"run-{secrets.token_hex(4)}"
    file = project_file.of(ctx)
    scripts: Sequence[Script] = ()
    with project.naming_keys(ctx):
        shares, origin = share_options.request(ctx, app.store_root, command="run")
        request = create_options.request(
            name,
            given,
            owner="" if given["keep"] else prune.RUN,
            shares=shares,
            origins=create_options.origins(ctx, share=origin),
        )
        if file is not None:
            project.announce(app, file)
            places = project.script_places(file)
            project_trust.ensure(file, project_trust.wishes(ctx, file, request, places), trust=given["trust"])
            scripts = project.scripts(file, places, request.driver_name)
    ctx.exit(_run(ctx, app, request, words, scripts=scripts))


def _run(ctx: click.Context, app: App, request: CreateRequest, words: Sequence[str], scripts: Sequence[Script]) -> int:
    hosts = app.hosts_with(Terse(app.reporter))
    try:
        held = prune.hold(app.store, request.name)
    except TimeoutError as error:
        raise RunError(f'Another `run` uses a machine called "{request.name}"') from error
    with held:
        create_options.prune_expired(app)
        with project.naming_keys(ctx):
            create(hosts, request)
        try:
            _run_scripts(app, hosts, request.name, scripts)
            return _call(words, client_environment.of(app.hosts, request.name))
        finally:
            with signals.ignored():
                if request.owner:
                    remove(hosts, request.name)
                else:
                    app.reporter.info(f'The machine "{request.name}" is kept: {app.program} env {request.name}')


def _run_scripts(app: App, hosts: Hosts, name: str, scripts: Sequence[Script]) -> None:
    """Run the provision scripts of the project. Their output goes to stderr, since stdout is the command's."""
    if scripts:
        from pymachine.hosts import provision_scripts  # noqa: PLC0415 (only with a project file)

        provision_scripts.run(hosts, name, scripts, show=project.scripts_output(app, err=True), again=False)


def _call(words: Sequence[str], environment: dict[str, str]) -> int:
    """Run the command on pymachine's streams, and return its exit code, or 126 or 127 if it cannot be run."""
    try:
        return user_command.call(words, environment)
    except FileNotFoundError:
        echo(f"{words[0]}: command not found", err=True)
        return NOT_FOUND
    except OSError as error:
        echo(f"{words[0]}: {error.strerror or error}", err=True)
        return NOT_EXECUTABLE
