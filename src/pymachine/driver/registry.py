"""Find drivers through the entry-point group ``pymachine.drivers``. No driver is known by name here.

The entry-point group ``pymachine.driver_finders`` has objects that find further drivers, such as programs on PATH.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import NoReturn, Protocol

from pymachine.driver.contract import API_VERSION, Driver
from pymachine.errors import DriverNotFoundError

GROUP = "pymachine.drivers"
FINDERS = "pymachine.driver_finders"


class DriverFinder(Protocol):
    """Finds drivers that no package registers, when one is named. It is a class without state or arguments."""

    def find(self, name: str, program: str) -> type[Driver] | None:
        """Return the driver called `name`, or None.

        `program` is `Driver.program` of the driver that the machine was created with. Raises `DriverNotFoundError` if
        that program no longer has the driver.
        """

    def names(self) -> list[str]:
        """Return the names of the drivers that it would find on this host, or only the most likely ones."""

    def advice(self, name: str) -> str:
        """Return how to get the driver called `name`, or an empty text if it is unknown here."""


class DriverMissingError(DriverNotFoundError):
    """No package registers the driver, and no finder finds it."""


class DuplicateDriverError(DriverNotFoundError):
    """Two installed packages register a driver under one name."""

    code = "driver-duplicate"


def names() -> list[str]:
    """Return the names of all registered drivers, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


@cache
def default_name() -> str:
    """Return the name of the driver that is used if none is named: the one whose package has ``IS_DEFAULT``."""
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        with suppress(Exception):  # a package that cannot be imported matters only if its driver is used
            if getattr(import_module(entry.module), "IS_DEFAULT", False):
                return entry.name
    return ""


def name_with(ability: type) -> str:
    """Return the name of the first driver that has an ability of `pymachine.driver.abilities`, or an empty one."""
    for name in names():
        with suppress(Exception):  # a package that cannot be imported matters only if its driver is used
            if issubclass(load(name), ability):
                return name
    return ""


def found_names() -> list[str]:
    """Return the names of the drivers that no package registers, but that a finder finds on this host, sorted."""
    known = names()
    return sorted({name for finder in _finders() for name in finder.names()} - set(known))


@cache
def load(name: str) -> type[Driver]:
    """Return the driver class registered as `name`, or else one that a finder finds.

    Raises `DriverNotFoundError` with docker-machine's message if there is none, if its import fails, or if it needs
    another version of the contract. Raises `DuplicateDriverError` if two packages register the name.
    """
    found = {entry.value: entry for entry in entry_points(group=GROUP) if entry.name == name}
    if len(found) > 1:
        raise DuplicateDriverError(
            f'Driver "{name}" is registered more than once: {", ".join(sorted(found))}',
            hint="Uninstall one of the packages that bring it.",
        )
    if found:
        return _checked(next(iter(found.values())))
    return _find(name) or _raise_missing(name, program=f' "docker-machine-driver-{name}"')


def load_for_machine(name: str, program: str | None = None) -> type[Driver]:
    """Return the driver class of an existing machine, as `load`, with docker-machine's message for that case.

    `program` is `Driver.program` of the driver that it was created with, if a finder had found that. No package's
    driver understands its configuration.
    """
    if program is not None:
        return _find(name, program) or _raise_missing(name)
    try:
        return load(name)
    except DriverMissingError:
        _raise_missing(name)


@cache
def _find(name: str, program: str = "") -> type[Driver] | None:
    return next((found for finder in _finders() if (found := finder.find(name, program))), None)


@cache
def _finders() -> list[DriverFinder]:
    return [entry.load()() for entry in sorted(entry_points(group=FINDERS), key=lambda entry: entry.name)]


def _raise_missing(name: str, *, program: str = "") -> NoReturn:
    here = f"Drivers installed here: {', '.join(sorted({*names(), *found_names()})) or 'none'}."
    raise DriverMissingError(
        f'Driver "{name}" not found. Do you have the plugin binary{program} accessible in your PATH?',
        hint="\n".join([*filter(None, (finder.advice(name) for finder in _finders())), here]),
    )


def _checked(entry: EntryPoint) -> type[Driver]:
    try:
        driver = entry.load()
    except (ImportError, AttributeError) as error:
        raise DriverNotFoundError(f'Driver "{entry.name}" cannot be loaded ({entry.value}): {error}') from error
    if not (isinstance(driver, type) and issubclass(driver, Driver)):
        raise DriverNotFoundError(f'Driver "{entry.name}" ({entry.value}) is not a pymachine.driver.contract.Driver')
    if driver.info.api_version != API_VERSION:
        raise DriverNotFoundError(
            f'Driver "{entry.name}" was made for version {driver.info.api_version} of the driver contract; '
            f"this pymachine has version {API_VERSION}",
            hint="Upgrade pymachine, or the package that brings the driver.",
        )
    return driver
