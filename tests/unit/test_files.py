"""Atomic writes: the old content or the new, private from the first byte, no temporary file left."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pymachine.system.files import atomic_write, make_private_dir, rewrite


def test_atomic_write_replaces_the_file_and_sets_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o666)
    atomic_write(path, "new", mode=0o600)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_content_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_private_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:
    make_private_dir(tmp_path / "a" / "b")
    make_private_dir(tmp_path / "a" / "b")
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_in_the_place_of_a_private_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(OSError):
        make_private_dir(tmp_path / "a")


@pytest.mark.skipif(os.geteuid() != 0, reason="other owners take root")
def test_rewriting_keeps_mode_and_owner(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"old")
    file.chmod(0o640)
    os.chown(file, 65534, 65533)
    rewrite(file, b"new")
    status = file.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65533, 0o640)
    rewrite(file, b"secret", private=True)
    status = file.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65533, 0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="other owners take root")
def test_an_owner_that_cannot_be_kept_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    file = tmp_path / "config.json"
    file.write_bytes(b"old")
    os.chown(file, 65534, 65534)
    monkeypatch.setattr(os, "chown", refused)
    monkeypatch.setattr(os, "fchown", refused)
    rewrite(file, b"new")
    assert file.read_bytes() == b"new"
    assert file.stat().st_uid == os.geteuid()
    assert list(tmp_path.iterdir()) == [file]
