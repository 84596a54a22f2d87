"""Exports: files are restored unchanged, holes included, and damaged or foreign files are refused."""

from __future__ import annotations

import dataclasses
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings, strategies as st

from pymachine.hosts import archive_format, archive_reader, archive_writer
from pymachine.hosts.archive_format import ExportError, Manifest
from support import archives, processes

MANIFEST = Manifest(archive_format.MACHINE, "intro", "qemu")
EXTENTS = st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=9000)), max_size=4)


def read(source: Path, target: Path) -> Manifest:
    target.mkdir(exist_ok=True)
    with archive_reader.opened(source) as export:
        for member in export.manifest.members:
            export.extract(member, target / member.name)
        export.verify()
    return dataclasses.replace(export.manifest, members=())


def write(target: Path, *files: Path) -> None:
    archive_writer.write(target, MANIFEST, files, advance=lambda count: None)


def test_files_are_restored_unchanged(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": "ü"}')
    (tmp_path / "empty").write_text("")
    write(tmp_path / "export", tmp_path / "config.json", tmp_path / "empty")
    assert read(tmp_path / "export", tmp_path / "out") == MANIFEST
    assert (tmp_path / "out" / "config.json").read_text() == '{"a": "ü"}'
    assert (tmp_path / "out" / "empty").read_bytes() == b""
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()} == {0o600}
    assert (tmp_path / "export").stat().st_mode & 0o777 == 0o600


@given(EXTENTS, st.integers(0, 70))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_disks_are_restored_with_their_holes(tmp_path: Path, extents: list[tuple[int, bytes]], blocks: int) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        for at, data in extents:
            file.seek(at * 4096)
            file.write(data)
        file.truncate(blocks * 4096)
    write(tmp_path / "export", disk)
    (tmp_path / "out" / "disk").unlink(missing_ok=True)
    read(tmp_path / "export", tmp_path / "out")
    assert (tmp_path / "out" / "disk").read_bytes() == disk.read_bytes()


def test_a_large_sparse_disk_takes_only_its_data(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(200 << 30)
        file.seek(100 << 30)
        file.write(b"x" * 5000)
    assert archive_writer.data_size(disk) < 1 << 20
    write(tmp_path / "export", disk)
    read(tmp_path / "export", tmp_path / "out")
    copy = tmp_path / "out" / "disk"
    assert copy.stat().st_size == 200 << 30
    assert copy.stat().st_blocks * 512 < 1 << 20
    with copy.open("rb") as file:
        file.seek(100 << 30)
        assert file.read(5001) == b"x" * 5000 + b"\0"


def test_gnu_tar_reads_an_export(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(10 << 20)
        file.seek(5 << 20)
        file.write(b"data")
    write(tmp_path / "export", disk)
    plain = tmp_path / "plain.tar"
    with (tmp_path / "export").open("rb") as packed, plain.open("wb") as unpacked:
        zstandard.ZstdDecompressor().copy_stream(packed, unpacked)
    subprocess.run(["tar", "-x", "-f", plain, "-C", tmp_path, "--one-top-level=gnu"], check=True)
    assert (tmp_path / "gnu" / "machine" / "disk").read_bytes() == disk.read_bytes()


def test_an_export_has_the_digest_of_each_member(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3000)
    write(tmp_path / "export", tmp_path / "a")
    packed = tmp_path / "export.tar.zst"
    (tmp_path / "export").rename(packed)
    with packed.open("rb") as raw, (tmp_path / "plain.tar").open("wb") as plain:
        zstandard.ZstdDecompressor().copy_stream(raw, plain)
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-x", "-f", tmp_path / "plain.tar", "-C", tmp_path / "out"], check=True)
    subprocess.run(["sha256sum", "-c", "--quiet", archive_format.DIGESTS], cwd=tmp_path / "out", check=True)


def test_a_disk_of_too_many_pieces_loses_its_smallest_holes() -> None:
    pieces = [(number * 8192, 4096) for number in range(100)] + [(1 << 30, 4096)]
    assert archive_writer._merged(pieces, most=50) == [(0, 99 * 8192 + 4096), (1 << 30, 4096)]
    assert archive_writer._merged(pieces, most=200) == pieces


def test_members_that_no_export_has_are_refused(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, (what, data) in enumerate(archives.hostile(1 << 30)):
        (tmp_path / "export").write_bytes(data)
        out = tmp_path / str(number)
        with pytest.raises(ExportError):
            read(tmp_path / "export", out)
            pytest.fail(f"{what} was taken")
        written = sum(path.stat().st_blocks * 512 for path in out.rglob("*"))
        assert written <= archive_format.inflates_to(len(data)), what
    # In KiB; the file of 1 GiB is never in memory.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 << 10


def test_every_damaged_file_is_refused(tmp_path: Path) -> None:
    chance = random.Random(1)
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.write(chance.randbytes(3000))
        file.seek(1 << 20)
        file.write(b"data" * 2000)
        file.truncate(2 << 20)
    (tmp_path / "config.json").write_text("{}")
    write(tmp_path / "export", tmp_path / "config.json", disk)
    whole = (tmp_path / "export").read_bytes()
    number = 0

    def take(source: Path) -> None:
        nonlocal number
        number += 1
        read(source, tmp_path / f"out{number}")

    (tmp_path / "store").mkdir()
    attempts = archives.damaged(whole, rounds=800, seed=20240601)
    assert list(archives.faults(attempts, take, file=tmp_path / "damaged", root=tmp_path / "store")) == []
    assert number == 800


def test_a_change_of_any_bit_is_detected(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    write(tmp_path / "export", tmp_path / "x")
    whole = (tmp_path / "export").read_bytes()
    ends = [*range(24), *range(len(whole) - 64, len(whole))]
    for at in ends:
        for bit in range(8):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            (tmp_path / "damaged").write_bytes(data)
            with pytest.raises(ExportError):
                read(tmp_path / "damaged", tmp_path / f"{at}-{bit}")


def test_a_wrong_digest_names_the_file(tmp_path: Path) -> None:
    entries = archives.valid_entries({"config.json": b"{}", "disk": b"data"})
    entries[2] = archives.entry("machine/disk", b"dota")
    with pytest.raises(ExportError, match="SHA-256 of machine/disk is wrong"):
        read(archives.forge(tmp_path / "export", entries), tmp_path / "out")


def test_an_export_without_digests_is_refused_with_a_remedy(tmp_path: Path) -> None:
    entries = [archives.entry(archive_format.MANIFEST, archives.manifest({}, format=1))]
    with pytest.raises(ExportError, match="format is 1, which has no digests") as caught:
        read(archives.forge(tmp_path / "export", entries), tmp_path / "out")
    assert "export the machine again" in caught.value.hint


@given(st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_is_not_an_export_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "export").write_bytes(data)
    with pytest.raises(ExportError):
        read(tmp_path / "export", tmp_path / "out")


@given(st.integers(0, 100))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_truncated_export_is_an_error(tmp_path: Path, percent: int) -> None:
    (tmp_path / "data").write_bytes(bytes(range(256)) * 200)
    write(tmp_path / "export", tmp_path / "data")
    whole = (tmp_path / "export").read_bytes()
    (tmp_path / "export").write_bytes(whole[: len(whole) * percent // 101])
    with pytest.raises(ExportError):
        read(tmp_path / "export", tmp_path / "out")


def test_a_target_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    with pytest.raises(ExportError, match="cannot write"):
        write(tmp_path / "none" / "export", tmp_path / "data")
    with pytest.raises(ExportError, match="cannot read"):
        read(tmp_path / "nosuch", tmp_path / "out")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_import_ended_by_a_signal_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    contents = {
        "config.json": b'{"ConfigVersion": 3, "DriverName": "qemu"}',
        "disk.raw": random.Random(1).randbytes(1 << 20),
    }
    whole = archives.forge(tmp_path / "export", archives.valid_entries(contents, url="")).read_bytes()
    store = tmp_path / "store"
    environment = {**os.environ, "MACHINE_STORAGE_PATH": str(store), "HOME": str(tmp_path)}
    program = [sys.executable, "-m", "pymachine", "import", "/dev/stdin", "x"]
    with processes.started(program, stdin=subprocess.PIPE, env=environment) as child:
        assert child.stdin is not None
        # The rest does not come: the program waits in the middle of the disk.
        child.stdin.write(whole[: len(whole) // 2])
        child.stdin.flush()
        while not list(store.glob("machines/.tmp-*/disk.raw")):
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(number)
        assert child.wait() == 128 + number
    assert not store.exists()


def test_files_of_a_killed_export_are_removed_by_the_next(tmp_path: Path) -> None:
    """Files of a running export, and files that are not an export's, stay."""
    data, target = tmp_path / "data", tmp_path / "m.tar.zst"
    data.write_bytes(b"data")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom pymachine.hosts import archive_format, archive_writer\n"
        "def end(_): os.kill(os.getpid(), getattr(signal, sys.argv[3]))\n"
        "manifest = archive_format.Manifest('machine', 'm', 'd')\n"
        "archive_writer.write(Path(sys.argv[1]), manifest, [Path(sys.argv[2])], advance=end)\n"
    )
    words = [sys.executable, "-c", code, str(target), str(data)]
    with processes.started([*words, "SIGSTOP"]) as busy:
        os.waitid(os.P_PID, busy.pid, os.WSTOPPED | os.WNOWAIT)
        (held,) = parts(tmp_path)
        assert subprocess.run([*words, "SIGKILL"], check=False).returncode == -signal.SIGKILL
        assert len(parts(tmp_path)) == 2
        for other in (".m.tar.zst.part", ".other.tar.zst.0123abcd.part"):
            (tmp_path / other).touch()
        write(target, data)
        assert set(parts(tmp_path)) == {held, ".m.tar.zst.part", ".other.tar.zst.0123abcd.part"}


def parts(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".part")]
