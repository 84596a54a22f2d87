"""The rows of `ls`: query all machines in parallel, each with a timeout. An error of one affects only its own row."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from pymachine.cli import certificate_warnings, ports
from pymachine.cli.context import App
from pymachine.driver.abilities import Locatable
from pymachine.driver.contract import Driver, State
from pymachine.errors import PymachineError
from pymachine.hosts import autostart_services
from pymachine.hosts.host import Host
from pymachine.store.record import Machine

NOT_FOUND = "not found"
# The longest possible wait for a thread or a socket: poll(2) counts milliseconds in 31 bits, which is 24 days.
_LONGEST_SECONDS = 2_000_000.0
# Sockets wait this much longer than the list, so that a machine that does not answer in time is shown as a timeout and
# not as a socket error. A socket timeout of zero would be an error, too.
_SOCKET_MARGIN_SECONDS = 1.0


@dataclass
class Row:
    """One machine, as `ls` shows it."""

    name: str
    driver: str = ""
    state: State = State.NONE
    url: str = ""
    docker: str = ""
    error: str = ""
    active: bool = False
    active_swarm: bool = False
    swarm: str = ""
    response_seconds: float = 0.0
    machine: Machine | None = None
    labels: list[str] = field(default_factory=list)
    host: str = ""
    """The host it is on, if that is not this one."""
    autostart: bool = False
    """Whether it starts when this host boots."""


def rows(app: App, names: Sequence[str], *, timeout: float, engine: bool = True) -> list[Row]:
    """Return a row for each of `names`, in their order. Machines that take longer than `timeout` seconds are timeouts.

    With `engine`, query the engine version of running machines.
    """
    results: dict[str, Row] = {}
    machines = {name: _load_or_add_error(app, name, results) for name in names}
    app.hosts  # noqa: B018 (create it here, before the threads use it)
    threads = []
    seconds = min(timeout, _LONGEST_SECONDS)
    socket_seconds = max(seconds, 0.0) + _SOCKET_MARGIN_SECONDS
    for machine in filter(None, machines.values()):
        # Daemon threads, so that a machine that never answers does not keep the program running.
        thread = threading.Thread(target=_query_into, args=(results, app, machine, socket_seconds, engine), daemon=True)
        thread.start()
        threads.append(thread)
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    found = [results.get(name) or _timed_out(name, machine, timeout) for name, machine in machines.items()]
    _fill_swarm(found)
    for row in found:
        row.autostart = autostart_services.is_enabled(app.store, row.name)
    return found


def _load_or_add_error(app: App, name: str, results: dict[str, Row]) -> Machine | None:
    """Return the machine's record, or add an error row and return None if it cannot be read."""
    try:
        return app.store.load(name)
    except PymachineError as error:
        results[name] = Row(name, driver=NOT_FOUND, state=State.ERROR, error=error.brief)
        return None


def _query_into(results: dict[str, Row], app: App, machine: Machine, timeout: float, engine: bool) -> None:  # noqa: FBT001
    began = time.monotonic()
    row = Row(machine.name, driver=machine.driver_name, docker="Unknown", machine=machine, labels=machine.engine.labels)
    try:
        _fill_row(row, app, machine, timeout, engine=engine)
    except PymachineError as error:
        row.error = error.brief
        if row.state is State.NONE:
            row.state = State.ERROR
    except Exception as error:  # noqa: BLE001 (a bug in a driver affects only its own row)
        row.state, row.error = State.ERROR, f"internal error: {type(error).__name__}: {error}"
    row.response_seconds = time.monotonic() - began
    results[machine.name] = row


def _fill_row(row: Row, app: App, machine: Machine, timeout: float, *, engine: bool) -> None:
    driver = Host(app.hosts, machine).driver
    try:
        _query(row, app, machine, driver, timeout, engine=engine)
    finally:
        driver.close()


def _query(row: Row, app: App, machine: Machine, driver: Driver, timeout: float, *, engine: bool) -> None:
    # First, since the calls below may hang if the host does not answer.
    row.host = driver.location() if isinstance(driver, Locatable) else ""
    row.state = driver.state()
    row.error = certificate_warnings.warning(app, machine)
    if row.state is not State.RUNNING:
        return
    row.error = "; ".join(filter(None, (row.error, ports.problem(driver))))
    endpoint = driver.endpoint()
    row.url = endpoint.url
    wanted = os.environ.get("DOCKER_HOST", "")
    row.active = wanted == endpoint.url or (machine.socket and wanted == _socket_url(app, machine))
    swarm_port = machine.swarm.host.rpartition(":")[2]
    row.active_swarm = machine.swarm.master and wanted == row.url.rpartition(":")[0] + ":" + swarm_port
    if engine:
        from pymachine.docker import api  # noqa: PLC0415 (ssl costs 20 ms)

        files = machine.client_files(app.store.machine_dir(row.name))
        row.docker = f"v{api.version(endpoint, certificates=files, timeout=timeout)}"


def _socket_url(app: App, machine: Machine) -> str:
    from pymachine.ssh.local_socket import place  # noqa: PLC0415 (few machines need it)

    return place.url(app.store.machine_dir(machine.name))


def _fill_swarm(found: Sequence[Row]) -> None:
    """Fill in the Swarm standalone (named after its master) of each machine that docker-machine created."""
    options = {row.name: row.machine.swarm for row in found if row.machine is not None}
    masters = {swarm.discovery: name for name, swarm in options.items() if swarm.master}
    for row in found:
        swarm = options.get(row.name)
        if swarm is not None and swarm.discovery:
            row.swarm = masters.get(swarm.discovery, "") + (" (master)" if swarm.master else "")


def _timed_out(name: str, machine: Machine | None, timeout: float) -> Row:
    row = Row(name, state=State.TIMEOUT, machine=machine, response_seconds=timeout)
    if machine is not None:
        row.driver, row.labels = machine.driver_name, machine.engine.labels
    return row
