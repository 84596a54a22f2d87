"""The driver ``none``: an engine somewhere, known by its URL, that is not for us to start or stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pymachine.driver import fields
from pymachine.driver.contract import (
    BootRequest,
    Capability,
    Config,
    Driver as BaseDriver,
    DriverInfo,
    Endpoint,
    Health,
    Json,
    MachineRef,
    State,
)
from pymachine.driver.errors import UnsupportedError, UsageError
from pymachine.driver.options import Option
from pymachine_driver_none import urls


class Driver(BaseDriver):
    """A record of a URL; nothing is made and nothing is removed but the record."""

    config_fields: ClassVar[Mapping[str, fields.Field]] = {"URL": fields.STRING}
    info = DriverInfo(
        "none", "An engine that is there already, by its URL", Capability.FIXED_ADDRESS | Capability.NO_SSH
    )

    @classmethod
    def options(cls) -> Sequence[Option]:
        """docker-machine's one option, with its name, which has no prefix."""
        return [Option(name="url", default="", help="URL of host when no driver is selected")]

    @classmethod
    def options_for_url(cls, url: str) -> Mapping[str, Json]:
        """Return what `configure` needs."""
        return {"url": url}

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
        """Check the URL, as docker-machine does. Raises `UsageError` for a text that is none."""
        url = str(options.get("url") or "")
        if not url:
            raise UsageError("--url option is required when no driver is selected")
        # docker-machine's IPAddress for this driver is the host and port of the URL.
        return {"URL": url, "IPAddress": _parse(url).host}

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
        """What the URL says; it need not lead to an engine."""
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
