"""The folders of snapshots, and durations as people write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from pymachine.hosts import snapshots
from pymachine.hosts.snapshots import SnapshotError
from pymachine.system import durations


def fill(folder: Path) -> dict[str, object]:
    (folder / "disk.raw").write_bytes(b"x" * 8192)
    return {"Memory": True}


def test_a_snapshot_is_made_listed_and_removed(tmp_path: Path) -> None:
    first = snapshots.make(tmp_path, "one", fill)
    second = snapshots.make(tmp_path, "two.2_b-c", lambda folder: {})
    assert [found.name for found in snapshots.find_all(tmp_path)] == ["one", "two.2_b-c"]
    assert (first.has_memory, second.has_memory) == (True, False)
    assert first.size >= 8192
    assert (first.directory.stat().st_mode & 0o777) == 0o700
    assert snapshots.find(tmp_path, "one").facts == {"Memory": True}
    snapshots.remove(first)
    with pytest.raises(SnapshotError, match='no snapshot "one"'):
        snapshots.find(tmp_path, "one")


def test_an_existing_name_is_refused_before_any_work(tmp_path: Path) -> None:
    snapshots.make(tmp_path, "one", fill)
    with pytest.raises(SnapshotError, match="already"):
        snapshots.make(tmp_path, "one", lambda folder: pytest.fail("it was tried"))


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-rf", ".hidden", "x" * 64, "a b", "ä", "a\n"])
def test_invalid_snapshot_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SnapshotError, match="cannot be called"):
        snapshots.make(tmp_path, name, fill)


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt(), SnapshotError("no")])
def test_a_failed_snapshot_leaves_nothing(tmp_path: Path, problem: BaseException) -> None:
    def fail(folder: Path) -> dict[str, object]:
        fill(folder)
        raise problem

    with pytest.raises((SnapshotError, KeyboardInterrupt)):
        snapshots.make(tmp_path, "one", fail)
    assert list((tmp_path / "snapshots").iterdir()) == []
    snapshots.make(tmp_path, "one", fill)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2, "made": 1, "facts": {}}', '{"format": 1, "made": "x"}'])
def test_damaged_snapshot_folders_are_skipped(tmp_path: Path, text: str) -> None:
    snapshots.make(tmp_path, "good", fill)
    bad = tmp_path / "snapshots" / "bad"
    bad.mkdir()
    (bad / snapshots.MANIFEST).write_text(text)
    assert [found.name for found in snapshots.find_all(tmp_path)] == ["good"]


def test_the_default_name_is_valid(tmp_path: Path) -> None:
    snapshots.check_name(snapshots.default_name())
    assert json.loads((snapshots.make(tmp_path, "x", fill).directory / "snapshot.json").read_text())["format"] == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("7d", 604800), ("1d12h", 129600)],
)
def test_durations_are_parsed(text: str, seconds: float) -> None:
    assert durations.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "2x", "2h ", "2 h", "0s", "1h-2m", "1h\n"])
def test_invalid_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        durations.parse(text)


@given(st.integers(0, 10**9))
def test_every_duration_can_be_humanized(seconds: int) -> None:
    number, unit = durations.humanize(seconds).split()
    assert int(number) >= 0
    assert unit.rstrip("s") in {"day", "hour", "minute", "second"}


def test_a_link_in_the_place_of_the_snapshots_is_not_followed(tmp_path: Path) -> None:
    """The machine's folder may come from elsewhere, and the link may lead to folders of the user."""
    own, machine = tmp_path / "own", tmp_path / "machine"
    machine.mkdir()
    snapshots.make(own, "one", fill)
    stale = own / "snapshots" / ".tmp-x"
    stale.mkdir()
    (machine / "snapshots").symlink_to(own / "snapshots")
    with pytest.raises(SnapshotError, match="is a link to"):
        snapshots.make(machine, "two", fill)
    with pytest.raises(SnapshotError, match="is a link to"):
        snapshots.find(machine, "one")
    assert stale.is_dir()
