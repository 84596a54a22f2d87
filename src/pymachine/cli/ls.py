"""`ls`: all machines, a row each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from pymachine.cli import goflags
from pymachine.cli.context import App, pass_app
from pymachine.cli.errors import RunError
from pymachine.cli.listing import Row, rows

HEADERS = {
    "Name": "NAME",
    "Active": "ACTIVE",
    "DriverName": "DRIVER",
    "State": "STATE",
    "URL": "URL",
    "Swarm": "SWARM",
    "DockerVersion": "DOCKER",
    "Error": "ERRORS",
    "ResponseTime": "RESPONSE",
}
DEFAULT_FORMAT = "table " + "\t".join(f"{{{{ .{name} }}}}" for name in list(HEADERS)[:-1])
FILTERS = ("driver", "label", "name", "state", "swarm")


@click.command("ls", cls=goflags.GoCommand)
@goflags.flag("--quiet", "-q", is_flag=True, help="Enable quiet mode")
@goflags.flag("--filter", "filters", multiple=True, help="Filter output based on conditions provided")
@goflags.flag("--timeout", "-t", type=int, default=10, help="Timeout in seconds")
@goflags.flag("--format", "-f", "template", help="Pretty-print machines using a Go template")
@goflags.flag("--json", "structured", is_flag=True, help="Print a JSON array")
@goflags.arguments("words", "")
@pass_app
def command(
    app: App,
    words: tuple[str, ...],
    *,
    quiet: bool,
    filters: tuple[str, ...],
    timeout: int,
    template: str,
    structured: bool,
) -> None:
    """List machines."""
    if words:
        raise RunError("Error: Too many arguments given")
    wanted = _parse(filters)
    if quiet and not wanted:
        for name in _loadable(app):
            app.say(name)
        return
    found = [row for row in rows(app, app.store.names(), timeout=timeout, engine=not quiet) if _passes(row, wanted)]
    if quiet:
        for row in found:
            if row.driver != "not found":
                app.say(row.name)
    elif structured:
        app.say(json.dumps([fields(row) for row in found], indent=2))
    else:
        _print(app, template or DEFAULT_FORMAT, found)


def fields(row: Row) -> dict[str, Any]:
    """The fields of a row under docker-machine's names, for templates and for JSON."""
    return {
        "Name": row.name,
        "Active": "*" if row.active else "-",
        "ActiveHost": row.active,
        "ActiveSwarm": False,
        "DriverName": row.driver,
        "State": row.state.word,
        "URL": row.url,
        "Swarm": "",
        "Error": row.error.strip().replace("\n", " "),
        "DockerVersion": row.docker,
        "ResponseTime": f"{row.response_seconds * 1000:.0f}ms",
    }


def _loadable(app: App) -> list[str]:
    """All names but those whose record cannot be read, without asking any machine anything."""
    from pymachine.errors import PymachineError  # noqa: PLC0415

    names = []
    for name in app.store.names():
        try:
            app.store.load(name)
        except PymachineError:
            continue
        names.append(name)
    return names


def _parse(filters: Sequence[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals:
            raise RunError("Unsupported filter syntax")
        key = key.lower()
        if key not in FILTERS:
            raise RunError(f"Unsupported filter key '{key}'", hint=f"Filters: {', '.join(FILTERS)}.")
        wanted.setdefault(key, []).append(value)
    return wanted


def _passes(row: Row, wanted: dict[str, list[str]]) -> bool:
    """Whether a row is shown: values of one key are alternatives, keys add up. What is broken is always shown."""
    if row.driver == "not found":
        return True
    tests: dict[str, Callable[[str], bool]] = {
        "driver": lambda value: row.driver == value,
        "state": lambda value: row.state.word.lower() == value.lower(),
        "name": lambda value: _matches(value, row.name),
        "label": lambda value: value in row.labels,
        "swarm": lambda value: False,  # noqa: ARG005 (Swarm standalone is gone: nobody is in one)
    }
    return all(any(tests[key](value) for value in values) for key, values in wanted.items())


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error as error:
        raise RunError(f"the filter name={pattern} is not a regular expression: {error}") from error


def _print(app: App, template: str, found: Sequence[Row]) -> None:
    from pymachine import gotemplate  # noqa: PLC0415

    text = template.replace("\\t", "\t").replace("\\n", "\n")
    table = text.startswith("table ")
    compiled = gotemplate.parse(text.removeprefix("table ") if table else text)
    lines = [compiled.render(HEADERS)] if table else []
    lines += [compiled.render(fields(row)) for row in found]
    if table:
        lines = columns(lines)
    for line in lines:
        app.say(line)


def columns(lines: Sequence[str]) -> list[str]:
    """Lines of tab-separated cells as Go's tabwriter aligns them (at least 5 wide, 3 blanks between)."""
    cells = [line.split("\t") for line in lines]
    count = max((len(row) for row in cells), default=0)
    widths = [
        max((max(5, len(row[column]) + 3) for row in cells if column < len(row) - 1), default=0)
        for column in range(count)
    ]
    return [
        "".join(cell.ljust(widths[column]) if column < len(row) - 1 else cell for column, cell in enumerate(row))
        for row in cells
    ]
