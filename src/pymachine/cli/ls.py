"""`ls`: list machines, one row each."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from pymachine.cli import goflags
from pymachine.cli.context import App, json_text, pass_app
from pymachine.cli.errors import RunError
from pymachine.cli.listing import NOT_FOUND, Row, rows
from pymachine.cli.output import echo
from pymachine.cli.tables import align, cell
from pymachine.driver.contract import State
from pymachine.store.record import share_json
from pymachine.system import streams

if TYPE_CHECKING:
    from pymachine.gotemplate import Template

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
    "ActiveHost": "ACTIVE_HOST",
    "ActiveSwarm": "ACTIVE_SWARM",
    "SwarmOptions": "SWARM_OPTIONS",
    "EngineOptions": "ENGINE_OPTIONS",
    "Host": "HOST",
    "Shares": "SHARES",
    "Autostart": "AUTOSTART",
}
# The columns of docker-machine's default format, in its order.
TABLE = ("Name", "Active", "DriverName", "State", "URL", "Swarm", "DockerVersion", "Error")
FILTERS = ("driver", "label", "name", "state", "swarm")
WATCH_SECONDS = 2.0
# Move the cursor to the upper left corner, and clear the terminal.
_CLEAR = "\x1b[H\x1b[2J"


@click.command("ls", cls=goflags.GoCommand)
@goflags.flag("--quiet", "-q", is_flag=True, help="Enable quiet mode")
@goflags.flag("--filter", "filters", multiple=True, help="Filter output based on conditions provided")
@goflags.flag("--timeout", "-t", type=int, default=10, help="Timeout in seconds")
@goflags.flag("--format", "-f", "template", help="Pretty-print machines using a Go template")
@goflags.flag("--watch", "-w", is_flag=True, help="Refresh the list every two seconds until interrupted")
@goflags.arguments("words", "")
@pass_app
def command(
    app: App,
    words: tuple[str, ...],  # noqa: ARG001
    *,
    quiet: bool,
    filters: tuple[str, ...],
    timeout: int,
    template: str,
    watch: bool,
) -> None:
    """List machines."""
    # `words` are ignored, as docker-machine does.
    wanted = _parse_filters(filters)
    form = _Format(template) if template and not quiet and not app.structured else None

    def listed() -> str:
        if quiet and not wanted:
            return _lines(_readable_names(app))
        found = [row for row in rows(app, app.store.names(), timeout=timeout, engine=not quiet) if _fits(row, wanted)]
        if app.structured:
            # With --watch, each list is one line, so that a program can read list by list.
            return json_text([fields(row) for row in found], indent=None if watch else 2) + "\n"
        if quiet:
            return _lines(row.name for row in found if row.driver != NOT_FOUND)
        return _table(found) if form is None else form.text(found)

    if watch:
        _watch(listed)
    echo(listed(), nl=False)


def _watch(listed: Callable[[], str]) -> None:
    """Print the list repeatedly. On a terminal, each list replaces the last one."""
    terminal = sys.stdout.isatty()
    while True:
        began = time.monotonic()
        text = listed()
        if terminal:
            streams.write_control(sys.stdout, _CLEAR)
        echo(text, nl=False)
        time.sleep(max(0.0, WATCH_SECONDS - (time.monotonic() - began)))


def fields(row: Row) -> dict[str, Any]:
    """Return the fields of a row under docker-machine's names, for templates and JSON."""
    record = {} if row.machine is None else row.machine.to_json()["HostOptions"]
    return {
        "Name": row.name,
        "Active": _active(row),
        "ActiveHost": row.active,
        "ActiveSwarm": row.active_swarm,
        "DriverName": row.driver,
        "State": row.state.word,
        "URL": row.url,
        "SwarmOptions": record.get("SwarmOptions"),
        "Swarm": row.swarm,
        "EngineOptions": record.get("EngineOptions"),
        "Error": row.error.strip().replace("\n", " "),
        "DockerVersion": row.docker,
        "ResponseTime": duration(row.response_seconds),
        "Host": row.host,
        "Shares": [] if row.machine is None else [share_json(share) for share in row.machine.shares],
        "Autostart": row.autostart,
    }


def _active(row: Row) -> str:
    if row.driver == NOT_FOUND or row.state is State.TIMEOUT:
        return ""  # unknown
    return "* (swarm)" if row.active_swarm else "*" if row.active else "-"


def _lines(names: Iterable[str]) -> str:
    """Return the names as lines, sorted by bytes as docker-machine does. (Tables have natural order.)"""
    return "".join(f"{name}\n" for name in sorted(names))


def _readable_names(app: App) -> list[str]:
    """Return the names of all machines whose record can be read, without querying any machine."""
    from pymachine.errors import PymachineError  # noqa: PLC0415

    names = []
    for name in app.store.names():
        try:
            app.store.load(name)
        except PymachineError:
            continue
        names.append(name)
    return names


def _parse_filters(filters: Sequence[str]) -> dict[str, list[str]]:
    wanted: dict[str, list[str]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals:
            raise RunError("Unsupported filter syntax")
        key = key.lower()
        if key not in FILTERS:
            raise RunError(f"Unsupported filter key '{key}'", hint=f"Filters: {', '.join(FILTERS)}.")
        if key == "name":
            _compile_pattern(value)
        wanted.setdefault(key, []).append(value)
    return wanted


def _compile_pattern(pattern: str) -> re.Pattern[str]:
    from pymachine.cli import goregexp  # noqa: PLC0415 (only this filter needs it)

    try:
        return goregexp.compiled(pattern)
    except re.error as error:
        raise RunError(f"the filter name={pattern} is not a regular expression: {error}") from error


def _fits(row: Row, wanted: dict[str, list[str]]) -> bool:
    """Return whether to show a row: it must match one value of each key. Unreadable machines are always shown."""
    if row.driver == NOT_FOUND:
        return True
    tests: dict[str, Callable[[str], bool]] = {
        "driver": lambda value: row.driver.lower() == value.lower(),
        "state": lambda value: row.state.word.lower() == value.lower(),
        "name": lambda value: _compile_pattern(value).search(row.name) is not None,
        "label": lambda value: any(_same_label(value, label) for label in row.labels),
        "swarm": lambda value: row.swarm.removesuffix(" (master)").lower() == value.lower() != "",
    }
    return all(any(tests[key](value) for value in values) for key, values in wanted.items())


def _same_label(wanted: str, label: str) -> bool:
    """Compare labels: keys exactly, values regardless of case."""
    (key, _, value), (own_key, _, own_value) = wanted.partition("="), label.partition("=")
    return key == own_key and value.lower() == own_value.lower()


def duration(seconds: float) -> str:
    """Format a duration as Go does, in whole milliseconds."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds / 1000, 60)
    return f"{minutes:.0f}m{rest:g}s" if minutes else f"{rest:g}s"


def _table(found: Sequence[Row]) -> str:
    """Format rows in the default format. Parsing it as a template would take a tenth of the whole run."""
    records = [HEADERS, *(fields(row) for row in found)]
    # Add the column HOST, before the last, only if a machine is on another host.
    names = (*TABLE[:-1], "Host", TABLE[-1]) if any(row.host for row in found) else TABLE
    rows = [[cell(str(record[name])) for name in names] for record in records]
    return "".join(f"{line}\n" for line in align(rows))


class _Format:
    """A template for rows. After the word ``table``, the output is aligned columns under headers."""

    def __init__(self, template: str) -> None:
        from pymachine import gotemplate  # noqa: PLC0415

        self._table = template.startswith("table")
        text = template.removeprefix("table").strip(" ").replace("\\t", "\t").replace("\\n", "\n")
        try:
            self._template: Template = gotemplate.parse(text)
        except gotemplate.FormatError as error:
            # Only the errors of `inspect` have this prefix.
            raise RunError(error.brief.removeprefix("template parsing error: ")) from error

    def text(self, found: Sequence[Row]) -> str:
        """Return the text of all rows."""
        from pymachine.cli import list_item  # noqa: PLC0415 (only templates need types)
        from pymachine.gotemplate import FormatError  # noqa: PLC0415
        from pymachine.gotemplate.types import TextMap  # noqa: PLC0415

        lines: list[str] = []
        try:
            for value in [TextMap(HEADERS)] if self._table else []:
                lines.append(self._template.render(value))
            for row in found:
                lines.append(self._template.render(list_item.item(row, self._shown(row))))
        except FormatError as error:
            # docker-machine prints the text up to the error, and does not pad an unfinished cell.
            lines.append(error.partial.removesuffix("\t") if self._table else error.partial)
            echo(self._aligned(lines), nl=False)
            raise
        return self._aligned([*lines, ""])

    def _shown(self, row: Row) -> dict[str, Any]:
        """Return the row's fields, without line breaks and tabs if they go into a table or to a terminal."""
        values = fields(row)
        if not self._table and not sys.stdout.isatty():
            return values
        return {name: cell(value) if isinstance(value, str) else value for name, value in values.items()}

    def _aligned(self, lines: Sequence[str]) -> str:
        """Join lines, in columns if it is a table. The last line has no line break."""
        return "\n".join(align([line.split("\t") for line in lines]) if self._table else lines)
