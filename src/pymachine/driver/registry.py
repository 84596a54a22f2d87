"""Find drivers through the entry-point group ``pymachine.drivers``. No driver is known by name here."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from pymachine.driver.contract import API_VERSION, Driver
from pymachine.errors import DriverNotFoundError

GROUP = "pymachine.drivers"


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


@cache
def load(name: str) -> type[Driver]:
    """Return the driver class registered as `name`.

    Raises `DriverNotFoundError` with docker-machine's message if there is none, if its import fails, or if it needs
    another version of the contract. Raises `DuplicateDriverError` if two packages register the name.
    """
    found = {entry.value: entry for entry in entry_points(group=GROUP) if entry.name == name}
    if not found:
        raise _missing(name, program=f' "docker-machine-driver-{name}"')
    if len(found) > 1:
        raise DuplicateDriverError(
            f'Driver "{name}" is registered more than once: {", ".join(sorted(found))}',
            hint="Uninstall one of the packages that bring it.",
        )
    return _checked(next(iter(found.values())))


def load_for_machine(name: str) -> type[Driver]:
    """Return the driver class of an existing machine, as `load`, with docker-machine's message for that case."""
    try:
        return load(name)
    except DriverNotFoundError:
        if name in names():
            raise
        raise _missing(name) from None


def _missing(name: str, *, program: str = "") -> DriverNotFoundError:
    return DriverNotFoundError(
        f'Driver "{name}" not found. Do you have the plugin binary{program} accessible in your PATH?',
        hint=f"Drivers installed here: {', '.join(names()) or 'none'}.",
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
