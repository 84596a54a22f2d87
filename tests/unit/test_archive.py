"""Exports: files that come back as they were, holes included, and files that are no exports."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings, strategies as st

from pymachine import archive
from pymachine.archive import ExportError, Manifest

MANIFEST = Manifest(archive.MACHINE, "intro", "qemu")
EXTENTS = st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=9000)), max_size=4)


def read(source: Path, target: Path) -> Manifest:
    target.mkdir(exist_ok=True)
    with archive.opened(source) as (manifest, members):
        for name, tar, member in members:
            archive.extract(tar, member, target / name)
    return manifest


def write(target: Path, *files: Path) -> None:
    archive.write(target, MANIFEST, files, advance=lambda count: None)


def test_files_come_back_as_they_were(tmp_path: Path) -> None:
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
def test_disks_come_back_with_their_holes(tmp_path: Path, extents: list[tuple[int, bytes]], blocks: int) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        for at, data in extents:
            file.seek(at * 4096)
            file.write(data)
        file.truncate(blocks * 4096)
    write(tmp_path / "export", disk)
    read(tmp_path / "export", tmp_path / "out")
    assert (tmp_path / "out" / "disk").read_bytes() == disk.read_bytes()


def test_a_disk_of_many_gigabytes_takes_what_is_in_it(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(200 << 30)
        file.seek(100 << 30)
        file.write(b"x" * 5000)
    assert archive.data_size(disk) < 1 << 20
    write(tmp_path / "export", disk)
    read(tmp_path / "export", tmp_path / "out")
    copy = tmp_path / "out" / "disk"
    assert copy.stat().st_size == 200 << 30
    assert copy.stat().st_blocks * 512 < 1 << 20
    with copy.open("rb") as file:
        file.seek(100 << 30)
        assert file.read(5001) == b"x" * 5000 + b"\0"


def test_gnu_tar_reads_it_too(tmp_path: Path) -> None:
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


def forged(target: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for entry, content in members:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    target.write_bytes(zstandard.ZstdCompressor().compress(buffer.getvalue()))
    return target


def manifest(**changed: object) -> tuple[tarfile.TarInfo, bytes]:
    fields = {"kind": "machine", "name": "x", "driver": "qemu", "format": 1, **changed}
    return tarfile.TarInfo(archive.MANIFEST), json.dumps(fields).encode()


def link(name: str) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return entry, b""


@pytest.mark.parametrize(
    "member",
    [
        (tarfile.TarInfo("machine/../../evil"), b"x"),
        (tarfile.TarInfo("/etc/evil"), b"x"),
        (tarfile.TarInfo("machine/sub/file"), b"x"),
        (tarfile.TarInfo("machine/.hidden"), b"x"),
        (tarfile.TarInfo("evil"), b"x"),
        link("machine/config.json"),
    ],
    ids=lambda member: member[0].name,
)
def test_nothing_is_written_elsewhere(tmp_path: Path, member: tuple[tarfile.TarInfo, bytes]) -> None:
    source = forged(tmp_path / "export", manifest(), member)
    with pytest.raises(ExportError, match="which no export of pymachine's has"):
        read(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (manifest(format=2), "an export of another form"),
        (manifest(kind="other"), "an export of another form"),
        ((tarfile.TarInfo(archive.MANIFEST), b"{"), "cannot be read"),
        ((tarfile.TarInfo(archive.MANIFEST), b"[]"), "cannot be read"),
        ((tarfile.TarInfo("machine/x"), b""), "does not begin with"),
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, first: tuple[tarfile.TarInfo, bytes], says: str) -> None:
    with pytest.raises(ExportError, match=says):
        read(forged(tmp_path / "export", first), tmp_path / "out")


@given(st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_file_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "export").write_bytes(data)
    with pytest.raises(ExportError):
        read(tmp_path / "export", tmp_path / "out")


@given(st.integers(0, 100))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_was_cut_short_is_an_error(tmp_path: Path, percent: int) -> None:
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
