"""`up`: create or start the machine of a project, and run its provision scripts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from pymachine.cli import create_options, goflags, machine_args, project, project_trust, share_options
from pymachine.cli.context import App, current
from pymachine.errors import MachineExistsError

if TYPE_CHECKING:
    from pymachine.cli.project_file import ProjectFile
    from pymachine.hosts.create import CreateRequest
    from pymachine.hosts.project import Difference


@click.command("up", cls=project.ProjectCommand)
@create_options.flags
@share_options.for_new_machines
@project.file_flag
@project.name_flag
@project_trust.flag
@goflags.flag("--apply", is_flag=True, help="Change the machine to what the file says, with a restart if necessary")
@goflags.flag("--provision", is_flag=True, help="Run all provision scripts again")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Create or start the machine of the project whose pymachine.toml is in this folder or above it.

    A machine that exists is started if it is stopped, and keeps its hardware and options unless --apply is given. Then
    the provision scripts run that have not run yet.
    """
    from pymachine.hosts import provision_scripts  # noqa: PLC0415 (the help does not need it)
    from pymachine.store.origins import Project  # noqa: PLC0415

    app = current(ctx)
    file = project.required(ctx)
    project.announce(app, file)
    with project.naming_keys(ctx):
        places = project.script_places(file)
        request = _request(ctx, app, file, given)
        driver = app.store.load(request.name).driver_name if app.store.exists(request.name) else request.driver_name
        wishes = project_trust.wishes(ctx, file, request, places, existing=driver)
        request = replace(request, project=Project(file.path, trusted=wishes))
        scripts = project.scripts(file, places, driver)
        found: Sequence[Difference] = ()
        if _exists(app, request, file, wishes, trust=given["trust"]):
            found = _bring_up(app, request, apply=given["apply"], proxied=not given["no_host_proxy"])
    if scripts:
        show = project.scripts_output(app, err=False)
        provision_scripts.run(app.hosts, request.name, scripts, show=show, again=given["provision"])
    summary = machine_args.summary(app, request.name)
    text = f'The machine "{request.name}" is up. To connect your docker client, run: {app.program} env {request.name}'
    app.show(text, [{**summary, "Differences": [_difference_json(each) for each in found]}])


def _request(ctx: click.Context, app: App, file: ProjectFile, given: dict[str, Any]) -> CreateRequest:
    """Return the request for the machine."""
    shares, origin = share_options.request(ctx, app.store_root, command="create")
    return create_options.request(
        project.machine_name(file, given["name"]),
        given,
        shares=shares,
        origins=create_options.origins(ctx, share=origin),
    )


def _exists(app: App, request: CreateRequest, file: ProjectFile, wishes: Sequence[str], *, trust: bool) -> bool:
    """Create the machine unless it exists, and return whether it existed. Raises `UntrustedProjectError`."""
    from pymachine.hosts import project as projects  # noqa: PLC0415 (the help does not need it)
    from pymachine.hosts.create_from_template import create  # noqa: PLC0415

    if not app.store.exists(request.name):
        project_trust.ensure(file, wishes, trust=trust)
        create_options.prune_expired(app)
        with suppress(MachineExistsError):  # another `up` was faster
            create(app.hosts, request)
            return False
    machine = app.store.load(request.name)
    projects.check_owner(machine, file.path, takes_over=True)
    trusted = machine.project.trusted if machine.project else ()
    if not projects.is_of(machine, file.path):
        assert machine.project is not None  # noqa: S101 (see check_owner)
        wishes = [*wishes, f'use the machine "{machine.name}", which was created for {machine.project.file}']
    project_trust.ensure(file, wishes, trusted=trusted, trust=trust)
    return True


def _bring_up(app: App, request: CreateRequest, *, apply: bool, proxied: bool) -> Sequence[Difference]:
    """Start an existing machine unless it runs, and return how it still differs from the request.

    With `apply` it is changed before. Differences are reported. A `proxied` machine keeps its proxies in a shell
    without their variables.
    """
    from pymachine.hosts import lifecycle, project as projects  # noqa: PLC0415 (the help does not need it)
    from pymachine.hosts.modify import modify  # noqa: PLC0415
    from pymachine.store.origins import FILE  # noqa: PLC0415

    hosts, name = app.hosts, request.name
    machine = app.store.load(name)
    if proxied and machine.proxies and not request.proxies:
        request = replace(request, proxies=machine.proxies)
        if apply:
            app.reporter.info(f'"{name}" keeps its proxies: neither HTTP_PROXY nor HTTPS_PROXY is set here.')
    found = projects.differences(machine, request)
    if apply and any(each.applicable for each in found):
        modify(hosts, name, projects.changes(machine, request, found), restart=True)
        found = projects.differences(app.store.load(name), request)
    assert request.project is not None  # noqa: S101 (`up` has set it)
    projects.adopt(hosts, name, request.project.file, request.project.trusted)
    lifecycle.ensure_running(hosts, name)
    for each in found:
        where = each.origin.where or f"the default of --{each.option}"
        wanted, current = each.wanted, each.current
        if each.origin.kind == FILE and each.option.startswith("no-"):  # the file has the opposite of the option
            wanted, current = not wanted, not current
        app.reporter.warn(f'{where} is {_text(wanted)}, but the machine "{name}" has {_text(current)}.')
    if any(each.applicable for each in found):
        app.reporter.warn(f"To change the machine, which may restart it: {app.program} up --apply")
    if not all(each.applicable for each in found):
        app.reporter.warn(f"This needs a new machine: {app.program} down --remove && {app.program} up")
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value not in (None, "") else "empty"


def _difference_json(each: Difference) -> dict[str, Any]:
    return {"Option": each.option, "Current": each.current, "Wanted": each.wanted, "Applicable": each.applicable}
