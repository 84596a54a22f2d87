"""Docker contexts, made and removed with machines: ``docker --context NAME`` then needs no variables.

The docker client keeps them, certificates included, so that it is the one to be asked.
"""

from __future__ import annotations

import os
from pathlib import Path

from pymachine import paths
from pymachine.driver import Endpoint
from pymachine.errors import PymachineError
from pymachine.run import Result, run

PROGRAM = "docker"
_SECONDS = 60.0


class ContextExistsError(PymachineError):
    """There is a docker context of that name, and it is not a machine's."""

    code = "context-exists"


def exists(name: str) -> bool:
    """Whether the docker client knows a context called `name`. Raises `CommandError` if there is no client."""
    return _docker("context", "inspect", name, check=False).returncode == 0


def put(name: str, endpoint: Endpoint, *, directory: Path) -> None:
    """Make the context `name`, or change the one that is there, to lead to `endpoint` with the certificates here."""
    fields = [
        f"host={endpoint.url}",
        *(f"{key}={directory / file}" for key, file in _FILES),
    ]
    words = ["--description", f"pymachine: {directory.name}", "--docker", ",".join(_csv(field) for field in fields)]
    _docker("context", "update" if exists(name) else "create", name, *words)


def remove(name: str) -> None:
    """Remove the context `name`, in use or not; gone already is success."""
    if exists(name):
        _docker("context", "rm", "--force", name)


def refuse_existing(name: str) -> None:
    """Raise `ContextExistsError` if a context of that name is somebody else's."""
    if exists(name):
        raise ContextExistsError(
            f'there is a docker context "{name}" already',
            hint=f"Choose another name, or remove it: {PROGRAM} context rm {name}",
        )


_FILES = (("ca", paths.CA_CERT), ("cert", paths.CLIENT_CERT), ("key", paths.CLIENT_KEY))


def _csv(field: str) -> str:
    """A field of the comma-separated list that ``--docker`` takes."""
    return '"' + field.replace('"', '""') + '"' if set(field) & set(',"\n') else field


def _docker(*words: str, check: bool = True) -> Result:
    # With a DOCKER_HOST the client would say that contexts are not in force.
    environment = {key: value for key, value in os.environ.items() if key not in {"DOCKER_HOST", "DOCKER_CONTEXT"}}
    return run([PROGRAM, *words], env=environment, timeout=_SECONDS, check=check)
