"""`template`: build, list and remove the frozen machines that others are cloned from."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import click

from pymachine.cli import create_options, goflags
from pymachine.cli.context import App, current, json_option, pass_app
from pymachine.cli.tables import table
from pymachine.driver.contract import Json
from pymachine.hosts import templates
from pymachine.hosts.build_template import build_template
from pymachine.system import durations
from pymachine.system.progress import human


@click.group(name="template", short_help="Build, list and remove the templates that machines are cloned from")
def command() -> None:
    """Build, list and remove the templates that machines are cloned from.

    The first `create` of a shape (image, CPUs, memory, hypervisor) builds its template. Later ones take about a second.
    """


@command.command(name="build", cls=create_options.DriverOptionsCommand)
@create_options.driver_flag
@goflags.arguments("words", "")
@click.pass_context
def build(ctx: click.Context, /, words: tuple[str, ...], **given: Any) -> None:
    """Build the template for these options of `create` in advance."""
    if words:
        raise goflags.bad_arguments(ctx, "Error: Too many arguments given")
    app = current(ctx)
    template = build_template(app.hosts, given["driver"], given["options"])
    app.show(template.name, _summary(template))


@command.command(name="ls")
@json_option
@pass_app
def list_(app: App) -> None:
    """List templates with their size on disk, their age and their last use."""
    found = templates.find_all(app.store_root)
    now = time.time()
    rows = [("NAME", "CPUS", "MEMORY", "DISK", "ACCELERATOR", "SIZE", "MADE", "USED")]
    for template in found:
        shape = template.shape
        rows.append(
            (
                template.name,
                str(shape.get("cpus", "")),
                f"{shape.get('memory_mib', '?')} MB",
                f"{shape.get('disk_mb', '?')} MB",
                str(shape.get("accelerator", "")),
                human(template.size, "B"),
                f"{durations.humanize(now - template.made)} ago",
                f"{durations.humanize(now - template.used)} ago",
            )
        )
    app.show(table(rows), [_summary(template) for template in found])


@command.command(name="rm")
@click.argument("names", metavar="TEMPLATE...", nargs=-1, required=True)
@json_option
@pass_app
def remove(app: App, *, names: tuple[str, ...]) -> None:
    """Remove templates. Machines that were cloned from them are not affected."""
    found = [templates.find(app.store_root, name) for name in names]
    for template in found:
        templates.remove(template)
    _print_removed(app, found)


@command.command(name="prune")
@click.option("--unused-for", default="7d", show_default=True, help="Remove templates not used for this long")
@click.option("--all", "-a", "everything", is_flag=True, help="Remove all templates")
@json_option
@pass_app
def prune(app: App, *, unused_for: str, everything: bool) -> None:
    """Remove templates that have not been used for some time."""
    try:
        seconds = 0.0 if everything else durations.parse(unused_for)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--unused-for") from error
    _print_removed(app, templates.prune(app.store_root, unused_seconds=seconds))


def _print_removed(app: App, removed: Iterable[templates.Template]) -> None:
    names = [template.name for template in removed]
    app.show("\n".join(f"Removed {name}" for name in names), [{"Name": name, "Removed": True} for name in names])


def _summary(template: templates.Template) -> dict[str, Json]:
    return {
        "Name": template.name,
        "Path": str(template.directory),
        "SizeBytes": template.size,
        "Made": int(template.made),
        "Used": int(template.used),
        "Shape": dict(template.shape),
    }
