"""Templates that users name: frozen copies of machines, with their images, volumes and running containers.

They are among the other templates, in ``CACHE/templates/NAME/``: see `pymachine.hosts.templates`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from pymachine.driver.contract import Json
from pymachine.errors import TemplateError
from pymachine.hosts import templates
from pymachine.hosts.templates import NAMED_FORMAT, NamedTemplate, TemplateNotFoundError, Templates
from pymachine.system import files, os_errors
from pymachine.system.progress import Reporter

# The part of an identity that all machines from the template share. It is all that the template's guest has of one.
SEED = "seed.tar"
# Names are also names of folders. The templates without a name end in the digits of a key.
_NAME = re.compile(r"(?!.*-[0-9a-f]{12}\Z)[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}\Z")


def check_new_name(name: str) -> None:
    """Raise `TemplateError` unless `name` is a valid name for a named template."""
    if not _NAME.match(name):
        raise TemplateError(
            f"a template cannot be called {name!r}",
            hint="Up to 63 letters, digits, dots, dashes and underscores, beginning with a letter or a digit, and not "
            "ending like the templates without a name, in a dash and 12 hexadecimal digits.",
        )


def find(store: Path, name: str) -> NamedTemplate:
    """Return the named template of that name. Raises `TemplateNotFoundError`."""
    found = templates.find(store, name)
    if not isinstance(found, NamedTemplate):
        raise TemplateNotFoundError(f'"{name}" has no images or containers: it is made for all machines of one shape')
    return found


def make(store: Path, name: str, fill: Callable[[Path], Mapping[str, Json]]) -> NamedTemplate:
    """Make a named template, under the lock of `making`; it replaces an older one of that name.

    `fill` gets its empty folder, and returns what its manifest says about it. Nothing is left, and the older one is
    unchanged, if it raises. Raises `TemplateError` if there is no room or no permission.
    """
    found = Templates(templates.directory(store))
    try:
        made = templates.publish(found, name, lambda folder: {"format": NAMED_FORMAT, **fill(folder)})
    except OSError as error:
        raise os_errors.wrapped(TemplateError, f"cannot make a template in {found.root}", error) from error
    assert isinstance(made, NamedTemplate)  # noqa: S101 (its format says so)
    return made


def making(store: Path, name: str, reporter: Reporter) -> AbstractContextManager[object]:
    """Hold the lock under which the template `name` is made. Raises `TemplateError`."""
    return _locked(store, name, name, reporter)


def building(store: Path, name: str, reporter: Reporter) -> AbstractContextManager[object]:
    """Hold the lock under which the machine for the template `name` is prepared. Raises `TemplateError`."""
    # No template has this name.
    return _locked(store, name, f"{name}+build", reporter)


def _locked(store: Path, name: str, lock: str, reporter: Reporter) -> AbstractContextManager[object]:
    found = Templates(templates.directory(store))
    files.make_private_dir(found.root)
    waiting = partial(reporter.task, "Waiting for the template that another pymachine makes")
    return found.locked(lock, what=name, waiting=waiting)
