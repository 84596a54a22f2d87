"""Start the registry cache, end it, and report its status."""

from __future__ import annotations

import http.client
import random
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from pymachine.errors import TimeoutExpiredError, UsageError
from pymachine.registry_cache import configuration, report, state as states, storage
from pymachine.registry_cache.configuration import ADDRESS
from pymachine.registry_cache.place import (
    COMMAND_LOCK,
    CONFIGURATION,
    KEEPER,
    LOG,
    REPORT,
    STATE,
    UPSTREAM_CAS,
    RegistryCacheError,
    RegistryMissingError,
)
from pymachine.registry_cache.state import DEFAULT_LIMIT_MIB, DOCKER_HUB, STORAGE, State
from pymachine.registry_cache.storage import Blob
from pymachine.store import paths
from pymachine.system import files, os_errors, run
from pymachine.system.progress import Silent
from pymachine.system.wait import until

PROGRAM = "docker-registry"
# The gateway of user networks, at which machines reach this host's loopback. Other addresses that a driver may report
# are not in the certificate, and such machines do not use the cache.
HOSTS = (ADDRESS, "localhost", "10.0.2.2")
START_SECONDS = 60.0
_COMMAND_SECONDS = 120.0
# Longer than a keeper waits for docker-registry.
_END_SECONDS = 20.0
# Below the ports of outgoing connections, which could take the port while docker-registry is started again.
_PORTS = (20000, 32000)
_PORT_TRIES = 50


@dataclass(frozen=True)
class Wanted:
    """The options of `cache start`; None for the last ones, or the defaults."""

    upstream: str | None = None
    limit_mib: int | None = None
    port: int | None = None


@dataclass(frozen=True)
class Status:
    """The registry cache at one moment."""

    state: State
    is_running: bool
    problem: str
    """Why it does not answer; "" if it does, or if it is not running."""
    size: int
    blobs: int

    @property
    def url(self) -> str:
        """Its address on this host."""
        return url(self.state)


def url(state: State) -> str:
    """Return the cache's address on this host."""
    return f"https://{ADDRESS}:{state.port}"


def start(folder: Path, wanted: Wanted, *, ca_certificates: Sequence[str] = ()) -> tuple[State, bool]:
    """Start the cache. Return its settings, and False if it was running with them already.

    It trusts `ca_certificates`, in PEM, for the upstream registry.
    If it runs with other settings, it is started again. If it does not answer with them, it runs with the last ones as
    before. Raises `RegistryMissingError`, `UsageError`, and `RegistryCacheError` if it does not answer.
    """
    program = run.which(PROGRAM)
    if program is None:
        raise RegistryMissingError(
            f"the registry cache needs {PROGRAM}, which is not installed",
            hint=f"Install it, for example: sudo apt-get install {PROGRAM}\nDebian starts a service with it, which "
            f"pymachine does not need and other computers can reach: sudo systemctl disable --now {PROGRAM}",
        )
    upstream = None if wanted.upstream is None else check_upstream(wanted.upstream)
    wanted = replace(wanted, upstream=upstream)
    with _command(folder):
        before = states.load(folder)
        state = _merged(before, wanted)
        if state == before and KEEPER.find(folder):
            return state, False
        try:
            with _restored_on_failure(folder, before, program):
                _prepare(folder, state, ca_certificates)
                _await_answer(folder, state, _launch(folder, program))
            _remove_other_storage(folder, state)
        except OSError as error:
            raise _unwritable(folder, error) from error
    return state, True


def stop(folder: Path) -> bool:
    """End the cache, and return whether it ran. Raises `RegistryCacheError`."""
    if not folder.exists():
        return False
    with _command(folder):
        return KEEPER.end(folder)


def status(folder: Path) -> Status | None:
    """Return the status, or None if the cache was never started."""
    state = states.load(folder)
    if state is None:
        return None
    is_running = bool(KEEPER.find(folder))
    blobs = storage.blobs(folder / state.storage)
    problem = "" if not is_running or _answers(folder, state) else report.problem(folder) or "it does not answer"
    return Status(state, is_running, problem, sum(blob.size for blob in blobs), len(blobs))


def prune(folder: Path, *, unused_seconds: float) -> list[Blob]:
    """Remove the blobs that were not used for `unused_seconds`, and return them. Raises `RegistryCacheError`."""
    state = states.load(folder)
    try:
        return storage.prune(folder / state.storage, unused_seconds=unused_seconds) if state else []
    except OSError as error:
        raise _unwritable(folder, error) from error


def check_upstream(text: str) -> str:
    """Return the URL of an upstream registry, normalised. Raises `UsageError` if it cannot be one."""
    try:
        parts = urlsplit(text.strip())
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        raise UsageError(
            f"--upstream {text!r} is not the URL of a registry", hint=f"For example, Docker Hub: {DOCKER_HUB}"
        )
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "--upstream has a user name or a password, and the cache keeps none",
            hint="Images that need a login are pulled directly, with the login of the docker client.",
        )
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise UsageError(f"--upstream {text!r} has more than a scheme, a host and a port")
    return f"{parts.scheme}://{parts.netloc}"


def _command(folder: Path) -> AbstractContextManager[object]:
    """Hold the lock of `start` and `stop`. Raises `RegistryCacheError`."""
    try:
        return files.acquire_lock(folder / COMMAND_LOCK, timeout=_COMMAND_SECONDS)
    except TimeoutError as error:
        raise RegistryCacheError(
            f"another pymachine has been starting or ending the registry cache for {_COMMAND_SECONDS:g} seconds",
            hint="Wait for it to end, or end it.",
        ) from error
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> RegistryCacheError:
    return os_errors.wrapped(RegistryCacheError, f"cannot write in {folder}", error, elsewhere=paths.ENV_CACHE)


def _merged(before: State | None, wanted: Wanted) -> State:
    """Return the settings that are wanted, with the last ones or the defaults for the others."""
    port = wanted.port or (before.port if before else 0) or _free_port()
    return State(
        port=port,
        upstream=wanted.upstream or (before.upstream if before else DOCKER_HUB),
        limit_mib=wanted.limit_mib or (before.limit_mib if before else DEFAULT_LIMIT_MIB),
        hosts=HOSTS,
    )


def _prepare(folder: Path, state: State, ca_certificates: Sequence[str]) -> None:
    """Write all that docker-registry needs. Raises OSError, and `RegistryCacheError` if the port is taken."""
    from pymachine.tls import certs  # noqa: PLC0415 (cryptography)

    if not _is_free(state.port):
        raise RegistryCacheError(
            f"port {state.port} of {ADDRESS} is in use",
            hint="End the program that uses it, or choose another port: pymachine cache start --port PORT\n"
            "Machines use the new one from their next start on.",
        )
    names = (paths.CA_CERT, paths.CA_KEY, paths.CLIENT_CERT, paths.CLIENT_KEY)
    authority = certs.AuthPaths(*(folder / name for name in names))
    certs.ensure_authority(authority, reporter=Silent(), margin=certs.RENEW_BEFORE)
    certs.ensure_server(authority, directory=folder, name="registry-cache", hosts=state.hosts)
    (folder / REPORT).unlink(missing_ok=True)
    if ca_certificates:
        files.atomic_write(folder / UPSTREAM_CAS, configuration.upstream_cas(ca_certificates))
    else:
        (folder / UPSTREAM_CAS).unlink(missing_ok=True)
    _write(folder, state)


@contextmanager
def _restored_on_failure(folder: Path, before: State | None, program: Path) -> Iterator[None]:
    """End the cache for the block. If that fails, restore the cache with its last settings: an option may be wrong."""
    ran = KEEPER.end(folder)
    try:
        yield
    except BaseException:
        if before is None:
            (folder / STATE).unlink(missing_ok=True)
        else:
            _write(folder, before)
            if ran:
                _let_run(_launch(folder, program))
        raise


def _write(folder: Path, state: State) -> None:
    files.atomic_write(folder / CONFIGURATION, configuration.text(folder, state))
    states.save(folder, state)


def _let_run(keeper: subprocess.Popen[bytes]) -> None:
    """Prevent the warning about a child that was not waited for."""
    keeper.returncode = keeper.returncode or 0


def _remove_other_storage(folder: Path, state: State) -> None:
    for path in folder.glob(f"{STORAGE}*"):
        if path.name != state.storage:
            files.remove_tree(path)


def _launch(folder: Path, program: Path) -> subprocess.Popen[bytes]:
    # -P: do not search the working directory for modules.
    return KEEPER.start(
        folder, [sys.executable, "-P", "-m", "pymachine.registry_cache.keeper", str(folder), str(program)]
    )


def _await_answer(folder: Path, state: State, keeper: subprocess.Popen[bytes]) -> None:
    """Wait until the cache answers. If it does not, end it, and raise `RegistryCacheError`."""
    problem = ""

    def is_decided() -> bool:
        nonlocal problem
        problem = report.problem(folder)
        return _answers(folder, state) or bool(problem) or keeper.poll() is not None

    try:
        until(is_decided, deadline=START_SECONDS, what="answer", interval=0.02, longest=0.2)
        if _answers(folder, state):
            _let_run(keeper)
            return
    except TimeoutExpiredError:
        problem = f"it does not answer within {START_SECONDS:g} seconds"
    except BaseException:
        _end(keeper)
        raise
    _end(keeper)
    raise RegistryCacheError(
        f"the registry cache does not start: {problem or 'its process has ended'}",
        hint=f"{PROGRAM} needs the upstream registry, {state.upstream}, when it starts. The log is {folder / LOG}",
    )


def _end(keeper: subprocess.Popen[bytes]) -> None:
    """End a keeper that was just started, which may not hold its lock yet."""
    keeper.terminate()
    try:
        keeper.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()


def _answers(folder: Path, state: State) -> bool:
    """Return whether the cache answers at its port, with its own certificate."""
    try:
        context = ssl.create_default_context(cafile=str(folder / paths.CA_CERT))
        connection = http.client.HTTPSConnection(ADDRESS, state.port, timeout=5, context=context)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status == http.client.OK
        finally:
            connection.close()
    except (OSError, http.client.HTTPException):
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As docker-registry does: connections of an earlier one do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    for _ in range(_PORT_TRIES):
        port = random.randint(*_PORTS)  # noqa: S311 (no secret)
        if _is_free(port):
            return port
    raise RegistryCacheError(f"no free port of {ADDRESS} was found between {_PORTS[0]} and {_PORTS[1]}")
