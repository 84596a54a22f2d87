"""Find drivers in plug-in programs, when one is named that no Python package has."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pymachine.driver.contract import Driver, DriverInfo, Trait
from pymachine.driver.errors import DriverNotFoundError
from pymachine_driver_plugin import allowed, known, programs
from pymachine_driver_plugin.errors import PluginError
from pymachine_driver_plugin.programs import Program

if TYPE_CHECKING:
    from pymachine_driver_plugin.driver import PluginDriver

log = logging.getLogger(__name__)


class Finder:
    """See `pymachine.driver.registry.DriverFinder`."""

    def find(self, name: str, program: str) -> type[Driver] | None:
        """Return the driver called `name`, in a program on PATH or in the one that the user named.

        A machine keeps to its `program` as long as that can be used.
        """
        if not _can_be_a_name(name):
            return None
        if Path(program).is_absolute() and allowed.is_allowed(Path(program)):
            return _driver(Program(Path(program), name, is_chosen_by_user=True))
        lacking = None
        for candidate in sorted(programs.candidates(name), key=lambda each: each.path.stem != program):
            if found := _driver_in(candidate):
                return found
            lacking = candidate if candidate.is_chosen_by_user else lacking
        if lacking is not None:
            raise DriverNotFoundError(f'{lacking.path} has no driver "{name}"', hint=self.advice(name))
        if Path(program).is_absolute():
            raise DriverNotFoundError(
                f'Driver "{name}": the program {program}, which the machine was created with, cannot be used',
                hint=f"If you trust it, name it or another one in the variable {programs.VARIABLE}, or put "
                f"docker-machine-driver-{name} on PATH.",
            )
        return None

    def names(self) -> list[str]:
        """Return the names of the drivers in programs on PATH, and those that are usually built into others there."""
        return [*programs.on_path(), *(name for _, built_in in programs.built_in() for name in built_in)]

    def advice(self, name: str) -> str:
        """Return how to get the program that has the driver."""
        return known.advice(name)


def _can_be_a_name(name: str) -> bool:
    return bool(name) and name.replace("-", "").replace("_", "").isalnum() and name.isascii()


def _driver_in(program: Program) -> type[PluginDriver] | None:
    """Return the driver in `program`, or None if it lacks it.

    One that has drivers built in is started to find out, unless it usually has this one.
    """
    found = _driver(program)
    if program.has_many_drivers and program.driver not in known.built_in(program.path.stem):
        try:
            found.options()
        except DriverNotFoundError:
            return None
        except PluginError as error:
            if program.is_chosen_by_user:
                raise
            log.debug("%s cannot be used: %s", program.path, error)
            return None
    return found


def _driver(program: Program) -> type[PluginDriver]:
    """Return a driver class for `program`."""
    from pymachine_driver_plugin.driver import PluginDriver  # noqa: PLC0415 (only machines with programs need it)

    traits = Trait.PROVISION | Trait.FOREIGN_CONFIG
    info = DriverInfo(program.driver, f"The plug-in program {program.label}", traits)
    attributes = {
        "__doc__": f"The driver {program.driver} in {program.path}.",
        "info": info,
        "executable": program,
        "program": program.recorded,
    }
    return type("PluginDriver", (PluginDriver,), attributes)
