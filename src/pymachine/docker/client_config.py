"""The proxies in the docker client's ``config.json``, which the client sets in containers and builds, by engine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymachine.driver.contract import Json
from pymachine.errors import PymachineError
from pymachine.system import files, os_errors

_VARIABLE = "DOCKER_CONFIG"
_PROXIES = "proxies"
_LOCK_SECONDS = 60.0
_LONGEST = 16 << 20


class ClientConfigError(PymachineError):
    """The docker client's ``config.json`` cannot be read or changed."""

    code = "docker-config"


def path() -> Path:
    """Return the path of the file that the docker client reads: see ``DOCKER_CONFIG`` in its manual."""
    folder = os.environ.get(_VARIABLE) or Path(os.path.expanduser("~"), ".docker")  # noqa: PTH111 (never raises)
    return Path(folder, "config.json")


def check() -> None:
    """Raise `ClientConfigError` if the file exists and cannot be read."""
    try:
        _read()
    except OSError as error:
        raise _wrapped(error, "read") from error


@contextmanager
def changing_proxies() -> Iterator[dict[str, Json]]:
    """Lock the file and yield its proxies, by the engine's address. Write them after the block if they have changed.

    The rest of the content, the mode and the owner are kept, except that only the owner keeps access to proxies with a
    password. Raises `ClientConfigError`.
    """
    lock = path().with_name(".pymachine.lock")
    try:
        with files.acquire_lock(lock, timeout=_LOCK_SECONDS):
            try:
                content = _read()
                before = content.get(_PROXIES) or {}
                proxies = dict(before)
                yield proxies
                if proxies != before:
                    _write(content, proxies)
            finally:
                files.discard_lock(lock)
    except OSError as error:  # a TimeoutError, too
        raise _wrapped(error, "change") from error


def _read() -> dict[str, Json]:
    """Return the content of the file, without one an empty object. Raises `ClientConfigError` and OSError."""
    try:
        data = files.read_regular(path(), longest=_LONGEST)
    except FileNotFoundError:
        return {}
    try:
        content = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError) as error:
        # The docker client has its users' passwords in this file, so no part of it is printed.
        where = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ClientConfigError(f"{path()} is not valid JSON{where}", hint="Correct it, or move it away.") from None
    if not isinstance(content, dict) or not isinstance(content.get(_PROXIES) or {}, dict):
        raise ClientConfigError(
            f"{path()} is not a configuration of the docker client",
            hint=f"The file, and {_PROXIES} in it, have to be JSON objects. Correct it, or move it away.",
        )
    return content


def _write(content: dict[str, Json], proxies: dict[str, Json]) -> None:
    content[_PROXIES] = proxies
    if not proxies:
        del content[_PROXIES]
    # As the docker client writes it.
    text = json.dumps(content, indent="\t", ensure_ascii=False)
    files.rewrite(path(), text.encode(errors="surrogatepass"), private="@" in json.dumps(proxies))


def _wrapped(error: OSError, verb: str) -> ClientConfigError:
    return os_errors.wrapped(ClientConfigError, f"cannot {verb} {path()}", error, elsewhere=_VARIABLE)
