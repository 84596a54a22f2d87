"""Shared folders that are missing when their machine starts, and come back while it runs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_clones import RESUMED, docker, with_shared_template
from test_share_events import Watcher, sharing_container, visible, watching

from support import images, open_shells, packages
from support.open_shells import OpenShell
from support.runner import Pymachine, private_store


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """The only layer of a container image, as a tar."""
    path = tmp_path / "box.tar"
    path.write_bytes(images.alpine_like("3", packages=""))
    return path


@contextmanager
def away(folder: Path) -> Iterator[None]:
    """Have a folder vanish during the block."""
    aside = folder.with_name("aside")
    folder.rename(aside)
    try:
        yield
    finally:
        aside.rename(folder)


def kinds(guest: OpenShell) -> dict[str, str]:
    """Return the types of the file systems that a machine has mounted, by their mount points."""
    rows = [line.split() for line in guest("cat /proc/mounts").splitlines()]
    return {row[1]: row[2] for row in rows}


def keepers(program: Pymachine) -> list[str]:
    return [command for command in program.processes().values() if "share_keeper" in command]


def await_read(guest: OpenShell, folder: str) -> None:
    """Wait until a machine can read the file `hello` in a folder."""
    visible(lambda: guest(f"cat {folder}/hello 2> /dev/null || true") == "hello\n", f"{folder}/hello")


def read_in_container(program: Pymachine) -> str:
    """Return what a new container reads in both folders that are missing at first."""
    return docker(program, "two", "docker run --rm -v /late:/work box:1 cat /work/hello /work/inside/hello")


def notice_change(watcher: Watcher, folder: Path) -> None:
    (folder / "changed").write_text("new")
    watcher.noticed("ATTRIB ./changed")


def test_a_missing_folder_is_mounted_when_it_is_back(tmp_path: Path, layer: Path) -> None:
    present, late, inner = tmp_path / "present", tmp_path / "late", tmp_path / "inner"
    for folder in (present, late, inner, late / "inside"):
        folder.mkdir()
        (folder / "hello").write_text("hello\n")
    packages.unpack(present / "node_modules", "inotify-tools")
    shares = (str(present), f"{late}:/late", f"{inner}:/late/inside:ro")
    mounts = (f"{present}:/work", "/late:/late")
    with private_store() as program:
        with_shared_template(program)
        words = [word for share in shares for word in ("--share", share)]
        assert RESUMED in program("create", *words, "one").stdout
        assert keepers(program) == []
        program("stop", "one")

        with away(late):
            # A clone takes the folders over, and misses the same. It boots like any machine that is started.
            text = program("clone", "one", "two").text
            assert f"{late}:/late is not shared: it does not exist. It is mounted when it is back." in text
            assert "inside" not in text
            guest = open_shells.in_machine(program, "two")
            found = kinds(guest)
            # The folder will hide this one when it is back, so this one is mounted over SSH too.
            assert (found[str(present)], found.get("/late"), found["/late/inside"]) == ("9p", None, "fuse.sshfs")
            assert f"{late}:/late is not shared: it does not exist" in program("doctor", code=None).stdout
            assert len(keepers(program)) == 1
            program("provision", "two")

        docker(program, "two", f"docker import {shlex.quote(str(layer))} box:1")
        with guest:
            await_read(guest, "/late")
            await_read(guest, "/late/inside")
            assert kinds(guest)["/late"] == "fuse.sshfs"
        assert f"shares {late}:/late, over SSH until" in program("doctor", code=None).stdout
        with sharing_container(program, *mounts, name="two") as container:
            assert container("cat /late/hello /late/inside/hello") == "hello\nhello\n"
            with watching(program, container, late, "/late") as watcher:
                notice_change(watcher, late)
            with watching(program, container, present, "/work") as watcher:
                notice_change(watcher, present)

        # The other commands with a folder over SSH. In the memory of the snapshot, its connection is lost.
        program("provision", "two")
        program("snapshot", "create", "two", "saved")
        assert read_in_container(program) == "hello\nhello\n"
        program("snapshot", "restore", "two", "saved")
        with open_shells.in_machine(program, "two") as guest:
            await_read(guest, "/late")
            await_read(guest, "/late/inside")
            found = kinds(guest)
        assert (found[str(present)], found["/late"], found["/late/inside"]) == ("9p", "fuse.sshfs", "fuse.sshfs")
        assert read_in_container(program) == "hello\nhello\n"

        program("kill", "two")
        assert keepers(program) == []
        program("start", "two")
        with open_shells.in_machine(program, "two") as guest:
            found = kinds(guest)
        assert (found["/late"], found["/late/inside"]) == ("9p", "9p")
        assert keepers(program) == []
        with sharing_container(program, *mounts, name="two") as container:
            assert container("cat /late/hello /late/inside/hello") == "hello\nhello\n"
            with watching(program, container, late, "/late") as watcher:
                notice_change(watcher, late)
        program("rm", "-y", "two")

        program("modify", "--unshare", "/late", "one")
        program("rename", "one", "other")
        shares_left = json.loads(program("inspect", "other").stdout)["Shares"]
        assert [each["GuestPath"] for each in shares_left] == [str(present), "/late/inside"]
        program("rm", "-y", "other")
        assert program.remaining_processes() == {}
