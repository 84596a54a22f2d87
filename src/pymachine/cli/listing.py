"""The rows of `ls`: all machines asked at once, each within its own time, none able to spoil another's row."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from pymachine.cli.context import App
from pymachine.driver import State
from pymachine.errors import PymachineError, RecordError
from pymachine.machine import Machine


@dataclass
class Row:
    """One machine, as `ls` shows it."""

    name: str
    driver: str = ""
    state: State = State.NONE
    url: str = ""
    docker: str = "Unknown"
    error: str = ""
    active: bool = False
    response_seconds: float = 0.0
    machine: Machine | None = None
    labels: list[str] = field(default_factory=list)


def rows(app: App, names: Sequence[str], *, timeout: float, engine: bool = True) -> list[Row]:
    """A row for each of `names`, in their order; what has not answered after `timeout` seconds is a timeout.

    With `engine`, running machines' engines are asked for their version.
    """
    results: dict[str, Row] = {}
    threads = []
    for name in names:
        # Daemon threads: a machine that never answers must not keep the program from ending.
        thread = threading.Thread(target=_into, args=(results, app, name, timeout, engine), daemon=True)
        thread.start()
        threads.append(thread)
    end = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return [results.get(name) or _timed_out(app, name) for name in names]


def _into(results: dict[str, Row], app: App, name: str, timeout: float, engine: bool) -> None:  # noqa: FBT001
    results[name] = _row(app, name, timeout, engine=engine)


def _row(app: App, name: str, timeout: float, *, engine: bool) -> Row:
    began = time.monotonic()
    row = Row(name)
    try:
        _fill(row, app, timeout, engine=engine)
    except RecordError as error:
        row.driver, row.state, row.error = "not found", State.ERROR, error.brief
    except PymachineError as error:
        row.error = error.brief
        if row.state is State.NONE:
            row.state = State.ERROR
    row.response_seconds = time.monotonic() - began
    return row


def _fill(row: Row, app: App, timeout: float, *, engine: bool) -> None:
    machine = app.store.load(row.name)
    row.machine, row.driver, row.labels = machine, machine.driver_name, machine.engine.labels
    driver = app.manager.driver(machine)
    row.state = driver.state()
    if row.state is not State.RUNNING:
        return
    endpoint = driver.endpoint()
    row.url = endpoint.url
    row.active = os.environ.get("DOCKER_HOST") == endpoint.url
    if engine:
        from pymachine import engine as engines  # noqa: PLC0415 (ssl and http cost 30 ms)

        version = engines.version(endpoint, directory=app.store.machine_dir(row.name), timeout=timeout)
        row.docker = f"v{version}"


def _timed_out(app: App, name: str) -> Row:
    try:
        machine = app.store.load(name)
    except PymachineError:
        return Row(name, driver="not found", state=State.ERROR)
    return Row(name, driver=machine.driver_name, state=State.TIMEOUT, machine=machine, labels=machine.engine.labels)
