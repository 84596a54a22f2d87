"""Disks that are changes to a template's, made and grown by a real QEMU, and what machines do with them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pymachine.system import files
from pymachine.system.wait import until
from pymachine_driver_qemu import binary, disk, disk_jobs, snapshot
from pymachine_driver_qemu.binary import Qemu

MIB = 1 << 20


@pytest.fixture(scope="module")
def qemu() -> Qemu:
    return binary.find("amd64")


@pytest.fixture
def machine(tmp_path: Path, qemu: Qemu) -> Path:
    """The folder of a machine whose disk has no changes to its base, which has one block of text."""
    folder = tmp_path / "machine"
    folder.mkdir()
    with (folder / disk.BASE).open("wb") as base:
        base.truncate(64 * MIB)
        base.seek(32 * MIB)
        base.write(b"base")
    for name in disk.IMAGE:
        (folder / name).write_text(name)
    disk_jobs.make_overlay(qemu, folder / disk.OVERLAY, base=folder / disk.BASE)
    return folder


def flat(folder: Path, qemu: Qemu) -> bytes:
    target = folder / "flat"
    disk_jobs.flatten(qemu, folder / disk.OVERLAY, target, base=folder / disk.BASE)
    assert files.allocated(target.stat()) < MIB
    return target.read_bytes()


def test_a_disk_without_changes_is_small_and_private(machine: Path) -> None:
    status = (machine / disk.OVERLAY).stat()
    assert files.allocated(status) < MIB
    assert status.st_mode & 0o777 == 0o600
    assert disk.parts(machine) == (disk.OVERLAY, disk.BASE)


def test_it_is_flattened_to_the_content_of_its_base(machine: Path, qemu: Qemu) -> None:
    data = flat(machine, qemu)
    assert len(data) == 64 * MIB
    assert data[32 * MIB :][:4] == b"base"
    assert not data[: 32 * MIB].strip(b"\0")


def test_it_grows_and_never_shrinks(machine: Path, qemu: Qemu) -> None:
    for size in (96, 80):
        disk_jobs.grow(qemu, machine / disk.OVERLAY, base=machine / disk.BASE, size=size * MIB)
        assert len(flat(machine, qemu)) == 96 * MIB


def test_a_copy_shares_the_base(machine: Path, tmp_path: Path, qemu: Qemu) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    disk.copy_data_disk(machine, copy)
    assert (copy / disk.BASE).samefile(machine / disk.BASE)
    assert not (copy / disk.OVERLAY).samefile(machine / disk.OVERLAY)
    assert flat(copy, qemu)[32 * MIB :][:4] == b"base"


def test_a_copy_on_another_file_system_is_sparse_and_private(
    machine: Path, tmp_path: Path, qemu: Qemu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    copy = tmp_path / "copy"
    copy.mkdir()
    monkeypatch.setattr(os, "link", refuse)
    disk.copy_data_disk(machine, copy)
    status = (copy / disk.BASE).stat()
    assert files.allocated(status) < MIB
    assert status.st_mode & 0o777 == 0o600
    assert flat(copy, qemu)[32 * MIB :][:4] == b"base"


def test_a_restored_disk_is_the_saved_one(machine: Path, tmp_path: Path, qemu: Qemu) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    snapshot.save(machine, None, saved)
    for end in (snapshot.commit, snapshot.rollback):
        disk_jobs.grow(qemu, machine / disk.OVERLAY, base=machine / disk.BASE, size=96 * MIB)
        snapshot.swap(machine, saved, end=lambda: None)
        assert len(flat(machine, qemu)) == 64 * MIB
        end(machine)
    assert len(flat(machine, qemu)) == 96 * MIB
    assert not [path for path in machine.iterdir() if path.name.endswith(".aside")]


def test_a_snapshot_of_another_kind_of_disk_is_refused(machine: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / disk.DISK).write_bytes(b"raw")
    with pytest.raises(snapshot.SnapshotError, match="another kind"):
        snapshot.swap(machine, saved, end=lambda: None)


def test_a_killed_command_leaves_no_qemu() -> None:
    """It would hold the lock on the disk."""
    work = "with disk_jobs._idle(binary.find('amd64')): print('on', flush=True); time.sleep(600)"
    script = f"import time\nfrom pymachine_driver_qemu import binary, disk_jobs\n{work}"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as command:
        assert command.stdout
        assert command.stdout.readline() == b"on\n"
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
        assert len(children) == 1
        command.kill()
    until(lambda: not has_program(children[0]), deadline=20, what="QEMU to end")


def has_program(pid: str) -> bool:
    """Return whether the process runs, and is not a zombie."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def test_a_damaged_disk_is_an_error_of_qemu(machine: Path, qemu: Qemu) -> None:
    (machine / disk.OVERLAY).write_bytes(b"damaged")
    with pytest.raises(disk.DiskError, match="not in qcow2 format"):
        disk_jobs.grow(qemu, machine / disk.OVERLAY, base=machine / disk.BASE, size=96 * MIB)
