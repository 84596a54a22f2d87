"""Templates: frozen machines, which some drivers resume to make new machines within a second.

Layout: ``CACHE/templates/<driver>-<12 digits of the key>/`` with the driver's files and ``template.json``. The key is
over all that a template's state depends on. A folder is renamed into place when it is whole; its files never change
after that. They are recognised by their digests, so that a cache can be copied or restored, and a file that is
damaged or half copied is noticed before it is resumed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pymachine.driver.abilities import Templatable
from pymachine.driver.contract import BootRequest, Driver, Json
from pymachine.errors import PymachineError, TemplateError
from pymachine.hosts.template_contents import Contents
from pymachine.store import paths
from pymachine.store.record import Machine
from pymachine.system import files, manifests, os_errors
from pymachine.system.folder_collection import DIGITS, FolderCollection, ManifestFolder
from pymachine.system.progress import Reporter

FORMAT = 2
NAMED_FORMAT = 3
MANIFEST = "template.json"
# Its modification time is the time of the last use. No other file in the folder may change.
USED = "used"
# The most that a template takes on the disk, for a guest with some memory in use.
NEEDED_BYTES = 1 << 30
# If making a template fails with less than this left on the disk, the full disk is reported as the cause.
FULL_BYTES = 16 << 20
# A shape that could not be frozen or resumed is not tried at every create.
RETRY_SECONDS = 24 * 3600.0
# A template that was unused for so long is removed when another is made.
UNUSED_SECONDS = 30 * 24 * 3600.0
# A shape whose templates failed this often, while the same machines boot, is given up for `RETRY_SECONDS`.
PROVEN_FAILURES = 2


class TemplateNotFoundError(PymachineError):
    """No template of that name exists."""

    code = "template-not-found"


class TemplateFailedError(TemplateError):
    """A template could not be built or resumed. It is to blame only if the same machine boots without it."""

    code = "template-failed"

    def __init__(self, brief: str, directory: Path, cause: PymachineError, *, made: float | None = None) -> None:
        """`made` is when the template was made that could not be resumed; None if it could not be made."""
        super().__init__(brief, details=cause.details, hint=cause.hint)
        self.directory = directory
        self.made = made


@dataclass(frozen=True)
class Template(ManifestFolder):
    """One template."""

    @property
    def shape(self) -> Mapping[str, Json]:
        """The properties that its machines have in common, as its driver reported them."""
        shape: Mapping[str, Json] = self.manifest["shape"]
        return shape

    @property
    def made(self) -> float:
        """When it was made, in seconds since 1970."""
        return float(self.manifest["made"])

    @property
    def used(self) -> float:
        """When a machine was last resumed from it, in seconds since 1970; else when it was made."""
        try:
            return (self.directory / USED).stat().st_mtime
        except OSError:
            return self.made

    @property
    def size(self) -> int:
        """The bytes that it takes on the disk."""
        return sum(files.allocated(path.stat()) for path in self.directory.iterdir())


@dataclass(frozen=True)
class NamedTemplate(Template):
    """A template that a user has named: a copy of a machine, with its images and containers."""

    contents: Contents
    machine: str
    """The machine that it was made from, or "" if it was made by a recipe."""
    recipe: Mapping[str, Json]
    """How to make it again; empty for the copy of a machine."""

    @classmethod
    def read(cls, directory: Path, manifest: Any) -> NamedTemplate:
        """Read a manifest. Raises KeyError, TypeError or ValueError if it is not one of a named template."""
        source = dict(manifest["from"])
        machine, recipe = str(source.get("machine", "")), dict(source.get("recipe", ()))
        if not (manifest["files"] and manifest["made"] and manifest["shape"] and (machine or recipe)):
            raise ValueError("incomplete")
        return cls(directory, manifest, Contents.from_json(manifest["contents"]), machine, recipe)

    @property
    def facts(self) -> Mapping[str, Json]:
        """The facts with which the driver resumes it."""
        facts: Mapping[str, Json] = self.manifest["facts"]
        return facts

    @property
    def record(self) -> Machine:
        """The record of the machine that it was made from. Raises `RecordError`."""
        return Machine.from_json(self.manifest["record"], name=self.name)


class Templates(FolderCollection[Template]):
    """The templates below one folder."""

    noun = "template"
    manifest_name = MANIFEST
    error = TemplateError

    def parse(self, directory: Path, manifest: Any) -> Template | None:
        """See `FolderCollection.parse`."""
        # Older ones are listed and pruned; their keys are others, so that none is resumed.
        if manifest["format"] == NAMED_FORMAT:
            return NamedTemplate.read(directory, manifest)
        complete = manifest["format"] <= FORMAT and manifest["files"] and manifest["made"] and "shape" in manifest
        return Template(directory, manifest) if complete else None

    def has_linked_files(self, found: Template) -> bool:
        """Return whether machines have links to the template's disk and image."""
        return isinstance(found, NamedTemplate)


def directory(store: Path) -> Path:
    """Return the folder of all templates, for the store at `store`."""
    return paths.cache(store) / "templates"


def find_all(store: Path) -> list[Template]:
    """Return all templates, sorted by name. Other folders are skipped."""
    return Templates(directory(store)).all()


def find(store: Path, name: str) -> Template:
    """Return the template with that name. Raises `TemplateNotFoundError`."""
    for template in find_all(store):
        if template.name == name:
            return template
    raise TemplateNotFoundError(f'no template "{name}"', hint="List them: pymachine template ls")


def ensure(driver: Driver, request: BootRequest, *, store: Path, reporter: Reporter) -> Template | None:
    """Return the template for a machine of `driver`, which is made if it is missing.

    Many processes at once make one: the others wait for it. None if there can be none, if the shape is given up (see
    `remove_faulty`), or if the process that was waited for failed. Raises `TemplateFailedError` if its driver
    cannot make it, and `TemplateError` if there is no room or no permission for it.
    """
    if not isinstance(driver, Templatable):
        return None
    shape = driver.template_shape(request)
    if shape is None:
        return None
    templates = Templates(directory(store))
    name = f"{driver.info.name}-{_key(shape, request)[:DIGITS]}"
    path = templates.root / name
    found = templates.intact(templates.open(name), reporter)
    if found is None and not _given_up(path):
        began = time.time()
        waiting = partial(reporter.task, "Waiting for the template that another pymachine makes")
        with templates.locked(name, what=name, waiting=waiting):
            found = templates.intact(templates.open(name), reporter)
            if found is None and not _given_up(path) and not _failed_since(path, began):
                found = _make(templates, driver, request, shape, name)
    return found


def touch(template: Template) -> None:
    """Note that the template is used now. Raises `TemplateError` if it is gone. The cache may be read-only."""
    try:
        (template.directory / USED).touch()
    except FileNotFoundError as error:
        raise os_errors.wrapped(TemplateError, f"{template.directory} is gone", error) from error
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise os_errors.wrapped(TemplateError, f"cannot write in {template.directory}", error) from error


def remove_faulty(failed: TemplateFailedError) -> None:
    """Remove a template that failed, after the same machine booted without it.

    Nothing less shows that the template is at fault, and not the machine or the host. Its shape is tried again, but
    after `PROVEN_FAILURES` of them not for a day, unless `clear_failures` is called. Of several machines that the same
    template failed, one counts. Raises `TemplateError`.
    """
    directory = failed.directory
    if failed.made is not None:
        found = Templates(directory.parent).open(directory.name)
        if found is None or found.made != failed.made or not remove(found):
            return
    # Without the marker, as on a full disk, the next create tries again: that costs time and nothing else.
    with suppress(OSError):
        _mark(directory, failed.brief, failures=_failures(directory) + 1)


def remove(template: Template) -> bool:
    """Remove a template and return whether it existed. Machines resumed from it go on. Raises `TemplateError`."""
    return Templates(template.directory.parent).remove(template.name)


def damage(template: Template) -> str:
    """Read all of a template, and return what is damaged, or "" if nothing is."""
    for name, described in template.manifest["files"].items():
        path = template.directory / name
        try:
            if path.stat().st_size != described["size"] or manifests.sparse_digest(path) != described["sha256"]:
                return f"{name} has another content"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or error}"
        except (KeyError, TypeError):
            return "its manifest is not one"
    return ""


def prune(store: Path, *, unused_seconds: float) -> list[Template]:
    """Remove the templates without a name that were not used for `unused_seconds`, and return them."""
    return _prune(find_all(store), unused_seconds)


def _prune(templates: Iterable[Template], unused_seconds: float) -> list[Template]:
    limit = time.time() - unused_seconds
    gone = [template for template in templates if not isinstance(template, NamedTemplate) and template.used <= limit]
    for template in gone:
        remove(template)
    return gone


def clear_failures(store: Path) -> None:
    """Forget all failures: templates of every shape are tried again at once."""
    for marker in directory(store).glob(".*.failed"):
        marker.unlink(missing_ok=True)


def _key(shape: Mapping[str, Json], request: BootRequest) -> str:
    parts = {
        "format": FORMAT,
        "shape": shape,
        "image": request.image.digest if request.image else "",
        "seed": hashlib.sha256(request.seed).hexdigest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _make(
    templates: Templates, driver: Templatable, request: BootRequest, shape: Mapping[str, Json], name: str
) -> Template:
    root, path = templates.root, templates.root / name
    _make_room(templates, keep=name)

    def fill(folder: Path) -> Mapping[str, Json]:
        driver.make_template(folder, request)
        return {"format": FORMAT, "shape": shape, "image": request.image.digest if request.image else ""}

    try:
        return publish(templates, name, fill)
    except OSError as error:
        raise os_errors.wrapped(TemplateError, f"cannot make a template in {root}", error) from error
    except PymachineError as error:
        with suppress(OSError):
            _mark(path, error.brief, failures=_failures(path))
        raise TemplateFailedError(f"The template {name} cannot be made ({error.brief})", path, error) from error


def publish(templates: Templates, name: str, fill: Callable[[Path], Mapping[str, Json]]) -> Template:
    """Make a template, in place of an older one of that name.

    `fill` gets its empty folder, and returns what the manifest says about it. Nothing is left, and the older one is
    unchanged, if it raises. Raises OSError.
    """
    began = time.monotonic()
    with templates.making() as folder:
        facts = _filled(folder, fill)
        described = {entry.name: _synced(entry) for entry in sorted(folder.iterdir())}
        seconds = round(time.monotonic() - began, 1)
        manifest = {**facts, "made": time.time(), "seconds": seconds, "files": described}
        files.atomic_write(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        path = templates.root / name
        made = templates.parse(path, manifest)
        assert made is not None  # noqa: S101 (it was made here)
        templates.publish(folder, name)
    manifests.note(path, MANIFEST, described, linked=templates.has_linked_files(made))
    return made


def _filled(folder: Path, fill: Callable[[Path], Mapping[str, Json]]) -> Mapping[str, Json]:
    """Call `fill`. Raises OSError if the disk is full, whatever error that raised.

    The guest's memory is a file that is mapped: a hypervisor that finds no room for a page of it is killed.
    """
    try:
        return fill(folder)
    except PymachineError as error:
        if shutil.disk_usage(folder).free < FULL_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise


def _make_room(templates: Templates, *, keep: str) -> None:
    """Make room for another template. Raises `TemplateError` if there is none."""
    _prune([template for template in templates.all() if template.name != keep], UNUSED_SECONDS)
    root = templates.root
    free = shutil.disk_usage(root).free
    if free < NEEDED_BYTES:
        raise TemplateError(
            f"not enough disk space for a template in {root}: {free >> 20} MB free, {NEEDED_BYTES >> 20} MB needed"
        )


def _synced(path: Path) -> dict[str, Json]:
    """Write a file out to the disk, and return its size and digest."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return {"size": path.stat().st_size, "sha256": manifests.sparse_digest(path)}


def _marker(path: Path) -> Path:
    return path.with_name(f".{path.name}.failed")


def _mark(path: Path, why: str, *, failures: int) -> None:
    """Note that a template failed just now. `failures` counts how often the template was proven to be at fault."""
    files.atomic_write(_marker(path), json.dumps({"why": why, "failures": failures}) + "\n")


def _failures(path: Path) -> int:
    """Return how often templates of this shape were at fault; 0 if the last time is more than a day ago."""
    marker = _marker(path)
    try:
        recent = 0 <= time.time() - marker.stat().st_mtime < RETRY_SECONDS
        return int(json.loads(marker.read_bytes())["failures"]) if recent else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _given_up(path: Path) -> bool:
    return _failures(path) >= PROVEN_FAILURES


def _failed_since(path: Path, moment: float) -> bool:
    try:
        return _marker(path).stat().st_mtime >= moment
    except OSError:
        return False
