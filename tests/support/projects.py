"""A driver with hardware options for the machines of projects, without machines."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from pymachine.cli import create, run, up
from pymachine.driver import registry
from pymachine.driver.abilities import HardwareChange
from pymachine.driver.contract import Config, Driver, DriverInfo, Endpoint, Json, MachineRef, State, Trait
from pymachine.driver.kit import option_checks
from pymachine.driver.options import Option, OptionKind
from pymachine.hosts import modify as modify_module
from support import sharing

LEAST_MEMORY = 512


class Sized(sharing.Sharing):
    """A driver with an option of each kind."""

    info = DriverInfo("sized", "for tests", sharing.Sharing.info.traits)
    ssh: ClassVar[Endpoint | None] = None
    """The endpoint of all machines, if there is one."""

    @classmethod
    def options(cls) -> Sequence[Option]:
        return [
            Option(name="sized-memory", kind=OptionKind.SIZE, default=1024, env="SIZED_MEMORY", help="Memory"),
            Option(name="sized-cpu-count", kind=OptionKind.INTEGER, default=2, help="CPUs"),
            Option(name="sized-image", default="", env="SIZED_IMAGE", help="Image"),
            Option(name="sized-mode", default="auto", help="Mode"),
            Option(name="sized-quick", kind=OptionKind.BOOLEAN, default=False, help="Quick"),
            Option(name="sized-patch", kind=OptionKind.STRINGS, default=(), help="Patches"),
        ]

    @classmethod
    def configure(cls, machine: MachineRef, options: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
        memory = option_checks.integer("sized-memory", options["sized-memory"], least=LEAST_MEMORY)
        return {
            **super().configure(machine, options, siblings),
            "Memory": memory,
            "CPU": options["sized-cpu-count"],
            "Image": options["sized-image"],
        }

    def endpoint(self) -> Endpoint:
        return self.ssh or super().endpoint()

    def resize(self, change: HardwareChange) -> None:
        assert self.state() is State.STOPPED
        self.config.update(
            option_checks.changed_hardware(
                self.config,
                change,
                cpus=lambda _, count: count,
                least_memory_mib=LEAST_MEMORY,
                default_disk_mb=1000,
            )
        )


class Outside(Sized):
    """A driver that sets up existing hosts."""

    info = DriverInfo("outside", "for tests", Trait.PROVISION | Trait.FIXED_ADDRESS)


def enter_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the driver, and enter the folder of a new project. The user's home and store are next to it."""
    install(monkeypatch)
    for name in ("home", "shop"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(tmp_path / "store"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.chdir(tmp_path / "shop")
    monkeypatch.setenv("PWD", str(tmp_path / "shop"))
    return tmp_path / "shop"


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add `Sized`, which is the default, and `Outside` to the drivers of `sharing.install`."""
    sharing.install(monkeypatch)
    load, names = registry.load, registry.names
    kinds: dict[str, type[Driver]] = {"sized": Sized, "outside": Outside}
    monkeypatch.setattr(registry, "load", lambda name: kinds[name] if name in kinds else load(name))
    monkeypatch.setattr(registry, "names", lambda: [*kinds, *names()])
    monkeypatch.setattr(registry, "default_name", lambda: "sized")
    for module in (create, run, up):
        driver = next(param for param in module.command.params if param.name == "driver")
        monkeypatch.setattr(driver, "default", lambda: "sized")  # it was bound to the function that was replaced
    monkeypatch.setattr(modify_module, "_validate", lambda host, options: None)
    monkeypatch.setattr(Sized, "ssh", None)
    for name in ("MACHINE_DRIVER", "SIZED_MEMORY", "SIZED_IMAGE", "PYMACHINE_FILE", "PYMACHINE_TRUST"):
        monkeypatch.delenv(name, raising=False)
