"""Find plug-in programs: ``docker-machine-driver-NAME`` on PATH, and programs that have drivers built in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pymachine_driver_plugin import known

PREFIX = "docker-machine-driver-"
WITH_DRIVERS = ("docker-machine", "rancher-machine")
"""Programs that have drivers built in, and serve them as a ``docker-machine-driver-*`` serves its own."""
VARIABLE = "PYMACHINE_PLUGIN_PROGRAM"
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class Program:
    """A program, and the driver in it."""

    path: Path
    driver: str
    is_chosen_by_user: bool = False
    """Whether the user named the program, so that it is not found on PATH."""

    @property
    def label(self) -> str:
        """The program's name, for messages."""
        return self.path.name

    @property
    def recorded(self) -> str:
        """The text by which a machine's record finds the program again. It is empty if the driver's name suffices."""
        if self.is_chosen_by_user:
            return str(self.path)
        return self.path.stem if self.has_many_drivers else ""

    @property
    def has_many_drivers(self) -> bool:
        """Whether it is a program that has drivers built in, rather than one for this driver."""
        return not self.path.name.startswith(PREFIX)


def candidates(driver: str) -> Iterator[Program]:
    """Yield the programs that may have `driver`, best first. Those that have drivers built in may lack this one."""
    for name in (driver, *known.successors(driver)):
        found = _which(PREFIX + name)
        if found:
            yield Program(found, name)
    chosen = named()
    if chosen and not is_pymachine(chosen):
        yield Program(chosen, driver, is_chosen_by_user=True)
    for name in WITH_DRIVERS:
        found = _which(name)
        if found:
            yield Program(found, driver)


def named() -> Path | None:
    """Return the absolute path of the program that the user named for drivers that are built in, or None."""
    text = os.environ.get(VARIABLE, "")
    if not text:
        return None
    # A word without slash is looked up on PATH, as in a shell.
    found = text if os.path.dirname(text) else shutil.which(text)  # noqa: PTH120 (Path drops the dot of ./NAME)
    return Path(os.path.abspath(os.path.expanduser(found or text)))  # noqa: PTH100, PTH111 (no links resolved)


def on_path() -> list[str]:
    """Return the names of the drivers for which there is a ``docker-machine-driver-NAME`` on PATH, sorted."""
    names = set()
    for folder in _search_path():
        try:
            with os.scandir(folder) as entries:
                names |= {_driver(entry.name) for entry in entries if entry.name.startswith(PREFIX)}
        except OSError:
            continue  # PATH may have folders that do not exist
    return sorted(name for name in names if name and _which(PREFIX + name))


def built_in() -> list[tuple[Path, tuple[str, ...]]]:
    """Return the programs that have drivers built in, with the names that these usually have."""
    paths = dict.fromkeys(filter(None, [named(), *map(_which, WITH_DRIVERS)]))
    return [(path, known.built_in(path.stem)) for path in paths if path.exists() and not is_pymachine(path)]


def is_pymachine(path: Path) -> bool:
    """Return whether `path` is a script that starts pymachine, which can be installed under docker-machine's name."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError:
        return False
    return head.startswith(b"#!") and b"pymachine" in head


def _which(name: str) -> Path | None:
    """Return the first program called `name` on PATH that is not pymachine itself."""
    for folder in _search_path():
        found = shutil.which(name, path=folder)
        if (
            found and Path(found).is_absolute() and not is_pymachine(Path(found))
        ):  # Windows looks in the current folder too
            return Path(found)
    return None


def _search_path() -> list[str]:
    """Return the folders of PATH without relative ones, since a project's folder may have programs of others."""
    return [folder for folder in os.get_exec_path() if Path(folder).is_absolute()]


def _driver(file_name: str) -> str:
    return file_name.removeprefix(PREFIX).removesuffix(".exe")
