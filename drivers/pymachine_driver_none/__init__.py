"""The driver ``none``: an engine somewhere, known by its URL, that is not for us to start or stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from pymachine.driver import (
    BootRequest,
    Capability,
    Config,
    Driver as BaseDriver,
    DriverInfo,
    Endpoint,
    Health,
    Json,
    MachineRef,
    Option,
    State,
)
from pymachine.errors import UnsupportedError, UsageError

DEFAULT_PORT = 2376


class Driver(BaseDriver):
    """A record of a URL; nothing is made and nothing is removed but the record."""

    info = DriverInfo(
        "none", "An engine that is there already, by its URL", Capability.FIXED_ADDRESS | Capability.NO_SSH
    )

    @classmethod
    def options(cls) -> Sequence[Option]:
        """docker-machine's one option, with its name, which has no prefix."""
        return [Option(name="url", default="", help="URL of host when no driver is selected")]

    @classmethod
    def health(cls) -> Health:
        """There is nothing here that could be missing."""
        return Health(usable=True)

    @classmethod
    def configure(
        cls,
        machine: MachineRef,  # noqa: ARG003
        options: Mapping[str, Json],
        siblings: Sequence[Config],  # noqa: ARG003
    ) -> Config:
        """Check the URL. Raises `UsageError` for one that names no host and port to connect to."""
        url = str(options.get("url") or "")
        if not url:
            raise UsageError("--url option is required when no driver is selected")
        endpoint = _parse(url)
        # docker-machine's IPAddress for this driver is host:port.
        return {"URL": url, "IPAddress": f"{endpoint.address}:{endpoint.docker_port}"}

    def precreate_check(self) -> None:
        """Nothing to check; an engine may be switched on later."""

    def create(self, request: BootRequest) -> None:
        """Nothing to make."""

    def start(self, request: BootRequest) -> None:  # noqa: ARG002
        """Refused."""
        raise _cannot("started")

    def stop(self, timeout: float) -> None:  # noqa: ARG002
        """Refused."""
        raise _cannot("stopped")

    def kill(self) -> None:
        """Refused."""
        raise _cannot("killed")

    def restart(self, request: BootRequest, timeout: float) -> None:  # noqa: ARG002
        """Refused."""
        raise _cannot("restarted")

    def renamed(self, before: MachineRef) -> None:
        """Nothing outside has the name."""

    def remove(self) -> None:
        """Nothing exists outside the record."""

    def state(self) -> State:
        """Always running, as docker-machine has it: whether it answers is for `env` and `ls` to say."""
        return State.RUNNING

    def endpoint(self) -> Endpoint:
        """What the URL says."""
        return _parse(str(self.config.get("URL") or ""))


def _parse(url: str) -> Endpoint:
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise UsageError(f"--url {url}: {error}") from error
    if parts.scheme != "tcp" or not parts.hostname:
        raise UsageError(f"--url {url}: expected tcp://HOST:PORT")
    return Endpoint(parts.hostname, docker_port=port)


def _cannot(done: str) -> UnsupportedError:
    return UnsupportedError(f"hosts without a driver cannot be {done}")
