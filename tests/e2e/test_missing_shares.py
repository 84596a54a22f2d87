"""Shared folders that are missing when their machine starts, and come back while it runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_clones import RESUMED, docker, ssh, with_shared_template
from test_share_events import Watcher, install, visible, watching

from support import images
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


def kinds(program: Pymachine) -> dict[str, str]:
    """Return the types of the file systems that the machine has mounted, by their mount points."""
    rows = [line.split() for line in ssh(program, "one", "cat /proc/mounts").splitlines()]
    return {row[1]: row[2] for row in rows}


def keepers(program: Pymachine) -> list[str]:
    return [command for command in program.processes().values() if "share_keeper" in command]


def await_read(program: Pymachine, path: str) -> None:
    """Wait until a new container can read the file `hello` in a folder of the machine."""
    script = f"docker run --rm -v {path}:/work box:2 cat /work/hello 2> /dev/null || true"
    visible(lambda: docker(program, "one", script) == "hello\n", f"{path}/hello")


def notice_change(watcher: Watcher, folder: Path) -> None:
    (folder / "changed").write_text("new")
    watcher.noticed("ATTRIB /work/changed")


def test_a_missing_folder_is_mounted_when_it_is_back(tmp_path: Path, layer: Path) -> None:
    present, late, inner = tmp_path / "present", tmp_path / "late", tmp_path / "inner"
    for folder in (present, late, inner, late / "inside"):
        folder.mkdir()
        (folder / "hello").write_text("hello\n")
    shares = (str(present), f"{late}:/late", f"{inner}:/late/inside:ro")
    with private_store() as program:
        with_shared_template(program)
        words = [word for share in shares for word in ("--share", share)]
        assert RESUMED in program("create", *words, "one").stdout
        docker(program, "one", f"docker import {layer} box:1")
        install(program, "inotify-tools", base="box:1", image="box:2")
        assert keepers(program) == []
        program("stop", "one")

        with away(late):
            text = program("start", "one").text
            assert f"{late}:/late is not shared: it does not exist. It is mounted when it is back." in text
            assert "inside" not in text
            found = kinds(program)
            # The folder will hide this one when it is back, so this one is mounted over SSH too.
            assert (found[str(present)], found.get("/late"), found["/late/inside"]) == ("9p", None, "fuse.sshfs")
            assert f"{late}:/late is not shared: it does not exist" in program("doctor", code=None).stdout
            assert len(keepers(program)) == 1
            program("provision", "one")

        await_read(program, "/late")
        await_read(program, "/late/inside")
        assert kinds(program)["/late"] == "fuse.sshfs"
        assert f"shares {late}:/late, over SSH until" in program("doctor", code=None).stdout
        with watching(program, late, "/late") as watcher:
            notice_change(watcher, late)
        with watching(program, present) as watcher:
            notice_change(watcher, present)

        # The other commands with a folder over SSH. In the memory of the snapshot, its connection is lost.
        program("provision", "one")
        program("snapshot", "create", "one", "saved")
        await_read(program, "/late")
        program("snapshot", "restore", "one", "saved")
        await_read(program, "/late")
        found = kinds(program)
        assert (found[str(present)], found["/late"], found["/late/inside"]) == ("9p", "fuse.sshfs", "fuse.sshfs")

        program("restart", "one")
        found = kinds(program)
        assert (found["/late"], found["/late/inside"]) == ("9p", "9p")
        assert ssh(program, "one", "cat /late/hello /late/inside/hello") == "hello\nhello\n"
        assert keepers(program) == []
        with watching(program, late, "/late") as watcher:
            notice_change(watcher, late)

        program("stop", "one")
        with away(late):
            # A clone takes the folders over, and misses the same.
            program("clone", "one", "two")
        visible(lambda: ssh(program, "two", "cat /late/hello 2> /dev/null || true") == "hello\n", "the clone's folder")
        assert len(keepers(program)) == 1
        program("kill", "two")
        assert keepers(program) == []
        program("rm", "-y", "two")
        program("modify", "--unshare", "/late", "one")
        program("rename", "one", "other")
        shares_left = json.loads(program("inspect", "other").stdout)["Shares"]
        assert [each["GuestPath"] for each in shares_left] == [str(present), "/late/inside"]
        program("rm", "-y", "other")
        assert program.remaining_processes() == {}
