"""The cache of templates, with a driver that writes files instead of freezing a guest."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import pytest

from pymachine.driver.abilities import Templatable
from pymachine.driver.contract import BootRequest, Driver, DriverInfo, Endpoint, ImageFiles, Json, MachineRef
from pymachine.errors import DriverError, TemplateError
from pymachine.hosts import templates
from pymachine.system import files, manifests
from pymachine.system.progress import Silent

IMAGE = ImageFiles(digest="1" * 64, architecture="amd64", iso=Path("i"), kernel=Path("k"), initrd=Path("r"))


class Freezer(Driver):
    """A driver whose templates are two files, one small and one large."""

    info = DriverInfo("freezer", "for tests")
    shape: ClassVar[Mapping[str, Json] | None] = {"cpus": 2}
    made: ClassVar[list[Path]] = []
    problem: ClassVar[BaseException | None] = None
    seconds: ClassVar[float] = 0.0

    def template_shape(self, request: BootRequest) -> Mapping[str, Json] | None:
        return self.shape

    def make_template(self, folder: Path, request: BootRequest) -> None:
        self.made.append(folder)
        (folder / "state").write_bytes(b"state")
        time.sleep(self.seconds)
        if self.problem:
            raise self.problem
        with (folder / "memory").open("wb") as memory:
            memory.write(b"page")
            memory.seek(5 << 20)
            memory.write(b"page")
            memory.truncate(8 << 20)

    def create_from_template(self, folder: Path, request: BootRequest) -> None:
        raise NotImplementedError


class Warnings(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


class World(NamedTuple):
    store: Path
    driver: Driver
    reporter: Warnings

    def ensure(self, **changed: object) -> templates.Template | None:
        request = BootRequest(**{"identity": lambda endpoint: b"", "image": IMAGE, "seed": b"seed", **changed})  # type: ignore[arg-type]
        return templates.ensure(self.driver, request, store=self.store, reporter=self.reporter)

    def made(self) -> templates.Template:
        template = self.ensure()
        assert template
        return template


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.delenv("PYMACHINE_CACHE", raising=False)
    monkeypatch.setattr(Freezer, "made", [])
    monkeypatch.setattr(Freezer, "__abstractmethods__", frozenset())
    ref = MachineRef("x", tmp_path / "machines/x", tmp_path, tmp_path / "key")
    return World(tmp_path, Freezer(ref, {}), Warnings())  # type: ignore[abstract]


def test_a_driver_with_the_methods_is_templatable(world: World) -> None:
    assert isinstance(world.driver, Templatable)


def test_a_template_is_made_once_and_found_again(world: World) -> None:
    first, second = world.made(), world.made()
    assert first.name == second.name
    assert first.name.startswith("freezer-")
    assert len(Freezer.made) == 1
    assert (first.directory.stat().st_mode & 0o777) == 0o700
    assert [template.name for template in templates.find_all(world.store)] == [first.name]
    assert templates.find(world.store, first.name).shape == {"cpus": 2}
    assert not list(first.directory.parent.glob(".tmp-*"))


def test_another_shape_image_or_seed_gives_another_template(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {world.made().name}
    for template in (world.ensure(seed=b"other"), world.ensure(image=None)):
        assert template
        names.add(template.name)
    monkeypatch.setattr(Freezer, "shape", {"cpus": 4})
    names.add(world.made().name)
    assert len(names) == 4


def test_without_a_shape_there_is_no_template(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Freezer, "shape", None)
    assert world.ensure() is None
    assert Freezer.made == []


def test_parallel_requests_make_one_template(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Freezer, "seconds", 0.2)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(world.made().name)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == len(Freezer.made) == 1


def flip(path: Path) -> None:
    """Change one bit and restore the times, which any program may set."""
    before = path.stat()
    with path.open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def copy_half(path: Path) -> None:
    """Fill the second half with zeros, as a copy does that sets the size first and is then killed."""
    size = path.stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


HARMS = [flip, truncate, copy_half, Path.unlink]


@pytest.mark.parametrize("name", ["state", "memory"])
@pytest.mark.parametrize("harm", HARMS)
def test_a_changed_file_of_a_template_is_detected(world: World, name: str, harm: Callable[[Path], None]) -> None:
    template = world.made()
    harm(template.directory / name)
    with pytest.raises(manifests.ContentError, match=name):
        templates.Templates(template.directory.parent).check(template)
    again = world.made()
    assert len(Freezer.made) == 2
    assert again.name == template.name
    templates.Templates(again.directory.parent).check(again)
    assert "is removed" in world.reporter.lines[0]


def reset_times(path: Path) -> None:
    for each in path.rglob("*"):
        os.utime(each, (0, 0))


def fill_holes(path: Path) -> None:
    """Write holes as zeros, as `tar` does without an option for sparse files."""
    for each in path.rglob("*"):
        if each.is_file():
            each.write_bytes(each.read_bytes())


def change_modes(path: Path) -> None:
    for each in path.rglob("*"):
        each.chmod(0o755)


def change_nothing(path: Path) -> None:
    assert path.is_dir()


@pytest.mark.parametrize("change", [change_nothing, reset_times, fill_holes, change_modes])
def test_a_template_in_a_copied_cache_is_verified_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    template = world.made()
    restored = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "cache", restored)
    change(restored)
    monkeypatch.setenv("PYMACHINE_CACHE", str(restored))
    read: list[str] = []
    digest = manifests.sparse_digest

    def noted(path: Path) -> str:
        read.append(path.name)
        return digest(path)

    monkeypatch.setattr(manifests, "sparse_digest", noted)
    for _ in range(2):
        found = world.made()
        assert found.directory == restored / "templates" / template.name
    assert sorted(read) == ["memory", "state"]
    assert len(Freezer.made) == 1


@pytest.mark.parametrize("harm", HARMS)
def test_an_incomplete_copy_is_detected(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
) -> None:
    template = world.made()
    restored = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "cache", restored)
    harm(restored / "templates" / template.name / "memory")
    monkeypatch.setenv("PYMACHINE_CACHE", str(restored))
    world.made()
    assert len(Freezer.made) == 2
    assert "is removed" in world.reporter.lines[0]


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"state": null, "memory": [1]}'])
def test_an_invalid_note_of_the_last_check_is_ignored(world: World, text: str) -> None:
    template = world.made()
    (template.directory / manifests.CHECKED).write_text(text)
    templates.Templates(template.directory.parent).check(template)
    truncate(template.directory / "memory")
    (template.directory / manifests.CHECKED).write_text(text)
    with pytest.raises(manifests.ContentError, match="memory"):
        templates.Templates(template.directory.parent).check(template)


def test_a_template_of_an_older_version_is_listed_and_pruned(world: World) -> None:
    template = world.made()
    manifest = json.loads((template.directory / templates.MANIFEST).read_text())
    older = template.directory.with_name("freezer-0123456789ab")
    template.directory.rename(older)
    (older / templates.MANIFEST).write_text(json.dumps({**manifest, "format": 1}))
    assert [found.name for found in templates.find_all(world.store)] == [older.name]
    assert [found.name for found in templates.prune(world.store, unused_seconds=0)] == [older.name]


def test_a_failed_template_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Freezer, "problem", DriverError("it does not freeze"))
    with pytest.raises(templates.TemplateFailedError, match="it does not freeze"):
        world.ensure()
    assert not [path for path in templates.directory(world.store).iterdir() if path.is_dir()]
    monkeypatch.setattr(Freezer, "problem", None)
    assert world.ensure() is not None


def test_waiting_requests_do_not_retry_after_a_failure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Freezer, "problem", DriverError("it does not freeze"))
    monkeypatch.setattr(Freezer, "seconds", 0.5)
    outcomes: list[object] = []

    def ensure() -> None:
        try:
            outcomes.append(world.ensure())
        except templates.TemplateFailedError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Freezer.made) == 1
    assert outcomes.count(None) == 3


def make_failure(template: templates.Template) -> templates.TemplateFailedError:
    cause = DriverError("it hangs")
    return templates.TemplateFailedError("it did not resume", template.directory, cause, made=template.made)


def test_a_newer_template_survives_a_failure_of_the_older_one(world: World) -> None:
    first = make_failure(world.made())
    templates.remove_faulty(first)
    second = world.made()
    templates.remove_faulty(first)
    assert world.made().made == second.made
    assert len(Freezer.made) == 2


def test_after_two_failed_templates_a_shape_is_not_tried_for_a_day(world: World) -> None:
    for _ in range(templates.PROVEN_FAILURES):
        template = world.made()
        for _ in range(4):  # machines that it failed, side by side
            templates.remove_faulty(make_failure(template))
        assert templates.find_all(world.store) == []
    assert world.ensure() is None
    (marker,) = template.directory.parent.glob(".*.failed")
    assert "it did not resume" in marker.read_text()
    long_ago = time.time() - templates.RETRY_SECONDS - 1
    os.utime(marker, (long_ago, long_ago))
    template = world.made()
    templates.remove_faulty(make_failure(template))
    assert world.ensure() is not None


def test_a_failure_marker_of_an_older_version_is_ignored(world: World) -> None:
    template = world.made()
    templates.remove(template)
    template.directory.with_name(f".{template.name}.failed").write_text("it did not resume\n")
    assert world.ensure() is not None


def test_a_read_only_cache_can_be_used(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    template = world.made()

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(files, "atomic_write", refuse)
    (template.directory / manifests.CHECKED).unlink()
    templates.touch(world.made())
    assert len(Freezer.made) == 1


def test_after_a_full_disk_the_template_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Freezer, "problem", OSError(28, "No space left on device"))
    with pytest.raises(TemplateError, match="No space left on device"):
        world.ensure()
    monkeypatch.setattr(Freezer, "problem", None)
    usage = shutil.disk_usage(world.store)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
        with pytest.raises(TemplateError, match="not enough disk space"):
            world.ensure()
    assert world.ensure() is not None


def test_a_failure_on_a_full_disk_is_reported_as_no_space(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Freezer, "problem", DriverError("QEMU ended"))
    usage = shutil.disk_usage(world.store)
    free = iter([2 << 30, 1 << 20])
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: usage._replace(free=next(free)))
        with pytest.raises(TemplateError, match="No space left on device"):
            world.ensure()
    monkeypatch.setattr(Freezer, "problem", None)
    assert world.ensure() is not None


def test_an_interrupt_leaves_no_template(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Freezer, "problem", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        world.ensure()
    assert not [path for path in templates.directory(world.store).iterdir() if path.is_dir()]
    monkeypatch.setattr(Freezer, "problem", None)
    assert world.ensure() is not None


def test_files_of_a_killed_process_are_removed_with_the_next_template(world: World) -> None:
    root = templates.directory(world.store)
    root.mkdir(parents=True)
    left = root / ".tmp-999999999-abcdefgh"
    left.mkdir()
    (left / "memory").write_bytes(b"x")
    world.made()
    assert not left.exists()


def test_templates_are_pruned_by_their_last_use(world: World) -> None:
    template = world.made()
    assert template.used == template.made
    templates.touch(template)
    assert abs(template.used - time.time()) < 60
    assert templates.prune(world.store, unused_seconds=3600) == []
    assert [gone.name for gone in templates.prune(world.store, unused_seconds=0)] == [template.name]
    assert templates.find_all(world.store) == []
    templates.remove(template)  # gone already
    with pytest.raises(TemplateError):
        templates.touch(template)
    with pytest.raises(templates.TemplateNotFoundError):
        templates.find(world.store, template.name)


def test_an_unused_template_is_removed_for_a_new_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old = world.made()
    templates.touch(old)
    long_ago = time.time() - templates.UNUSED_SECONDS - 1
    os.utime(old.directory / templates.USED, (long_ago, long_ago))
    monkeypatch.setattr(Freezer, "shape", {"cpus": 8})
    new = world.made()
    assert [template.name for template in templates.find_all(world.store)] == [new.name]


def test_damaged_template_folders_are_skipped(world: World) -> None:
    folder = templates.directory(world.store) / "freezer-0123456789ab"
    folder.mkdir(parents=True)
    for text in ("", "{}", '{"format": 99}', "[]"):
        (folder / templates.MANIFEST).write_text(text)
        assert templates.find_all(world.store) == []


def test_a_template_has_no_endpoint() -> None:
    from pymachine.hosts.build_template import _refuse_identity

    with pytest.raises(TemplateError):
        _refuse_identity(Endpoint("127.1.1.1"))
