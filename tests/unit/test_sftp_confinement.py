"""Attempts of an SFTP client to leave the folder that is served, and to change one that is served read-only."""

from __future__ import annotations

import io
import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pymachine.driver.kit import sftp_server
from support import sftp_client as sftp
from support.sftp_client import Client, attributes, connected, snapshot, text, u32
from support.sftp_operations import CHANGING, OPERATIONS

SECRET = b"the content of a file outside"


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
def outside(tmp_path: Path, root: Path) -> Path:
    """A folder next to the root, and links to it in the root."""
    folder = tmp_path / "outside"
    (folder / "inner").mkdir(parents=True)
    (folder / "victim").write_bytes(SECRET)
    (folder / "inner/file").write_bytes(SECRET)
    (root / "own").write_text("the client's own")
    (root / "folder").mkdir()
    (root / "absolute").symlink_to(folder)
    (root / "folder/relative").symlink_to("../../outside")
    (root / "folder/chain").symlink_to("../absolute")
    (root / "file").symlink_to(folder / "victim")
    (root / "dangling").symlink_to(folder / "new")
    (root / "up").symlink_to("..")
    (root / "proc").symlink_to("/proc/self/root")
    return folder


PATHS_OUT = [
    "../outside/{}",
    "/../outside/{}",
    "folder/../../outside/{}",
    "folder/../../../../../../../..{outside}/{}",
    "{outside}/{}",
    "absolute/{}",
    "./absolute/./{}",
    "folder/relative/{}",
    "folder/chain/{}",
    "up/outside/{}",
    "proc{outside}/{}",
]


@pytest.mark.parametrize("path", PATHS_OUT)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_path_leads_out_of_the_folder(client: Client, outside: Path, operation: str, path: str) -> None:
    before = snapshot(outside)
    for name in ("victim", "inner", "inner/file", "new", "."):
        replies = OPERATIONS[operation](client, path.format(name, outside=outside).encode())
        if name != ".":  # the last component is then a link itself
            assert all(reply.status != sftp.OK for reply in replies), replies
        assert not any(SECRET in reply.fields for reply in replies)
    assert snapshot(outside) == before


@pytest.mark.parametrize("link", ["file", "dangling", "absolute", "up", "folder/relative"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_link_as_the_last_component_is_not_followed(client: Client, outside: Path, operation: str, link: str) -> None:
    before = snapshot(outside)
    replies = OPERATIONS[operation](client, link.encode())
    assert not any(SECRET in reply.fields for reply in replies)
    assert not any(reply.kind == sftp.HANDLE for reply in replies)
    assert snapshot(outside) == before


@pytest.mark.parametrize("target", [b"../outside", b"../outside/victim", b"..", b"/"])
def test_a_client_cannot_leave_by_its_own_links(client: Client, outside: Path, target: bytes) -> None:
    before = snapshot(outside)
    assert client(sftp.SYMLINK, text(target), text(b"mine")).status == sftp.OK
    assert client.extended("hardlink", text(b"mine"), text(b"folder/copy")).status == sftp.OK
    assert client(sftp.RENAME, text(b"mine"), text(b"folder/moved")).status == sftp.OK
    for path in (b"folder/moved", b"folder/copy"):
        for run in OPERATIONS.values():
            for suffix in (b"/victim", b"/outside/victim"):
                assert all(reply.status != sftp.OK for reply in run(client, path + suffix))
        assert not any(SECRET in reply.fields for reply in OPERATIONS["open to read"](client, path))
    assert snapshot(outside) == before


def test_a_folder_that_is_moved_deeper_or_higher_is_no_way_out(client: Client, outside: Path, root: Path) -> None:
    # With `..` passed to the system, a folder that is moved up while it is in use would lead out.
    assert client(sftp.MKDIR, text(b"a"), u32(0)).status == sftp.OK
    assert client(sftp.MKDIR, text(b"a/b"), u32(0)).status == sftp.OK
    handle = client(sftp.OPENDIR, text(b"a/b")).data
    assert client(sftp.RENAME, text(b"a/b"), text(b"b")).status == sftp.OK
    up = [found for name, _, found in client(sftp.READDIR, text(handle)).names if name == b".."]
    assert up[0] == client.lstat(b"b").attributes
    assert client.lstat(b"b/../../outside").status == sftp.NO_SUCH_FILE


@pytest.mark.parametrize("shape", ["folder", "file"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_replacing_a_component_at_any_moment_is_no_way_out(
    tmp_path: Path, operation: str, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the operation again and again, with the replacement before its first call of the system, its second, ..."""
    for moment in itertools.count():
        place = tmp_path / str(moment)
        outside, root = place / "outside", place / "root"
        for folder in (outside, root / "a/b"):
            folder.mkdir(parents=True)
        (outside / "victim").write_bytes(SECRET)
        (root / "a/b/victim").write_text("inside")
        (root / "own").write_text("the client's own")
        replaced = root / ("a/b" if shape == "folder" else "a/b/victim")

        def replace(replaced: Path = replaced, outside: Path = outside) -> None:
            if replaced.exists():
                replaced.rename(replaced.with_name("aside"))
            else:
                replaced.unlink(missing_ok=True)
            replaced.symlink_to(outside if replaced.name == "b" else outside / "victim")

        before = snapshot(outside)
        with connected(root) as client:
            calls = Calls(moment, replace)
            with monkeypatch.context() as patch:
                calls.watch(patch)
                replies = OPERATIONS[operation](client, b"a/b/victim")
        assert not any(SECRET in reply.fields for reply in replies)
        assert snapshot(outside) == before
        if calls.count <= moment:
            break
    assert moment > 2


class Calls:
    """Counts the calls of the system, and calls a function before the one with the number `moment`."""

    NAMES = ("open", "stat", "fstat", "chmod", "utime", "unlink", "mkdir", "rmdir", "rename", "link", "symlink",
             "readlink", "statvfs", "ftruncate", "scandir", "pread", "pwrite", "write", "close")  # fmt: skip

    def __init__(self, moment: int, interfere: Callable[[], None]) -> None:
        self.count = 0
        self._moment = moment
        self._interfere = interfere
        self._is_own = False

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        for name in self.NAMES:
            patch.setattr(os, name, self._watched(getattr(os, name)))

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*words: Any, **options: Any) -> Any:
            if not self._is_own:
                self._is_own = True
                if self.count == self._moment:
                    self._interfere()
                self.count += 1
                self._is_own = False
            return call(*words, **options)

        return watched


def test_the_folder_may_be_given_as_a_link(tmp_path: Path, root: Path) -> None:
    (root / "file").write_text("x")
    (tmp_path / "link").symlink_to(root)
    with connected(tmp_path / "link") as client:
        assert client.lstat(b"file").attributes.size == 1


def test_a_folder_that_is_replaced_is_served_as_it_was(client: Client, root: Path, outside: Path) -> None:
    root.rename(root.with_name("moved"))
    root.symlink_to(outside)
    assert client.lstat(b"victim").status == sftp.NO_SUCH_FILE
    assert client.lstat(b"own").status == sftp.OK


@pytest.mark.parametrize("path", ["missing", "file"])
def test_what_is_no_folder_is_not_served(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=path):
        sftp_server.serve(tmp_path / path, read_only=True, incoming=io.BytesIO(), outgoing=io.BytesIO())


# Read-only.


@pytest.mark.parametrize("path", [b"own", b"folder", b"new", b"folder/new", b"file", b"/"])
@pytest.mark.parametrize("operation", CHANGING)
def test_a_read_only_folder_is_not_changed(root: Path, outside: Path, operation: str, path: bytes) -> None:
    before = snapshot(root)
    with connected(root, read_only=True) as client:
        replies = CHANGING[operation](client, path)
    if operation == "set the owner":  # it changes nothing, and raises an event in the guest
        assert [reply.status for reply in replies] == [
            sftp.OK if path not in (b"new", b"folder/new") else sftp.NO_SUCH_FILE
        ]
    else:
        assert [reply.status for reply in replies] == [sftp.PERMISSION_DENIED]
    assert snapshot(root) == before


def test_a_read_only_folder_is_read(root: Path) -> None:
    (root / "file").write_text("x")
    with connected(root, read_only=True) as client:
        handle = client.handle(b"file")
        assert client.read(handle, 0, 10).data == b"x"
        assert client.write(handle, 0, b"y").status == sftp.PERMISSION_DENIED
        assert client(sftp.FSETSTAT, text(handle), attributes(mode=0o777)).status == sftp.PERMISSION_DENIED
        assert client(sftp.CLOSE, text(handle)).status == sftp.OK
        assert len(client.list(b"/")) == 3
        assert struct.unpack(">11Q", client.extended("statvfs", text(b"/")).fields)[9] & 1
        for unknown in (b"copy-data", b"lsetstat"):
            assert client(sftp.EXTENDED, text(unknown)).status == sftp.OP_UNSUPPORTED


def test_pipes_and_sockets_are_not_opened(client: Client, root: Path) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "socket"))
        for path in (b"pipe", b"socket"):
            for operation in ("open to read", "open to write", "open to read and write", "create", "append"):
                replies = OPERATIONS[operation](client, path)  # without waiting for the pipe's other end
                assert [reply.status for reply in replies] == [sftp.PERMISSION_DENIED]
            assert OPERATIONS["list"](client, path)[0].status == sftp.NO_SUCH_FILE
            assert client(sftp.SETSTAT, text(path), attributes(size=0)).status == sftp.PERMISSION_DENIED
            assert client(sftp.SETSTAT, text(path), attributes(mode=0o600)).status == sftp.OK
            assert client(sftp.REMOVE, text(path)).status == sftp.OK


def test_a_pipe_that_replaces_a_file_at_any_moment_is_not_opened(
    root: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for moment in itertools.count():
        (root / "file").write_text("x")

        def replace() -> None:
            (root / "file").unlink()
            os.mkfifo(root / "file")

        calls = Calls(moment, replace)
        with monkeypatch.context() as patch:
            calls.watch(patch)
            reply = client.open(b"file", sftp.TO_READ)
        (root / "file").unlink()
        if calls.count <= moment:
            break
        if reply.kind == sftp.HANDLE:  # the file was open before
            assert client.read(reply.data, 0, 10).data == b"x"
    assert moment > 2
