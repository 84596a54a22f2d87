"""A driver whose machines share folders, without machines: it notes the folders of each boot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

import pytest

from pymachine.driver import registry
from pymachine.driver.abilities import HardwareChange, PortableField
from pymachine.driver.contract import (
    BootRequest,
    Config,
    Driver,
    DriverInfo,
    MachineRef,
    Trait,
)
from pymachine.driver.shares import Share, ShareEvents
from pymachine.errors import DriverError, DriverNotFoundError, UsageError
from pymachine.hosts.host import Host
from pymachine.system import signals
from support.drivers import InMemory

MOST = 3


class Plain(InMemory):
    """A driver that cannot share folders."""

    info = DriverInfo("plain", "for tests", Trait.IDENTITY | Trait.FIXED_ADDRESS)
    boots: ClassVar[list[tuple[str, list[str]]]] = []
    """The name and the shares of each machine that was booted."""
    events: ClassVar[list[ShareEvents | None]] = []
    """Which events each of these machines wanted."""
    faults: ClassVar[list[Exception]] = []
    """The errors of the next calls of `check_shares`, or of the next boots if it is a `DriverError`."""
    where: ClassVar[str] = ""

    def start(self, request: BootRequest) -> None:
        if self.faults:
            raise self.faults.pop()
        request.identity(self.endpoint())
        self.boots.append((self.machine.name, [str(share) for share in request.shares]))
        self.events.append(request.share_events)
        super().start(request)

    def copy_config(self, machine: MachineRef, siblings: Sequence[Config]) -> Config:
        return {"IPAddress": f"127.9.9.{len(siblings) + 1}"}

    def create_copy(self, source: Driver, request: BootRequest) -> None:
        self.create(request)

    def exported(self) -> Sequence[str]:
        return ["disk"]

    @classmethod
    def portable_fields(cls) -> Mapping[str, PortableField | None]:
        return {}

    def portable_files(self) -> Mapping[str, int]:
        return {"disk": 1000}

    def imported(self, siblings: Sequence[Config]) -> None:
        self.config["IPAddress"] = f"127.9.9.{len(siblings) + 1}"

    def resize(self, change: HardwareChange) -> None:
        pass

    def renamed(self, before: MachineRef) -> None:
        pass


class Sharing(Plain):
    """A driver that can share `MOST` folders."""

    info = DriverInfo("sharing", "for tests", Plain.info.traits)

    def check_shares(self, shares: Sequence[Share]) -> None:
        if self.faults and not isinstance(self.faults[-1], DriverError | UsageError):
            raise self.faults.pop()
        if len(shares) > MOST:
            raise UsageError(f"a machine shares at most {MOST} folders, not {len(shares)}")

    def location(self) -> str:
        return self.where


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `Plain` and `Sharing` the only drivers of this process, without machines."""
    Plain.world.clear()
    Plain.boots.clear()
    Plain.events.clear()
    Plain.faults.clear()
    kinds: dict[str, type[Driver]] = {"plain": Plain, "sharing": Sharing}
    real = registry.load

    def load(name: str) -> type[Driver]:
        if name == "none":
            return real(name)
        if name not in kinds:
            raise DriverNotFoundError(name)
        return kinds[name]

    monkeypatch.setattr(registry, "load", load)
    monkeypatch.setattr(registry, "names", lambda: [*kinds, "none"])
    monkeypatch.setattr(Plain, "where", "")
    monkeypatch.setattr(Host, "wait_for_engine", lambda self, *, seconds: None)
    monkeypatch.setattr(signals, "exit_on_termination", lambda: None)
    monkeypatch.setenv("MACHINE_DRIVER", "sharing")
    for name in ("MACHINE_DEBUG", "PYMACHINE_SHARE", "PYMACHINE_NO_SHARE", "PYMACHINE_NO_SHARE_EVENTS", "CI"):
        monkeypatch.delenv(name, raising=False)


def share(path: Path | str, guest: str = "", *, read_only: bool = False) -> Share:
    """Return a share, at its own path in the guest by default."""
    return Share(path=Path(path), guest_path=PurePosixPath(guest or str(path)), read_only=read_only)
