"""The SFTP server on the level of its protocol: proper requests and hostile ones.

`test_sftp_confinement.py` tries to leave the folder. `tests/integration/test_sftp_clients.py` uses real clients.
"""

from __future__ import annotations

import io
import os
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from pymachine.driver.kit import sftp_server
from pymachine.driver.kit.sftp import confined_folder, handles, protocol
from pymachine.driver.kit.sftp.confined_folder import ConfinedFolder
from support import sftp_client as sftp
from support.sftp_client import Client, Reply, attributes, connected, packet, snapshot, text, u32, u64
from support.sftp_operations import OPERATIONS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def client(root: Path) -> Iterator[Client]:
    with connected(root) as made:
        yield made


@pytest.fixture
def umask_077() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# Proper requests.


def test_the_version_and_the_extensions_are_announced(client: Client) -> None:
    number, reply = client.raw(packet(sftp.INIT, 6))
    assert (reply.kind, number) == (sftp.VERSION, 3)
    for name in ("posix-rename", "statvfs", "hardlink", "fsync", "lsetstat", "limits"):
        assert text(f"{name}@openssh.com".encode()) in reply.fields


def test_a_file_is_written_and_read(client: Client, root: Path) -> None:
    handle = client.handle(b"/new", sftp.TO_READ | sftp.TO_WRITE | sftp.CREATE)
    assert client.write(handle, 0, b"hello").status == sftp.OK
    assert client.write(handle, 10, b"world").status == sftp.OK
    assert client.read(handle, 0, 100).data == b"hello\0\0\0\0\0world"
    assert client.read(handle, 12, 2).data == b"rl"
    assert client.read(handle, 15, 1).status == sftp.EOF
    assert client(sftp.FSTAT, text(handle)).attributes.size == 15
    assert client.extended("fsync", text(handle)).status == sftp.OK
    assert client(sftp.CLOSE, text(handle)).status == sftp.OK
    assert (root / "new").read_bytes() == b"hello\0\0\0\0\0world"


@pytest.mark.parametrize("path", [b"file", b"/file", b"//file", b"./file", b"/folder/../file", b"/../file", b"file/"])
def test_paths_start_at_the_folder(client: Client, root: Path, path: bytes) -> None:
    (root / "file").write_text("x")
    assert client.lstat(path).attributes.size == 1
    assert [name for name, _, _ in client(sftp.REALPATH, text(path)).names] == [b"/file"]


@pytest.mark.parametrize("path", [b"", b".", b"/", b"/.", b"..", b"/a/../.."])
def test_the_folder_itself_has_several_names(client: Client, root: Path, path: bytes) -> None:
    (root / "file").touch()
    assert stat.S_ISDIR(client(sftp.STAT, text(path)).attributes.mode)
    assert [name for name, _, _ in client(sftp.REALPATH, text(path)).names] == [b"/"]
    assert [name for name, _, _ in client.list(path)] == [b".", b"..", b"file"]


@pytest.mark.parametrize("kind", [sftp.REMOVE, sftp.RMDIR])
def test_the_folder_itself_cannot_be_removed(client: Client, root: Path, kind: int) -> None:
    assert client(kind, text(b"/")).status != sftp.OK
    assert client.extended("posix-rename", text(b"/"), text(b"/new")).status != sftp.OK
    (root / "new").mkdir()
    assert client.extended("posix-rename", text(b"/new"), text(b"/")).status != sftp.OK
    assert names_in(root) == ["new"]


def test_open_flags(client: Client, root: Path) -> None:
    file = root / "file"
    assert client.open(b"file", sftp.TO_READ).status == sftp.NO_SUCH_FILE
    assert client.open(b"file", sftp.TO_WRITE).status == sftp.NO_SUCH_FILE
    file.write_text("old content")
    assert client.open(b"file", sftp.TO_WRITE | sftp.CREATE | sftp.EXCLUSIVE).status == sftp.FAILURE
    client.handle(b"file", sftp.TO_WRITE | sftp.CREATE)
    assert file.read_text() == "old content"
    client.handle(b"file", sftp.TO_WRITE | sftp.CREATE | sftp.TRUNCATE)
    assert file.read_text() == ""


def test_appended_data_are_at_the_end_whatever_the_position(client: Client, root: Path) -> None:
    (root / "log").write_text("one\n")
    handle = client.handle(b"log", sftp.APPEND)
    (root / "log").write_text("one\ntwo\n")
    assert client.write(handle, 0, b"three\n").status == sftp.OK
    assert (root / "log").read_text() == "one\ntwo\nthree\n"


def test_renames(client: Client, root: Path) -> None:
    (root / "a").write_text("a")
    (root / "b").write_text("b")
    handle = client.handle(b"b")
    assert client(sftp.RENAME, text(b"a"), text(b"b")).status == sftp.FAILURE
    assert client.extended("posix-rename", text(b"a"), text(b"b")).status == sftp.OK
    assert client.read(handle, 0, 10).data == b"b"
    assert (root / "b").read_text() == "a"
    assert client(sftp.RENAME, text(b"b"), text(b"c")).status == sftp.OK
    assert names_in(root) == ["c"]


def test_links(client: Client, root: Path) -> None:
    (root / "file").write_text("x")
    assert client.extended("hardlink", text(b"file"), text(b"same")).status == sftp.OK
    assert (root / "same").samefile(root / "file")
    for target in (b"file", b"/etc/passwd", b"../../elsewhere", b"no such \xff"):
        assert client(sftp.SYMLINK, text(target), text(b"link")).status == sftp.OK
        assert client(sftp.READLINK, text(b"link")).names[0][0] == target
        for kind in (sftp.STAT, sftp.LSTAT):
            assert stat.S_ISLNK(client(kind, text(b"link")).attributes.mode)
        assert client(sftp.REMOVE, text(b"link")).status == sftp.OK
    assert client(sftp.READLINK, text(b"file")).status == sftp.BAD_MESSAGE


def test_folders(client: Client, root: Path) -> None:
    assert client(sftp.MKDIR, text(b"d"), u32(0)).status == sftp.OK
    assert client(sftp.MKDIR, text(b"d"), u32(0)).status == sftp.FAILURE
    (root / "d/file").touch()
    assert client(sftp.RMDIR, text(b"d")).status == sftp.FAILURE
    assert client(sftp.REMOVE, text(b"d")).status != sftp.OK
    assert client(sftp.REMOVE, text(b"d/file")).status == sftp.OK
    assert client(sftp.RMDIR, text(b"d")).status == sftp.OK
    assert names_in(root) == []


def test_names_are_bytes(client: Client, root: Path) -> None:
    names = {b"caf\xe9", b"caf\xc3\xa9", b"a b,c", b"line\nbreak", b"\x01\xff\xfe", b"x" * 255}
    for name in names:
        client.handle(name, sftp.TO_WRITE | sftp.CREATE)
    assert {os.fsencode(name) for name in names_in(root)} == names
    assert {name for name, _, _ in client.list(b"/")} == names | {b".", b".."}
    for name in names:
        assert client(sftp.REMOVE, text(name)).status == sftp.OK


def test_a_listing_has_lines_as_of_ls(client: Client, root: Path) -> None:
    (root / "file").write_text("12345")
    (root / "file").chmod(0o640)
    os.utime(root / "file", (1_000_000, 1_000_000))
    _, line, found = client.list(b"/")[2]
    assert line.split() == [
        b"-rw-r-----", b"1", *[str(os.getuid()).encode(), str(os.getgid()).encode()], b"5",
        b"Jan", b"12", line.split()[7], b"1970", b"file",
    ]  # fmt: skip
    assert found == client.lstat(b"file").attributes
    assert (found.size, found.changed, stat.S_IMODE(found.mode)) == (5, 1_000_000, 0o640)


def test_a_hundred_thousand_entries_are_listed_in_pieces() -> None:
    names = set()
    with tempfile.TemporaryDirectory() as folder:  # which, other than tmp_path, is removed at once
        for number in range(100_000):
            os.close(os.open(f"{folder}/{number:06}", os.O_CREAT))
        with connected(Path(folder)) as client:
            handle = client(sftp.OPENDIR, text(b"/")).data
            while (reply := client(sftp.READDIR, text(handle))).kind == sftp.NAME:
                assert len(reply.names) <= handles.ENTRIES_AT_ONCE
                names |= {name for name, _, _ in reply.names}
    assert reply.status == sftp.EOF
    assert names == {b".", b"..", *(b"%06d" % number for number in range(100_000))}


def test_a_listing_of_the_longest_names_fits_in_a_packet(client: Client, root: Path) -> None:
    for number in range(handles.ENTRIES_AT_ONCE):
        (root / f"{number:0255}").touch()
    reply = client(sftp.READDIR, text(client(sftp.OPENDIR, text(b"/")).data))
    assert len(reply.names) == handles.ENTRIES_AT_ONCE
    assert len(reply.fields) < protocol.LONGEST_PACKET // 2


def test_entries_that_are_removed_while_they_are_listed_are_left_out(client: Client, root: Path) -> None:
    for number in range(500):
        (root / str(number)).touch()
    handle = client(sftp.OPENDIR, text(b"/")).data
    before = len(client(sftp.READDIR, text(handle)).names)
    for number in range(500):
        (root / str(number)).unlink()
    while (reply := client(sftp.READDIR, text(handle))).kind == sftp.NAME:
        before += len(reply.names)
    assert reply.status == sftp.EOF
    assert before < 502


@pytest.mark.parametrize("seconds", [-5, 2**33, 2**40])
def test_times_that_the_protocol_lacks_are_replaced(client: Client, root: Path, seconds: int) -> None:
    os.utime(root, (seconds, seconds))
    seen = int(root.stat().st_mtime)  # the file system may have limits, too
    found = client.lstat(b"/").attributes
    assert found.changed == client.list(b"/")[0][2].changed == min(max(seen, 0), 2**32 - 1)  # type: ignore[union-attr]


def test_the_size_of_the_file_system(client: Client, root: Path) -> None:
    (root / "file").touch()
    real = os.statvfs(root)
    for path in (b"/", b"file"):
        reply = client.extended("statvfs", text(path))
        assert reply.kind == sftp.EXTENDED_REPLY
        values = struct.unpack(">11Q", reply.fields)
        assert (values[0], values[1], values[2], values[10]) == (
            real.f_bsize, real.f_frsize, real.f_blocks, real.f_namemax
        )  # fmt: skip
    assert client.extended("statvfs", text(b"missing")).status == sftp.NO_SUCH_FILE


def test_the_limits_are_kept(client: Client, root: Path) -> None:
    longest_packet, longest_read, longest_write, _ = struct.unpack(">4Q", client.extended("limits").fields)
    (root / "file").write_bytes(bytes(2 * longest_packet))
    handle = client.handle(b"file", sftp.TO_READ | sftp.TO_WRITE)
    assert len(client.read(handle, 0, 2**32 - 1).data) == longest_read
    request = packet(sftp.WRITE, 1, text(handle), u64(0), text(b"x" * longest_write))
    assert len(request) <= longest_packet
    assert client.raw(request)[1].status == sftp.OK
    assert (root / "file").read_bytes()[longest_write - 1 : longest_write + 1] == b"x\0"


# Attributes.


def test_modes_are_as_requested_whatever_the_umask(client: Client, root: Path, umask_077: None) -> None:
    client.handle(b"file", sftp.TO_WRITE | sftp.CREATE, attributes(mode=0o100664))
    client.handle(b"sealed", sftp.TO_WRITE | sftp.CREATE | sftp.EXCLUSIVE, attributes(mode=0o444))
    assert client(sftp.MKDIR, text(b"folder"), attributes(mode=0o1777)).status == sftp.OK
    assert [mode(root / name) for name in ("file", "sealed", "folder")] == [0o664, 0o444, 0o1777]
    # An existing file keeps its mode.
    client.handle(b"file", sftp.TO_WRITE | sftp.CREATE, attributes(mode=0o600))
    assert mode(root / "file") == 0o664


def test_without_a_mode_files_are_not_writable_for_all(client: Client, root: Path) -> None:
    client.handle(b"file", sftp.TO_WRITE | sftp.CREATE)
    client(sftp.MKDIR, text(b"folder"), u32(0))
    assert [mode(root / name) for name in ("file", "folder")] == [0o644, 0o755]


def test_setuid_and_setgid_are_dropped(client: Client, root: Path) -> None:
    handle = client.handle(b"made", sftp.TO_WRITE | sftp.CREATE, attributes(mode=0o6755))
    assert mode(root / "made") == 0o755
    assert client(sftp.SETSTAT, text(b"made"), attributes(mode=0o6711)).status == sftp.OK
    assert mode(root / "made") == 0o711
    assert client(sftp.FSETSTAT, text(handle), attributes(mode=0o6777)).status == sftp.OK
    assert mode(root / "made") == 0o777
    assert client(sftp.MKDIR, text(b"folder"), attributes(mode=0o6755)).status == sftp.OK
    assert client(sftp.SETSTAT, text(b"folder"), attributes(mode=0o6777)).status == sftp.OK
    assert mode(root / "folder") == 0o777


@pytest.mark.parametrize("bits", [stat.S_ISUID, stat.S_ISGID, stat.S_ISUID | stat.S_ISGID])
def test_a_hosts_setuid_file_loses_it_before_it_is_written(client: Client, root: Path, bits: int) -> None:
    (root / "su").write_text("program")
    (root / "su").chmod(bits | 0o755)
    client.handle(b"su")
    assert mode(root / "su") == bits | 0o755
    client.handle(b"su", sftp.TO_WRITE)
    assert mode(root / "su") == 0o755
    (root / "su").chmod(bits | 0o755)
    assert client(sftp.SETSTAT, text(b"su"), attributes(size=3)).status == sftp.OK
    assert mode(root / "su") == 0o755


def test_a_folder_keeps_the_setgid_that_the_host_gave_it(client: Client, root: Path) -> None:
    root.chmod(0o2775)
    assert client(sftp.MKDIR, text(b"inner"), attributes(mode=0o750)).status == sftp.OK
    assert mode(root / "inner") == 0o2750
    assert client(sftp.SETSTAT, text(b"inner"), attributes(mode=0o2700)).status == sftp.OK
    assert mode(root / "inner") == 0o2700
    assert client(sftp.SETSTAT, text(b"inner"), attributes(mode=0o700)).status == sftp.OK
    assert mode(root / "inner") == 0o700


@pytest.mark.parametrize("by_handle", [True, False])
def test_attributes_are_set(client: Client, root: Path, by_handle: bool) -> None:
    (root / "file").write_text("12345")
    handle = client.handle(b"file", sftp.TO_READ | sftp.TO_WRITE)

    def change(wanted: bytes) -> Reply:
        return client(sftp.FSETSTAT, text(handle), wanted) if by_handle else client(sftp.SETSTAT, text(b"file"), wanted)

    assert change(attributes(mode=0o600)).status == sftp.OK
    assert change(attributes(size=2**40, times=(5, 7))).status == sftp.OK
    state = (root / "file").stat()
    assert (state.st_size, state.st_atime, state.st_mtime) == (2**40, 5, 7)
    assert state.st_blocks * 512 < 2**20
    assert change(attributes(size=2)).status == sftp.OK
    assert (root / "file").read_text() == "12"
    assert change(attributes(owner=12345)).status == sftp.OK
    state = (root / "file").stat()
    assert (state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)) == (os.getuid(), root.stat().st_gid, 0o600)


def test_chown_of_a_missing_file_fails(client: Client) -> None:
    assert client(sftp.SETSTAT, text(b"missing"), attributes(owner=0)).status == sftp.NO_SUCH_FILE


@pytest.mark.parametrize("extension", ["", "lsetstat"])
def test_attributes_of_a_link_are_its_own(client: Client, root: Path, extension: str) -> None:
    (root / "file").write_text("x")
    (root / "link").symlink_to("file")
    before = snapshot(root / "file")

    def change(wanted: bytes) -> Reply:
        fields = (text(b"link"), wanted)
        return client.extended(extension, *fields) if extension else client(sftp.SETSTAT, *fields)

    assert change(attributes(times=(1, 2))).status == sftp.OK
    assert change(attributes(owner=1)).status == sftp.OK
    assert change(attributes(mode=0o777)).status == sftp.OP_UNSUPPORTED
    assert change(attributes(size=0)).status == sftp.NO_SUCH_FILE
    assert (root / "link").lstat().st_mtime == 2
    assert snapshot(root / "file") == before


# Hostile requests.


def every_request(handle: bytes, folder: bytes) -> list[bytes]:
    """Return a proper packet of each kind, all of which change little."""
    wanted = attributes(size=1, owner=1, mode=0o644, times=(1, 1))
    return [
        packet(sftp.OPEN, 7, text(b"new"), u32(sftp.TO_WRITE | sftp.CREATE), wanted),
        packet(sftp.CLOSE, 7, text(handle)),
        packet(sftp.READ, 7, text(handle), u64(0), u32(10)),
        packet(sftp.WRITE, 7, text(handle), u64(0), text(b"data")),
        packet(sftp.FSTAT, 7, text(handle)),
        packet(sftp.SETSTAT, 7, text(b"file"), wanted),
        packet(sftp.FSETSTAT, 7, text(handle), wanted),
        packet(sftp.FSETSTAT, 7, text(handle), u32(0x80000000), u32(1), text(b"name"), text(b"value")),
        packet(sftp.READDIR, 7, text(folder)),
        packet(sftp.MKDIR, 7, text(b"folder"), wanted),
        packet(sftp.RENAME, 7, text(b"file"), text(b"other")),
        packet(sftp.SYMLINK, 7, text(b"target"), text(b"link")),
        *(
            packet(kind, 7, text(b"file"))
            for kind in (sftp.LSTAT, sftp.STAT, sftp.OPENDIR, sftp.REMOVE, sftp.RMDIR, sftp.REALPATH, sftp.READLINK)
        ),
        packet(sftp.EXTENDED, 7, text(b"posix-rename@openssh.com"), text(b"file"), text(b"other")),
        packet(sftp.EXTENDED, 7, text(b"hardlink@openssh.com"), text(b"file"), text(b"same")),
        packet(sftp.EXTENDED, 7, text(b"statvfs@openssh.com"), text(b"file")),
        packet(sftp.EXTENDED, 7, text(b"fsync@openssh.com"), text(handle)),
        packet(sftp.EXTENDED, 7, text(b"lsetstat@openssh.com"), text(b"file"), wanted),
        packet(sftp.EXTENDED, 7, text(b"limits@openssh.com")),
    ]


def test_a_truncated_request_is_refused_and_does_nothing(client: Client, root: Path) -> None:
    (root / "file").write_text("content")
    handle = client.handle(b"file", sftp.TO_READ | sftp.TO_WRITE)
    folder = client(sftp.OPENDIR, text(b"/")).data
    before = snapshot(root)
    requests = every_request(handle, folder)
    assert {request[0] for request in requests} == set(protocol.Request) - {protocol.Request.INIT}
    for request in requests:
        for length in range(len(request)):
            number, reply = client.raw(request[:length])
            assert reply.status == sftp.BAD_MESSAGE, request[:length]
            assert number == (7 if length >= 5 else 0)
    assert snapshot(root) == before


@pytest.mark.parametrize("kind", [0, 2, 21, 99, 101, 199, 201, 255])
def test_unknown_requests_are_refused(client: Client, kind: int) -> None:
    assert client(kind, b"anything").status == sftp.OP_UNSUPPORTED
    assert client(sftp.EXTENDED, text(bytes([kind]))).status == sftp.OP_UNSUPPORTED


@pytest.mark.parametrize("number", [2**63, 2**64 - 1])
def test_absurd_numbers_are_refused(client: Client, root: Path, number: int) -> None:
    (root / "file").write_text("x")
    handle = client.handle(b"file", sftp.TO_READ | sftp.TO_WRITE)
    for wanted in (number, 2**63 - 1):
        assert client.write(handle, wanted, b"x").status != sftp.OK
        assert client(sftp.FSETSTAT, text(handle), attributes(size=wanted)).status != sftp.OK
        assert client(sftp.SETSTAT, text(b"file"), attributes(size=wanted)).status != sftp.OK
    assert client.read(handle, number, 1).status == sftp.BAD_MESSAGE
    assert client.read(handle, 2**62, 1).status == sftp.EOF
    assert client(sftp.FSETSTAT, text(handle), u32(0x80000000), u32(2**32 - 1)).status == sftp.BAD_MESSAGE
    assert (root / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (b"a\0b", sftp.BAD_MESSAGE),
        (b"x" * 256, sftp.BAD_MESSAGE),
        (b"/x" * 2048, sftp.BAD_MESSAGE),
        (b"x" * 200_000, sftp.BAD_MESSAGE),
        (b"../" * 60_000, sftp.BAD_MESSAGE),
        (b"x/" * 2000, sftp.NO_SUCH_FILE),
        (b"file/below", sftp.NO_SUCH_FILE),
    ],
)
def test_absurd_paths_are_refused(client: Client, root: Path, path: bytes, status: int) -> None:
    (root / "file").touch()
    for operation in ("stat", "open to read", "create", "mkdir", "symlink", "rename from", "list", "remove"):
        assert [reply.status for reply in OPERATIONS[operation](client, path)] == [status], operation
    assert names_in(root) == ["file"]


def test_a_links_target_with_a_zero_byte_is_refused(client: Client) -> None:
    assert client(sftp.SYMLINK, text(b"a\0b"), text(b"link")).status == sftp.BAD_MESSAGE


def test_invalid_handles_are_refused(client: Client, root: Path) -> None:
    (root / "file").write_text("x")
    file, folder, closed = client.handle(b"file"), client(sftp.OPENDIR, text(b"/")).data, client.handle(b"file")
    assert client(sftp.CLOSE, text(closed)).status == sftp.OK
    assert client.handle(b"file") != closed
    for bad in (b"", b"x", closed, b"\xff" * 8, b"0" * 100_000, file + b"\0"):
        for request in every_request(bad, bad):
            if bad and text(bad) in request:
                assert client.raw(request)[1].status == sftp.NO_SUCH_FILE
    assert client(sftp.READDIR, text(file)).status == sftp.NO_SUCH_FILE
    assert client.read(folder, 0, 1).status == sftp.NO_SUCH_FILE
    assert client.write(folder, 0, b"x").status == sftp.NO_SUCH_FILE


def test_a_handle_for_reading_does_not_write(client: Client, root: Path) -> None:
    (root / "file").write_text("x")
    handle = client.handle(b"file")
    assert client.write(handle, 0, b"y").status != sftp.OK
    assert client(sftp.FSETSTAT, text(handle), attributes(size=0)).status != sftp.OK
    assert (root / "file").read_text() == "x"


def test_too_many_handles_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "MOST_HANDLES", 5)
    (root / "file").touch()
    with connected(root) as client:
        opened = [client.handle(b"file") for _ in range(4)] + [client(sftp.OPENDIR, text(b"/")).data]
        for operation in ("open to read", "create", "list"):
            assert [reply.status for reply in OPERATIONS[operation](client, b"new")] == [sftp.FAILURE]
        assert names_in(root) == ["file"]
        assert client(sftp.CLOSE, text(opened[0])).status == sftp.OK
        client.handle(b"file")


FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
from pathlib import Path
from pymachine.driver.kit.sftp_server import serve
serve(Path(sys.argv[1]), read_only=False, incoming=0, outgoing=1)
"""


def test_a_process_without_free_descriptors_answers(root: Path) -> None:
    """Listed folders take two descriptors, so the limit of handles is not reached first."""
    (root / "file").touch()
    requests = [packet(sftp.OPENDIR, number, text(b"/")) for number in range(30)]
    requests += [packet(sftp.LSTAT, 30, text(b"/file"))]
    requests += [packet(sftp.CLOSE, 31, text((0).to_bytes(8, "big"))), packet(sftp.OPENDIR, 32, text(b"/"))]
    argv = [sys.executable, "-c", FEW_FILES, str(root)]
    done = subprocess.run(argv, input=stream_of(requests), capture_output=True, check=True)
    replies = replies_in(done.stdout)
    kinds = [reply.kind for reply in replies]
    assert kinds[0] == sftp.HANDLE
    assert replies[29].status == sftp.FAILURE
    assert kinds[30:] == [sftp.ATTRS, sftp.STATUS, sftp.HANDLE]


def test_everything_is_closed_at_the_end(root: Path) -> None:
    (root / "file").touch()
    before = names_in(Path("/proc/self/fd"))
    with connected(root) as client:
        for run in OPERATIONS.values():
            for path in (b"/", b"file", b"missing", b"file/x"):
                run(client, path)
        client.handle(b"/some", sftp.TO_WRITE | sftp.CREATE)
        client(sftp.OPENDIR, text(b"/"))
    assert names_in(Path("/proc/self/fd")) == before


@settings(max_examples=400)
@given(data=st.data())
def test_any_packet_has_one_reply(data: st.DataObject) -> None:
    """Random packets, and proper ones with random changes."""
    with tempfile.TemporaryDirectory() as place:
        root, outside = Path(place, "root"), Path(place, "outside")
        for folder in (root, outside):
            folder.mkdir()
            (folder / "file").write_text("x")
        before = snapshot(outside)
        with connected(root) as client:
            handle, listed = client.handle(b"file"), client(sftp.OPENDIR, text(b"/")).data
            proper = st.sampled_from(every_request(handle, listed)).map(bytearray)
            changes = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4)
            for request in data.draw(st.lists(st.one_of(proper, st.binary(max_size=80).map(bytearray)), max_size=8)):
                for at, value in data.draw(changes):
                    if at < len(request):
                        request[at] = value
                number, reply = client.raw(bytes(request))
                if request[:1] != b"\x01" and len(request) >= 5:
                    assert number == int.from_bytes(request[1:5], "big")
                assert reply.kind in set(protocol.Reply)
            assert stat.S_ISDIR(client.lstat(b"/").attributes.mode)
        assert snapshot(outside) == before


# Streams.


def framed(request: bytes) -> bytes:
    return u32(len(request)) + request


def stream_of(requests: list[bytes]) -> bytes:
    return b"".join(map(framed, requests))


def replies_in(stream: bytes) -> list[Reply]:
    replies, at = [], 0
    while at < len(stream):
        (length,) = struct.unpack_from(">I", stream, at)
        replies.append(Reply(stream[at + 4], stream[at + 9 : at + 4 + length]))
        at += 4 + length
    assert at == len(stream)
    return replies


def served(root: Path, stream: bytes) -> list[Reply]:
    outgoing = io.BytesIO()
    sftp_server.serve(root, read_only=False, incoming=io.BytesIO(stream), outgoing=outgoing)
    return replies_in(outgoing.getvalue())


LSTAT = packet(sftp.LSTAT, 1, text(b"/"))


def test_the_server_ends_with_the_stream(root: Path) -> None:
    stream = stream_of([packet(sftp.INIT, 3), LSTAT, LSTAT])
    for length in range(len(stream) + 1):
        replies = served(root, stream[:length])
        complete = [end for end in (9, 9 + len(LSTAT) + 4, len(stream)) if end <= length]
        assert [reply.kind for reply in replies] == [sftp.VERSION, sftp.ATTRS, sftp.ATTRS][: len(complete)]


@pytest.mark.parametrize("size", [protocol.LONGEST_PACKET + 1, 5_000_000])
def test_a_packet_that_is_too_long_is_refused_and_the_next_one_answered(root: Path, size: int) -> None:
    request = packet(sftp.WRITE, 1, text(b"handle"), u64(0))
    replies = served(root, framed(request.ljust(size, b"x")) + framed(LSTAT))
    assert [reply.status for reply in replies] == [sftp.BAD_MESSAGE, sftp.OK]


def test_an_empty_packet_is_refused_and_the_next_one_answered(root: Path) -> None:
    assert [reply.status for reply in served(root, framed(b"") + framed(LSTAT))] == [sftp.BAD_MESSAGE, sftp.OK]


class Endless(io.RawIOBase):
    """Announces a packet of 4 GiB, and sends 64 MiB of it."""

    def __init__(self) -> None:
        self._sent = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), 64 * 1024**2 - self._sent)
        buffer[:count] = b"\xff" * count
        self._sent += count
        return count


def test_a_packet_that_is_too_long_takes_little_memory(root: Path) -> None:
    outgoing = io.BytesIO()
    tracemalloc.start()
    try:
        sftp_server.serve(root, read_only=False, incoming=io.BufferedReader(Endless()), outgoing=outgoing)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * protocol.LONGEST_PACKET
    assert outgoing.getvalue() == b""


class Piecemeal(io.RawIOBase):
    """Reads one byte and writes one byte at a time, as an unbuffered stream may."""

    def __init__(self, incoming: bytes = b"") -> None:
        self._incoming = io.BytesIO(incoming)
        self.written = b""

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._incoming.read(1)
        buffer[: len(piece)] = piece
        return len(piece)

    def write(self, data: Any) -> int:
        self.written += bytes(data[:1])
        return 1


def test_streams_may_transport_single_bytes(root: Path) -> None:
    outgoing: Any = Piecemeal()
    incoming: Any = Piecemeal(stream_of([packet(sftp.INIT, 3), LSTAT]))
    sftp_server.serve(root, read_only=False, incoming=incoming, outgoing=outgoing)
    assert [reply.kind for reply in replies_in(outgoing.written)] == [sftp.VERSION, sftp.ATTRS]


def test_the_server_ends_if_the_client_does_not_read(root: Path) -> None:
    request_end, requests = os.pipe()
    replies, reply_end = os.pipe()
    os.close(replies)
    os.write(requests, framed(LSTAT))
    sftp_server.serve(root, read_only=False, incoming=request_end, outgoing=reply_end)
    for descriptor in (requests, request_end, reply_end):
        os.close(descriptor)  # serve leaves them open


def test_many_requests_in_flight_are_answered_in_order(root: Path) -> None:
    content = os.urandom(64 * 65_536)
    (root / "file").write_bytes(content)
    ours, theirs = socket.socketpair()
    options = {"read_only": False, "incoming": theirs.fileno(), "outgoing": theirs.fileno()}
    server = threading.Thread(target=sftp_server.serve, args=(root,), kwargs=options)
    server.start()
    with ours, theirs:
        requests = [packet(sftp.OPEN, 0, text(b"file"), u32(sftp.TO_READ), u32(0))]
        requests += [packet(sftp.READ, n, text(bytes(8)), u64((n - 1) * 65_536), u32(65_536)) for n in range(1, 65)]
        ours.sendall(stream_of(requests))
        ours.shutdown(socket.SHUT_WR)
        received = bytearray()
        while len(received) < len(content) + 65 * 13 + 8:
            received += ours.recv(2**20)
        server.join()
    replies = replies_in(bytes(received))
    assert b"".join(reply.data for reply in replies[1:]) == content


def test_systems_that_cannot_confine_paths_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined_folder.os, "supports_dir_fd", set())
    with pytest.raises(OSError, match="confined"):
        ConfinedFolder(root)
