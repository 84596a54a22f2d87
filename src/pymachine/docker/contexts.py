"""Docker contexts for machines, with which ``docker --context NAME`` needs no variables.

The docker client stores them with their certificates, so they are read and changed through it. The description of a
context that pymachine made has the machine's name. No other context is ever changed or removed, whatever a record
says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection

from pymachine.driver import fields
from pymachine.driver.contract import Endpoint
from pymachine.errors import PymachineError, UsageError
from pymachine.store.client_files import ClientFiles
from pymachine.system.run import Result, run

PROGRAM = "docker"
BUILT_IN = "default"
_SECONDS = 60.0
_TLS_URLS = ("tcp:", "https:")


class ContextExistsError(PymachineError):
    """A docker context of that name exists, and does not belong to the machine."""

    code = "context-exists"


def exists(name: str) -> bool:
    """Return whether the docker client has a context `name`. Raises `CommandError` if there is no docker client."""
    return _description(name) is not None


def put(
    name: str, endpoint: Endpoint, *, machine: str, certificates: ClientFiles, formerly: Collection[str] = ()
) -> None:
    """Create or update the context `name` for `machine` at `endpoint`.

    `formerly` are the machine's earlier names. Raises `ContextExistsError` if the context is not the machine's.
    """
    exists_already = _is_own(name, {machine, *formerly})
    keys = [f"host={endpoint.url}"]
    if endpoint.url.startswith(_TLS_URLS):  # with certificates the client would use TLS for any engine
        keys += [f"{key}={path}" for key, path in certificates._asdict().items()]
    words = ["--description", _mark(machine), "--docker", ",".join(_csv(key) for key in keys)]
    _docker("context", "update" if exists_already else "create", *words, "--", name)


def remove(name: str, *, machine: str) -> None:
    """Remove the context `name` of `machine` if it exists, even if it is in use.

    Raises `ContextExistsError` if the context is not the machine's.
    """
    if _is_own(name, {machine}):
        _docker("context", "rm", "--force", "--", name)


def _mark(machine: str) -> str:
    """Return the description that marks the context of a machine."""
    return f"pymachine: {machine}"


def _is_own(name: str, machines: Collection[str]) -> bool:
    """Return whether the context `name` exists. Raises `ContextExistsError` if it belongs to none of `machines`."""
    description = _description(name)
    if description is not None and description not in {_mark(machine) for machine in machines}:
        raise ContextExistsError(
            f'the docker context "{name}" was not made by pymachine for this machine',
            hint=f"Look at it: {PROGRAM} context inspect {name}",
        )
    return description is not None


def _description(name: str) -> str | None:
    """Return the description of the context `name`, or None if there is no such context."""
    if not fields.is_context(name):
        return None
    found = _docker("context", "inspect", "--", name, check=False)
    if found.returncode != 0:
        return None
    try:
        return str(json.loads(found.stdout)[0]["Metadata"].get("Description", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""


def refuse_taken(name: str, *, instead: str) -> None:
    """Raise `UsageError` or `ContextExistsError` unless a context can get that name.

    `instead` is the hint that says how to choose another name.
    """
    if name == BUILT_IN:
        raise ContextExistsError(f'the docker context "{name}" is the docker client\'s own', hint=instead)
    if not fields.is_context(name):
        rule = "The docker client wants at least two letters, digits or (from the second on) _ . + -."
        raise UsageError(f'a docker context cannot be called "{name}"', hint=f"{rule}\n{instead}")
    if exists(name):
        hint = f"{instead}\nOr remove it first: {PROGRAM} context rm {name}"
        raise ContextExistsError(f'there is a docker context "{name}" already', hint=hint)


def _csv(field: str) -> str:
    """Quote a field of the comma-separated list in ``--docker``."""
    return '"' + field.replace('"', '""') + '"' if set(field) & set(',"\n') else field


def _docker(*words: str, check: bool = True) -> Result:
    # With DOCKER_HOST set, the client would warn that contexts have no effect.
    environment = {key: value for key, value in os.environ.items() if key not in {"DOCKER_HOST", "DOCKER_CONTEXT"}}
    return run([PROGRAM, *words], env=environment, timeout=_SECONDS, check=check)
