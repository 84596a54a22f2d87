"""The driver ``none``: an existing engine, known by its URL, that pymachine neither starts nor stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pymachine.driver import fields
from pymachine.driver.contract import (
    BootRequest,
    Config,
    Driver as BaseDriver,
    DriverInfo,
    Endpoint,
    Health,
    Json,
    MachineRef,
    State,
    Trait,
)
from pymachine.driver.errors import UnsupportedError, UsageError
from pymachine.driver.options import Option
from pymachine_driver_none import urls


class Driver(BaseDriver):
    """A machine that is only a record of a URL."""

    config_fields: ClassVar[Mapping[str, fields.Field]] = {"URL": fields.STRING}
    info = DriverInfo("none", "An existing engine, by its URL", Trait.FIXED_ADDRESS | Trait.NO_SSH | Trait.NO_START)

    @classmethod
    def options(cls) -> Sequence[Option]:
        """Return docker-machine's only option, whose name has no prefix."""
        return [Option(name="url", default="", help="URL of host when no driver is selected")]

    @classmethod
    def options_for_url(cls, url: str) -> Mapping[str, Json]:
        """Return the options for `configure`."""
        return {"url": url}

    @classmethod
    def health(cls) -> Health:
        """Report that the driver is usable: it needs nothing."""
        return Health(usable=True)

    @classmethod
    def configure(
        cls,
        machine: MachineRef,  # noqa: ARG003
        options: Mapping[str, Json],
        siblings: Sequence[Config],  # noqa: ARG003
    ) -> Config:
        """Check the URL, as docker-machine does. Raises `UsageError`."""
        url = str(options.get("url") or "")
        if not url:
            raise UsageError("--url option is required when no driver is selected")
        # docker-machine's IPAddress for this driver is the host and port of the URL.
        return {"URL": url, "IPAddress": _parse(url).host}

    def precreate_check(self) -> None:
        """Check nothing: the engine may be started later."""

    def create(self, request: BootRequest) -> None:
        """Do nothing: the engine exists."""

    def start(self, request: BootRequest) -> None:  # noqa: ARG002
        """Raise `UnsupportedError`."""
        raise _cannot("started")

    def stop(self, timeout: float) -> None:  # noqa: ARG002
        """Raise `UnsupportedError`."""
        raise _cannot("stopped")

    def kill(self) -> None:
        """Raise `UnsupportedError`."""
        raise _cannot("killed")

    def restart(self, request: BootRequest, timeout: float) -> None:  # noqa: ARG002
        """Raise `UnsupportedError`."""
        raise _cannot("restarted")

    def renamed(self, before: MachineRef) -> None:
        """Do nothing: only the record has the name."""

    def remove(self) -> None:
        """Do nothing: there is only the record."""

    def state(self) -> State:
        """Return RUNNING, as docker-machine does. `env` and `ls` show whether the engine answers."""
        return State.RUNNING

    def endpoint(self) -> Endpoint:
        """Return the address and port of the URL. No engine has to answer there."""
        url = str(self.config.get("URL") or "")
        parsed = _parse(url)
        ip = str(self.config.get("IPAddress") or "")
        return Endpoint(parsed.address, docker_port=parsed.port, ssh_port=0, ssh_user="", docker_url=url, printed_ip=ip)


def _parse(url: str) -> urls.Url:
    try:
        return urls.parse(url)
    except urls.UrlError as error:
        raise UsageError(str(error)) from error


def _cannot(done: str) -> UnsupportedError:
    return UnsupportedError(f"hosts without a driver cannot be {done}")
