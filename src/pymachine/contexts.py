"""Docker contexts, made and removed with machines: ``docker --context NAME`` then needs no variables.

The docker client keeps them, certificates included, so that it is the one to be asked.
"""

from __future__ import annotations

import os
import re

from pymachine.client_files import ClientFiles
from pymachine.driver import Endpoint
from pymachine.errors import PymachineError, UsageError
from pymachine.run import Result, run

PROGRAM = "docker"
BUILT_IN = "default"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]+")
_SECONDS = 60.0
_TLS_URLS = ("tcp:", "https:")


class ContextExistsError(PymachineError):
    """There is a docker context of that name, and it is not a machine's."""

    code = "context-exists"


def exists(name: str) -> bool:
    """Whether the docker client knows a context called `name`. Raises `CommandError` if there is no client."""
    return _docker("context", "inspect", name, check=False).returncode == 0


def put(name: str, endpoint: Endpoint, *, machine: str, certificates: ClientFiles) -> None:
    """Make the context `name`, or change the one that is there, to lead to `machine` at `endpoint`."""
    fields = [f"host={endpoint.url}"]
    if endpoint.url.startswith(_TLS_URLS):  # with certificates the client would speak TLS to any other engine too
        fields += [f"{key}={path}" for key, path in certificates._asdict().items()]
    words = ["--description", f"pymachine: {machine}", "--docker", ",".join(_csv(field) for field in fields)]
    _docker("context", "update" if exists(name) else "create", name, *words)


def remove(name: str) -> None:
    """Remove the context `name`, in use or not; gone already is success."""
    if exists(name):
        _docker("context", "rm", "--force", name)


def refuse_taken(name: str, *, instead: str) -> None:
    """Raise `UsageError` or `ContextExistsError` unless a context can be made under that name.

    `instead` says how to make it under another one.
    """
    if name == BUILT_IN:
        raise ContextExistsError(f'the docker context "{name}" is the docker client\'s own', hint=instead)
    if not _NAME.fullmatch(name):
        rule = "The docker client wants at least two letters, digits or (from the second on) _ . + -."
        raise UsageError(f'a docker context cannot be called "{name}"', hint=f"{rule}\n{instead}")
    if exists(name):
        hint = f"{instead}\nOr remove it first: {PROGRAM} context rm {name}"
        raise ContextExistsError(f'there is a docker context "{name}" already', hint=hint)


def _csv(field: str) -> str:
    """A field of the comma-separated list that ``--docker`` takes."""
    return '"' + field.replace('"', '""') + '"' if set(field) & set(',"\n') else field


def _docker(*words: str, check: bool = True) -> Result:
    # With a DOCKER_HOST the client would say that contexts are not in force.
    environment = {key: value for key, value in os.environ.items() if key not in {"DOCKER_HOST", "DOCKER_CONTEXT"}}
    return run([PROGRAM, *words], env=environment, timeout=_SECONDS, check=check)
