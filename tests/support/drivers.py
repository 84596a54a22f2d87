"""A driver without machines, from which drivers for tests are derived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from pymachine.driver.contract import BootRequest, Config, Driver, Endpoint, Health, Json, MachineRef, State
from pymachine.driver.options import Option


class InMemory(Driver):
    """Keeps the states of its machines in a class variable, as a hypervisor keeps them outside of the store."""

    world: ClassVar[dict[str, State]] = {}
    """The state of each machine that is not stopped, by its name. A test begins by clearing it."""

    @classmethod
    def options(cls) -> Sequence[Option]:
        return []

    @classmethod
    def health(cls) -> Health:
        return Health(usable=True)

    @classmethod
    def configure(cls, machine: MachineRef, options: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
        return {"IPAddress": f"127.9.9.{len(siblings) + 1}"}

    def precreate_check(self) -> None:
        pass

    def create(self, request: BootRequest) -> None:
        (self.machine.directory / "disk").write_text("data")
        self.start(request)

    def start(self, request: BootRequest) -> None:
        self.world[self.machine.name] = State.RUNNING

    def stop(self, timeout: float) -> None:
        self.world[self.machine.name] = State.STOPPED

    def kill(self) -> None:
        self.world[self.machine.name] = State.STOPPED

    def remove(self) -> None:
        self.world.pop(self.machine.name, None)

    def state(self) -> State:
        return self.world.get(self.machine.name, State.STOPPED)

    def endpoint(self) -> Endpoint:
        return Endpoint(self.config["IPAddress"])
