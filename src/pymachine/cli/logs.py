"""`logs`: show the console log and the engine's log of a machine."""

from __future__ import annotations

import codecs
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import click

from pymachine.cli import goflags, machine_args
from pymachine.cli.context import App, current
from pymachine.cli.errors import RunError
from pymachine.cli.output import echo
from pymachine.driver.abilities import ConsoleLoggable, PortForwardable
from pymachine.driver.contract import Driver, State, Trait
from pymachine.errors import PymachineError
from pymachine.system import printable
from pymachine.system.limits import CHUNK_BYTES

# The engine's log on boot2docker and pymachine's own image. Other systems have it in the journal.
_FILE = "/var/lib/boot2docker/log/docker.log"
_ENGINE = (
    "if sudo test -e {file}; then sudo tail -n {lines} {follow} {file}; "
    "else sudo journalctl -o cat -u docker -n {lines} {follow}; fi"
)
_POLL_SECONDS = 0.3
# Bytes that are not UTF-8 are written to pipes and files unchanged.
_BYTES = "surrogateescape"


@click.command("logs", cls=goflags.GoCommand)
@goflags.flag("--console", is_flag=True, help="Show only the console log")
@goflags.flag("--engine", is_flag=True, help="Show only the engine's log")
@goflags.flag("--follow", "-f", is_flag=True, help="Follow the engine's log, or with --console the console log")
@goflags.flag("--tail", "-n", type=int, default=100, help="Number of lines to show from the end of each log")
@machine_args.arguments("[name]")
@click.pass_context
def command(
    ctx: click.Context, names: tuple[str, ...], *, console: bool, engine: bool, follow: bool, tail: int
) -> None:
    """Show the console log and the engine's log of a machine, and its forwarded ports.

    The console log can be shown for stopped machines too, if the driver keeps one. The engine's log is read over SSH.
    """
    app = current(ctx)
    name = machine_args.one(ctx, names)
    driver = app.hosts.open(name).driver
    lines = max(tail, 0)
    if follow:
        if app.structured:
            raise RunError("Error: --follow cannot print JSON")
        if console:
            _follow(_console_file(driver), lines)
        ctx.exit(_follow_engine(app, name, lines))
    both = console == engine
    parts: dict[str, list[str]] = {}
    if console or (both and isinstance(driver, ConsoleLoggable)):
        parts["Console"] = _last_lines(_console_file(driver), lines)
    if both and (ports := _ports(driver)):
        parts["Ports"] = ports
    if engine or (both and _is_reachable(driver)):
        parts["Engine"] = _engine_lines(app, name, lines)
    if not parts:
        raise RunError(f'No logs of machine "{name}" are available: it is {driver.state().word.lower()}')
    app.show("\n".join(_text(parts)), {title: [_as_text(line) for line in lines] for title, lines in parts.items()})


def _text(parts: dict[str, list[str]]) -> list[str]:
    if len(parts) == 1:
        return next(iter(parts.values()))
    return [line for title, lines in parts.items() for line in (f"==> {title.lower()} <==", *lines, "")][:-1]


def _as_text(line: str) -> str:
    """Return `line` for JSON: bytes that are not UTF-8 become replacement characters."""
    return line.encode(errors=_BYTES).decode(errors="replace")


def _ports(driver: Driver) -> list[str]:
    """Return a line for each port of a running machine."""
    try:
        if not isinstance(driver, PortForwardable) or driver.state() is not State.RUNNING:
            return []
    except PymachineError:
        return []
    return [
        f"{port.port}/{port.protocol}: "
        + (f"not forwarded: {printable.line(port.problem)}" if port.problem else "forwarded")
        for port in driver.forwarded_ports()
    ]


def _is_reachable(driver: Driver) -> bool:
    try:
        return Trait.NO_SSH not in driver.info.traits and driver.state() is State.RUNNING
    except PymachineError:
        return False


def _console_file(driver: Driver) -> Path:
    if not isinstance(driver, ConsoleLoggable):
        raise driver.unsupported("reading the console")
    path = driver.console_log()
    if not path.exists():
        raise RunError(f"no console log exists yet: {path} is missing", hint="The machine has not run.")
    return path


def _last_lines(path: Path, count: int) -> list[str]:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        at, data = size, b""
        while at > 0 and data.count(b"\n") <= count:
            step = min(CHUNK_BYTES, at)
            at -= step
            file.seek(at)
            data = file.read(step) + data
    lines = _lines(data.decode(errors=_BYTES))
    return lines[-count:] if count else []


def _lines(text: str) -> list[str]:
    """Split a log into lines. Only a line feed ends a line; a console log has \\r before it."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]


def _follow(path: Path, count: int) -> None:
    for line in _last_lines(path, count):
        echo(line)
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        write = _decoded(sys.stdout)
        while True:
            data = file.read()
            if data:
                write(data)
            else:
                time.sleep(_POLL_SECONDS)


def _engine_lines(app: App, name: str, count: int) -> list[str]:
    host = app.hosts.open(name)
    client = host.ssh(host.login())
    result = client.run(_ENGINE.format(file=_FILE, lines=count, follow=""))
    if result.returncode != 0:
        raise RunError(f'machine "{name}" has no engine log', details=(result.stderr or result.stdout).strip())
    return _lines(result.stdout)


def _follow_engine(app: App, name: str, count: int) -> int:
    host = app.hosts.open(name)
    client = host.ssh(host.login())
    # For a terminal, pymachine's own streams escape the guest's output. A pipe gets the bytes unchanged.
    out, errors = (_decoded(stream) if stream.isatty() else None for stream in (sys.stdout, sys.stderr))
    return client.session(["--", _ENGINE.format(file=_FILE, lines=count, follow="-f")], out=out, errors=errors)


def _decoded(stream: TextIO) -> Callable[[bytes], None]:
    """Return a function that writes pieces of a log to `stream`; a piece may end in the middle of a character."""
    decoder = codecs.getincrementaldecoder("utf-8")(_BYTES)
    line_ends = io.IncrementalNewlineDecoder(decoder, translate=False)

    def write(data: bytes) -> None:
        stream.write(line_ends.decode(data).replace("\r\n", "\n"))
        stream.flush()

    return write
