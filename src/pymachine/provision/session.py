"""A session with one host: the connection, the host key, and the steps."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pymachine.docker import daemon_json
from pymachine.driver.contract import Endpoint
from pymachine.provision.errors import ProvisionError
from pymachine.provision.facts import CERTIFICATES
from pymachine.provision.host_setup import HostSetup, InstallScript
from pymachine.provision.plan import EngineSettings, Plan
from pymachine.provision.remote import Remote
from pymachine.ssh.client import connected
from pymachine.ssh.connection import Connection, UnreachableError
from pymachine.ssh.target import Target
from pymachine.store.record import Machine
from pymachine.system import files, run
from pymachine.system.progress import Reporter
from pymachine.system.wait import Deadline

RETRY_SECONDS = 3.0
SCRIPT_SECONDS = 60.0
SCRIPT_BYTES = 1 << 20


class Session:
    """Steps on one host over one connection. Create it with `opened`."""

    def __init__(self, connection: Connection, target: Target, *, reporter: Reporter) -> None:
        self._host = HostSetup(Remote(connection, name=target.alias, warn=reporter.warn), reporter=reporter)

    def provision(
        self,
        wanted: EngineSettings,
        *,
        install_script: Callable[[], InstallScript | None] = lambda: None,
        before_changes: Callable[[], object] | None = None,
    ) -> Plan:
        """See `HostSetup.provision`."""
        return self._host.provision(wanted, install_script=install_script, before_changes=before_changes)

    def upgrade(self) -> None:
        """See `HostSetup.upgrade`."""
        self._host.upgrade()

    def restore(self) -> bool:
        """See `HostSetup.restore`."""
        return self._host.restore()


@contextmanager
def opened(target: Target, *, reporter: Reporter, timeout: float, native: bool = False) -> Iterator[Session]:
    """Open a session with `target`, waiting up to `timeout` seconds for its SSH server. A new host key is reported.

    Raises the errors of `pymachine.ssh.client.connected`.
    """
    reporter.info("Waiting for SSH to be available...")
    pinned = _pinned(target)
    with _connected_in_time(target, timeout=timeout, native=native) as connection:
        for line in _pinned(target) - pinned:
            _, kind, key, *_ = line.split()
            reporter.info(f"({target.alias}) The host key is {fingerprint(key)} ({kind}). It is pinned from now on.")
        try:
            yield Session(connection, target, reporter=reporter)
        finally:
            run.log.debug("%s: %d round trips over one connection", target.alias, connection.commands)


@contextmanager
def interruptible(
    name: str, before_changes: Callable[[], object] | None, *, reporter: Reporter
) -> Iterator[Callable[[], None]]:
    """Warn, if the block is interrupted after the first change, how to complete the setup of the machine `name`.

    With an empty `name` the machine does not stay, and there is no warning. Yields a function that must be called
    before the first change. It calls `before_changes`.
    """
    begun = False

    def begin() -> None:
        nonlocal begun
        begun = True
        if before_changes:
            before_changes()

    try:
        yield begin
    except (KeyboardInterrupt, SystemExit):
        if begun and name:
            reporter.warn(f"The host is only partly set up. Complete it with: pymachine provision {name}")
        raise


@contextmanager
def _connected_in_time(target: Target, *, timeout: float, native: bool) -> Iterator[Connection]:
    """Connect, retrying until the host answers. Errors while the connection is used are not retried."""
    deadline = Deadline(timeout)
    while True:
        context = connected(target, native=native)
        try:
            connection = context.__enter__()
            break
        except UnreachableError:
            if deadline.expired:
                raise
            time.sleep(deadline.remaining(at_most=RETRY_SECONDS))
    try:
        yield connection
    finally:
        context.__exit__(None, None, None)


def _pinned(target: Target) -> set[str]:
    if target.known_hosts is None or not target.known_hosts.exists():
        return set()
    return {line for line in target.known_hosts.read_text().splitlines() if line.strip()}


def fingerprint(key: str) -> str:
    """Return the fingerprint of a public key, given in OpenSSH's base64, in OpenSSH's format."""
    digest = hashlib.sha256(base64.b64decode(key)).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def wanted(machine: Machine, endpoint: Endpoint, *, directory: Path, host_name: str = "") -> EngineSettings:
    """Return the engine settings for `machine`'s host, with the certificates in `directory`. Raises `UsageError`.

    `host_name` is the name for a host that was made for the machine.
    """
    daemon, flags = daemon_json.content(machine.engine, driver_name=machine.driver_name)
    daemon_json.files(machine.engine, driver_name=machine.driver_name)  # checks the environment too
    return EngineSettings(
        machine=machine.name,
        port=endpoint.docker_port,
        ipv6=":" in endpoint.address,
        certificates={name: (directory / name).read_text() for name in CERTIFICATES},
        daemon=daemon,
        flags=flags,
        environment=machine.engine.env,
        shares=bool(machine.shares),
        host_name=host_name,
    )


def install_script(machine: Machine, *, keep: Path) -> InstallScript | None:
    """Return the install script that the user chose; None to install the distribution's packages."""
    return fetch_script(machine.install_script, keep=keep) if machine.install_script else None


def fetch_script(url: str, *, keep: Path) -> InstallScript:
    """Fetch the script at `url`, and save it as the file `keep` so that it can be read later.

    It is fetched here and not by the host, so that the reported digest is that of the script that runs there. Raises
    `ProvisionError`.
    """
    from pymachine.system.http_client import FetchError, Session, TooLargeError  # noqa: PLC0415 (heavy)

    try:
        with Session() as http:
            data = http.read(url, largest=SCRIPT_BYTES, seconds=SCRIPT_SECONDS)
    except TooLargeError as error:
        raise _not_a_script(url, str(error)) from error
    except FetchError as error:
        raise ProvisionError(
            f"the install script {url} cannot be fetched",
            details=str(error),
            hint="Check --engine-install-url. Without it, the distribution's own packages are installed.",
        ) from error
    if not data.startswith(b"#!"):
        raise _not_a_script(url, data[:200].decode(errors="replace"))
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ProvisionError(f"the file at {url} is not text") from error
    files.atomic_write(keep, data)
    return InstallScript(url, text, hashlib.sha256(data).hexdigest())


def _not_a_script(url: str, details: str) -> ProvisionError:
    return ProvisionError(
        f"the file at {url} is not a shell script",
        details=details,
        hint="An install script begins with #! and has at most 1 MiB.",
    )
