"""`template`: build, list and remove the frozen machines that others are cloned from."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from pymachine.cli import create_options, goflags, machine_args
from pymachine.cli.context import App, current, json_option, pass_app
from pymachine.cli.errors import FlagError, RunError
from pymachine.cli.tables import table
from pymachine.driver.contract import Json
from pymachine.hosts import templates
from pymachine.hosts.build_template import build_template
from pymachine.hosts.templates import NamedTemplate
from pymachine.system import durations, printable
from pymachine.system.progress import human


@click.group(name="template", short_help="Build, list and remove the templates that machines are cloned from")
def command() -> None:
    """Build, list and remove the templates that machines are cloned from.

    The first `create` of a shape (image, CPUs, memory, hypervisor) builds its template. Later ones take about a second.
    """


@command.command(name="build", cls=create_options.DriverOptionsCommand)
@create_options.flags
@goflags.flag("--pull", multiple=True, help="Pull this image into the template")
@goflags.flag(
    "--load",
    multiple=True,
    help="Load the images in this file of `docker save` into the template",
    shell_complete=machine_args.complete_file,
)
@goflags.flag(
    "--exec",
    "execute",
    multiple=True,
    help="Run this shell command on this host, with the environment of the machine that becomes the template",
)
@goflags.arguments("words", "[NAME]")
@click.pass_context
def build(ctx: click.Context, /, words: tuple[str, ...], **given: Any) -> None:
    """Build a template in advance.

    Without NAME, it is the empty one that `create` uses, and only options of the driver apply. With NAME, a machine is
    created with these options, prepared with `--pull`, `--load` and `--exec`, frozen with its images and containers,
    and removed. Clone it with `create --template NAME`. A template of that name is replaced once the new one is
    complete. `--template` begins with another named template.
    """
    app = current(ctx)
    if len(words) > 1:
        raise goflags.bad_arguments(ctx, "Error: Too many arguments given")
    template = _build_named(ctx, app, words[0], given) if words else _build_empty(ctx, app, given)
    app.show(template.name, _summary(template))


def _build_empty(ctx: click.Context, app: App, given: Mapping[str, Any]) -> templates.Template:
    _refuse_time_to_live(ctx)
    applicable = {"driver", goflags.STRUCTURED, *create_options.of_driver(ctx)}
    for name, flag in create_options.from_command_line(ctx):
        if name not in applicable:
            raise FlagError(f"{flag.opts[0]} is for templates with a name")
    return build_template(app.hosts, given["driver"], given["options"])


def _refuse_time_to_live(ctx: click.Context) -> None:
    """Raise `FlagError` for ``--ttl``: a concurrent `create` could remove the machine while it is prepared."""
    if any(name == "ttl" for name, _ in create_options.from_command_line(ctx)):
        raise FlagError("--ttl is for machines, not for templates")


def _build_named(ctx: click.Context, app: App, name: str, given: Mapping[str, Any]) -> templates.Template:
    from pymachine.hosts import build_named_template, create_from_template  # noqa: PLC0415 (the help needs neither)
    from pymachine.hosts.build_named_template import Steps  # noqa: PLC0415
    from pymachine.store.origins import FLAG, Origin  # noqa: PLC0415

    _refuse_time_to_live(ctx)
    # A template has no shared folders, since its clones may be on other paths. So there are no options for them.
    no_folder = Origin(FLAG, "--no-share")
    options = {**given, "no_share_events": False}
    request = create_options.request("template", options, origins=create_options.origins(ctx, share=no_folder))
    create_options.prune_expired(app)
    folder = Path.cwd()
    steps = Steps(
        pull=given["pull"],
        load=[folder / path for path in given["load"]],
        execute=given["execute"],
        folder=folder,
    )
    return build_named_template.build(app.hosts, name, request, steps, create_from_template.create)


@command.command(name="create")
@click.argument("name", metavar="TEMPLATE")
@click.option(
    "--from",
    "machine",
    required=True,
    metavar="MACHINE",
    help="The running machine to copy",
    shell_complete=machine_args.complete,
)
@json_option
@pass_app
def create(app: App, *, name: str, machine: str) -> None:
    """Freeze a copy of a running machine.

    The template has the machine's images and containers, and the machine goes on. A template of that name is replaced
    once the new one is complete.
    """
    from pymachine.hosts.freeze import freeze  # noqa: PLC0415 (the help does not need it)

    template = freeze(app.hosts, machine, name)
    app.show(template.name, _summary(template))


@command.command(name="ls")
@json_option
@pass_app
def list_(app: App) -> None:
    """List templates.

    The table has their size on disk, their age and their last use.
    """
    found = templates.find_all(app.store_root)
    now = time.time()
    rows = [("NAME", "CPUS", "MEMORY", "DISK", "ACCELERATOR", "IMAGES", "CONTAINERS", "SIZE", "MADE", "USED")]
    for template in found:
        shape = template.shape
        rows.append(
            (
                template.name,
                str(shape.get("cpus", "")),
                f"{shape.get('memory_mib', '?')} MB",
                f"{shape.get('disk_mb', '?')} MB",
                str(shape.get("accelerator", "")),
                str(len(template.contents.images)) if isinstance(template, NamedTemplate) else "-",
                str(len(template.contents.containers)) if isinstance(template, NamedTemplate) else "-",
                human(template.size, "B"),
                f"{durations.humanize(now - template.made)} ago",
                f"{durations.humanize(now - template.used)} ago",
            )
        )
    app.show(table(rows), [_summary(template) for template in found])


@command.command(name="show")
@click.argument("name", metavar="TEMPLATE", shell_complete=machine_args.complete_template)
@json_option
@pass_app
def show(app: App, *, name: str) -> None:
    """Show what a template contains, and what it was made from."""
    template = templates.find(app.store_root, name)
    app.show("\n".join(_lines(template)), _summary(template))


@command.command(name="verify")
@click.argument("names", metavar="[TEMPLATE...]", nargs=-1, shell_complete=machine_args.complete_template)
@json_option
@pass_app
def verify(app: App, *, names: tuple[str, ...]) -> None:
    """Read templates whole, and compare them with their digests. Without names, all of them."""
    root = app.store_root
    found = [templates.find(root, name) for name in names] if names else templates.find_all(root)
    problems = {template.name: templates.damage(template) for template in found}
    app.show(
        "\n".join(f"{name}: intact" for name, problem in problems.items() if not problem),
        [{"Name": name, "Problem": problem} for name, problem in problems.items()],
    )
    machine_args.raise_all([_damaged(name, problem) for name, problem in problems.items() if problem])


def _damaged(name: str, problem: str) -> RunError:
    return RunError(
        f"the template {name} is damaged: {problem}", hint=f"Remove it, and make it again: pymachine template rm {name}"
    )


@command.command(name="rm")
@click.argument("names", metavar="TEMPLATE...", nargs=-1, required=True, shell_complete=machine_args.complete_template)
@json_option
@pass_app
def remove(app: App, *, names: tuple[str, ...]) -> None:
    """Remove templates. Machines that were cloned from them are not affected."""
    found = [templates.find(app.store_root, name) for name in names]
    for template in found:
        templates.remove(template)
    _print_removed(app, found)


@command.command(name="prune")
@click.option("--unused-for", default="7d", show_default=True, help="Remove those not used for this long")
@click.option("--all", "-a", "everything", is_flag=True, help="Remove all that have no name")
@json_option
@pass_app
def prune(app: App, *, unused_for: str, everything: bool) -> None:
    """Remove unused templates that have no name.

    These are the ones that `create` makes again when it needs them. Templates with a name are removed only by `rm`.
    """
    try:
        seconds = 0.0 if everything else durations.parse(unused_for)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--unused-for") from error
    _print_removed(app, templates.prune(app.store_root, unused_seconds=seconds))


def _print_removed(app: App, removed: Iterable[templates.Template]) -> None:
    names = [template.name for template in removed]
    app.show("\n".join(f"Removed {name}" for name in names), [{"Name": name, "Removed": True} for name in names])


_SHOWN = {"cpus": "CPUs", "memory_mib": "Memory (MB)", "disk_mb": "Disk (MB)", "accelerator": "Accelerator"}
"""The parts of a shape that `show` prints, with their headings."""


def _lines(template: templates.Template) -> Iterator[str]:
    now = time.time()
    yield f"Name: {template.name}"
    yield f"Size: {human(template.size, 'B')}"
    yield f"Made: {durations.humanize(now - template.made)} ago"
    yield f"Used: {durations.humanize(now - template.used)} ago"
    for key, value in template.shape.items():
        if key in _SHOWN:
            yield f"{_SHOWN[key]}: {value}"
    if isinstance(template, NamedTemplate):
        yield from [f"Made from: machine {template.machine}"] if template.machine else _recipe_lines(template.recipe)
        for image in template.contents.images:
            yield f"Image: {', '.join(image.names) or '<none>'} ({human(image.size, 'B')})"
        for container in template.contents.containers:
            yield f"Container: {container.name} ({container.image})"


def _recipe_lines(recipe: Mapping[str, Json]) -> Iterator[str]:
    from pymachine.hosts.build_named_template import Steps  # noqa: PLC0415 (the help does not need it)

    try:
        base, steps = str(recipe["template"]), Steps.from_json(recipe)
    except (KeyError, TypeError, ValueError):
        yield "Made from: a recipe that cannot be read"
        return
    yield f"Made from: {f'template {base}' if base else 'a new machine'}"
    for image in steps.pull:
        yield _indented("Pull", image)
    for path in steps.load:
        yield _indented("Load", str(path))
    for script in steps.execute:
        yield _indented("Exec", script)
    yield _indented("Folder", str(steps.folder))


def _indented(heading: str, text: str) -> str:
    """Return a heading and its text, whose further lines are indented, since a command can have several."""
    return f"{heading}: " + printable.block(text).rstrip("\n").replace("\n", "\n  ")


def _summary(template: templates.Template) -> dict[str, Json]:
    return {
        "Name": template.name,
        "Path": str(template.directory),
        "SizeBytes": template.size,
        "Made": int(template.made),
        "Used": int(template.used),
        "Shape": dict(template.shape),
        **(_origin_and_contents(template) if isinstance(template, NamedTemplate) else {}),
    }


def _origin_and_contents(template: NamedTemplate) -> Mapping[str, Json]:
    recipe = {key.capitalize(): value for key, value in template.recipe.items()}
    return {**template.contents.to_json(), "Machine": template.machine, "Recipe": recipe}
