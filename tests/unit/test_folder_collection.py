"""Collections of folders with a manifest."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pymachine.errors import PymachineError
from pymachine.system import atomic_dirs, files, folder_collection, manifests
from pymachine.system.folder_collection import FolderCollection, ManifestFolder
from pymachine.system.progress import Silent


class Boxes(FolderCollection[ManifestFolder]):
    noun = "box"
    manifest_name = "box.json"
    error = PymachineError

    def parse(self, directory: Path, manifest: Any) -> ManifestFolder | None:
        return ManifestFolder(directory, manifest) if manifest["files"] else None


class Warnings(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def boxes(tmp_path: Path) -> Boxes:
    (tmp_path / "boxes").mkdir()
    return Boxes(tmp_path / "boxes")


def add(boxes: Boxes, name: str, content: str = "content") -> ManifestFolder:
    with boxes.making() as folder:
        (folder / "data").write_text(content)
        described = {"data": {"size": len(content), "sha256": manifests.sparse_digest(folder / "data")}}
        (folder / "box.json").write_text(json.dumps({"files": described}))
        boxes.publish(folder, name)
    found = boxes.open(name)
    assert found is not None
    return found


def test_published_folders_are_listed_by_name_and_removed_once(boxes: Boxes) -> None:
    add(boxes, "b")
    add(boxes, "a")
    assert [box.name for box in boxes.all()] == ["a", "b"]
    assert boxes.remove("a")
    assert not boxes.remove("a")
    assert [box.name for box in boxes.all()] == ["b"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot exchange two names")
def test_a_folder_is_replaced_in_one_step(boxes: Boxes) -> None:
    add(boxes, "a", "old")
    with boxes.making() as folder:
        (folder / "data").write_text("new")
        boxes.publish(folder, "a")
        # The old one has changed places with the new one, and is removed at the end of the block.
        assert (folder / "data").read_text() == "old"
        assert (boxes.root / "a" / "data").read_text() == "new"
    assert [path.name for path in boxes.root.iterdir()] == ["a"]


@pytest.mark.parametrize("exchange", [True, False])
def test_links_and_folders_are_replaced_on_every_file_system(
    boxes: Boxes, exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(atomic_dirs, "_exchange", lambda folder, other: False)
    (tmp_path / "elsewhere").mkdir()
    (boxes.root / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("a", "a", "link"):
        assert add(boxes, name).name == name
    assert sorted(path.name for path in boxes.root.iterdir()) == ["a", "link"]
    assert (tmp_path / "elsewhere").is_dir()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {}}', "[" * 100_000, "1" * (1 << 21)])
def test_folders_without_a_readable_manifest_are_skipped(boxes: Boxes, text: str) -> None:
    (boxes.root / "odd").mkdir()
    (boxes.root / "odd" / "box.json").write_text(text)
    assert boxes.all() == []


def test_a_pipe_in_place_of_the_manifest_is_not_read(boxes: Boxes) -> None:
    (boxes.root / "odd").mkdir()
    os.mkfifo(boxes.root / "odd" / "box.json")
    assert boxes.open("odd") is None


def test_a_damaged_folder_is_removed_with_a_warning(boxes: Boxes) -> None:
    box, reporter = add(boxes, "a"), Warnings()
    assert boxes.intact(box, reporter) == box
    (box.directory / "data").write_text("CONTENT")
    assert boxes.intact(box, reporter) is None
    assert reporter.lines[0].startswith("The box a is removed: ")
    assert boxes.all() == []


def test_a_held_lock_is_waited_for_and_named(boxes: Boxes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_collection, "LOCK_SECONDS", 0.1)
    waited = []

    @contextmanager
    def waiting() -> Iterator[None]:
        waited.append(True)
        yield

    with (
        files.acquire_lock(boxes.root / ".key.lock"),
        pytest.raises(PymachineError, match=r"another pymachine has been making a box for 0\.1 seconds"),
        boxes.locked("key", what="a box", waiting=waiting),
    ):
        pass
    with boxes.locked("key", what="a box", waiting=waiting):
        assert waited == [True]
