"""Templates as the core keeps them, with a driver that writes files instead of freezing a guest."""

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
    """Its templates are two files, one small and one large."""

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


class Says(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


class World(NamedTuple):
    store: Path
    driver: Driver
    reporter: Says

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
    return World(tmp_path, Freezer(ref, {}), Says())  # type: ignore[abstract]


def test_the_ability_is_told_by_its_methods(world: World) -> None:
    assert isinstance(world.driver, Templatable)


def test_it_is_made_once_and_found_again(world: World) -> None:
    first, second = world.made(), world.made()
    assert first.name == second.name
    assert first.name.startswith("freezer-")
    assert len(Freezer.made) == 1
    assert (first.directory.stat().st_mode & 0o777) == 0o700
    assert [template.name for template in templates.find_all(world.store)] == [first.name]
    assert templates.find(world.store, first.name).shape == {"cpus": 2}
    assert not list(first.directory.parent.glob(".tmp-*"))


def test_another_shape_image_or_seed_is_another_template(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {world.made().name}
    for template in (world.ensure(seed=b"other"), world.ensure(image=None)):
        assert template
        names.add(template.name)
    monkeypatch.setattr(Freezer, "shape", {"cpus": 4})
    names.add(world.made().name)
    assert len(names) == 4


def test_a_driver_without_the_ability_or_the_shape_has_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Freezer, "shape", None)
    assert world.ensure() is None
    assert Freezer.made == []


def test_many_at_once_make_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """Change one bit, and put the times back that anybody may set."""
    before = path.stat()
    with path.open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def copy_half(path: Path) -> None:
    """As a program that makes the file as large as it will be, and is ended: the rest is zeros."""
    size = path.stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


HARMS = [flip, truncate, copy_half, Path.unlink]


@pytest.mark.parametrize("name", ["state", "memory"])
@pytest.mark.parametrize("harm", HARMS)
def test_a_file_that_is_not_as_it_was_made_is_noticed(world: World, name: str, harm: Callable[[Path], None]) -> None:
    template = world.made()
    harm(template.directory / name)
    with pytest.raises(manifests.ContentError, match=name):
        templates.Templates(template.directory.parent).check(template)
    again = world.made()
    assert len(Freezer.made) == 2
    assert again.name == template.name
    templates.Templates(again.directory.parent).check(again)
    assert "is removed" in world.reporter.lines[0]


def without_times(path: Path) -> None:
    for each in path.rglob("*"):
        os.utime(each, (0, 0))


def filled(path: Path) -> None:
    """As `tar` and others without an option write sparse files: their holes as zeros."""
    for each in path.rglob("*"):
        if each.is_file():
            each.write_bytes(each.read_bytes())


def other_modes(path: Path) -> None:
    for each in path.rglob("*"):
        each.chmod(0o755)


def same(path: Path) -> None:
    assert path.is_dir()


@pytest.mark.parametrize("change", [same, without_times, filled, other_modes])
def test_a_template_in_a_cache_that_was_copied_is_found_and_read_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    template = world.made()
    restored = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "cache", restored)
    change(restored)
    monkeypatch.setenv("PYMACHINE_CACHE", str(restored))
    read: list[str] = []
    digest = manifests.sparse_digest
    monkeypatch.setattr(manifests, "sparse_digest", lambda path: (read.append(path.name), digest(path))[1])
    for _ in range(2):
        found = world.made()
        assert found.directory == restored / "templates" / template.name
    assert sorted(read) == ["memory", "state"]
    assert len(Freezer.made) == 1


@pytest.mark.parametrize("harm", HARMS)
def test_a_copy_that_is_not_whole_is_noticed(
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
def test_a_note_of_the_last_check_that_is_no_good_is_not_believed(world: World, text: str) -> None:
    template = world.made()
    (template.directory / manifests.CHECKED).write_text(text)
    templates.Templates(template.directory.parent).check(template)
    truncate(template.directory / "memory")
    (template.directory / manifests.CHECKED).write_text(text)
    with pytest.raises(manifests.ContentError, match="memory"):
        templates.Templates(template.directory.parent).check(template)


def test_a_template_that_an_older_version_made_is_listed_and_pruned(world: World) -> None:
    template = world.made()
    manifest = json.loads((template.directory / templates.MANIFEST).read_text())
    older = template.directory.with_name("freezer-0123456789ab")
    template.directory.rename(older)
    (older / templates.MANIFEST).write_text(json.dumps({**manifest, "format": 1}))
    assert [found.name for found in templates.find_all(world.store)] == [older.name]
    assert [found.name for found in templates.prune(world.store, unused_seconds=0)] == [older.name]


def test_what_failed_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Freezer, "problem", DriverError("it does not freeze"))
    with pytest.raises(templates.TemplateFailedError, match="it does not freeze"):
        world.ensure()
    assert not [path for path in templates.directory(world.store).iterdir() if path.is_dir()]
    monkeypatch.setattr(Freezer, "problem", None)
    assert world.ensure() is not None


def test_those_that_waited_for_a_maker_that_failed_do_not_try_for_themselves(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def failed(template: templates.Template) -> templates.TemplateFailedError:
    cause = DriverError("it hangs")
    return templates.TemplateFailedError("it did not resume", template.directory, cause, made=template.made)


def test_the_template_that_came_after_one_that_failed_is_kept(world: World) -> None:
    first = failed(world.made())
    templates.remove_faulty(first)
    second = world.made()
    templates.remove_faulty(first)
    assert world.made().made == second.made
    assert len(Freezer.made) == 2


def test_a_shape_is_given_up_for_a_day_once_two_templates_were_at_fault(world: World) -> None:
    for _ in range(templates.PROVEN_FAILURES):
        template = world.made()
        for _ in range(4):  # machines that it failed, side by side
            templates.remove_faulty(failed(template))
        assert templates.find_all(world.store) == []
    assert world.ensure() is None
    (marker,) = template.directory.parent.glob(".*.failed")
    assert "it did not resume" in marker.read_text()
    long_ago = time.time() - templates.RETRY_SECONDS - 1
    os.utime(marker, (long_ago, long_ago))
    template = world.made()
    templates.remove_faulty(failed(template))
    assert world.ensure() is not None


def test_a_marker_that_an_older_version_left_is_no_obstacle(world: World) -> None:
    template = world.made()
    templates.remove(template)
    template.directory.with_name(f".{template.name}.failed").write_text("it did not resume\n")
    assert world.ensure() is not None


def test_a_cache_that_is_read_only_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    template = world.made()

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(files, "atomic_write", refuse)
    (template.directory / manifests.CHECKED).unlink()
    templates.touch(world.made())
    assert len(Freezer.made) == 1


def test_a_full_disk_is_no_reason_not_to_try_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_maker_that_could_not_say_that_the_disk_is_full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Freezer, "problem", DriverError("QEMU ended"))
    usage = shutil.disk_usage(world.store)
    free = iter([2 << 30, 1 << 20])
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: usage._replace(free=next(free)))
        with pytest.raises(TemplateError, match="No space left on device"):
            world.ensure()
    monkeypatch.setattr(Freezer, "problem", None)
    assert world.ensure() is not None


def test_an_interrupt_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Freezer, "problem", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        world.ensure()
    assert not [path for path in templates.directory(world.store).iterdir() if path.is_dir()]
    monkeypatch.setattr(Freezer, "problem", None)
    assert world.ensure() is not None


def test_what_a_killed_maker_left_goes_when_the_next_is_made(world: World) -> None:
    root = templates.directory(world.store)
    root.mkdir(parents=True)
    left = root / ".tmp-999999999-abcdefgh"
    left.mkdir()
    (left / "memory").write_bytes(b"x")
    world.made()
    assert not left.exists()


def test_use_and_age_decide_what_is_pruned(world: World) -> None:
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


def test_a_template_that_nobody_uses_makes_room(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    old = world.made()
    templates.touch(old)
    long_ago = time.time() - templates.UNUSED_SECONDS - 1
    os.utime(old.directory / templates.USED, (long_ago, long_ago))
    monkeypatch.setattr(Freezer, "shape", {"cpus": 8})
    new = world.made()
    assert [template.name for template in templates.find_all(world.store)] == [new.name]


def test_a_folder_that_is_no_template_is_passed_over(world: World) -> None:
    folder = templates.directory(world.store) / "freezer-0123456789ab"
    folder.mkdir(parents=True)
    for text in ("", "{}", '{"format": 99}', "[]"):
        (folder / templates.MANIFEST).write_text(text)
        assert templates.find_all(world.store) == []


def test_an_endpoint_is_never_asked_of_a_template() -> None:
    from pymachine.hosts.build_template import _refuse_identity

    with pytest.raises(TemplateError):
        _refuse_identity(Endpoint("127.1.1.1"))
