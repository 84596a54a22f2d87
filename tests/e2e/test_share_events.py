"""Changes that the host makes in shared folders, as programs in containers notice them."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from test_clones import RESUMED, docker, with_shared_template

from pymachine.system import wait
from pymachine_driver_qemu import process, runtime, shares
from support import folders, images, packages
from support.runner import Pymachine, private_store

# An event comes within a second. A container may start late on a busy host.
NOTICED_SECONDS = 180.0
RELOADING_SERVER = """
const fs = require("fs"), http = require("http");
let page;
const load = () => { page = fs.readFileSync("/work/page.html"); };
load();
fs.watch("/work", load);
http.createServer((request, response) => response.end(page)).listen(80, () => console.log("serving"));
"""
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("read-only")


@pytest.fixture(scope="module")
def machine(folder: Path, read_only: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pymachine]:
    """A machine `one` with both folders, and an image `box` with busybox and inotifywait."""
    with private_store() as program:
        with_shared_template(program)
        words = ["--share", str(folder), "--share", f"{read_only}:/read-only:ro"]
        assert RESUMED in program("create", *words, "one").stdout
        layer = tmp_path_factory.mktemp("image") / "box.tar"
        layer.write_bytes(images.alpine_like("3", packages=""))
        docker(program, "one", f"docker import {layer} box:1")
        install(program, "inotify-tools", base="box:1", image="box:2")
        yield program


@pytest.fixture
def work(folder: Path, request: pytest.FixtureRequest) -> Path:
    """An empty folder in the writable one."""
    return folders.make_empty(folder, request)


def install(program: Pymachine, package: str, *, base: str, image: str) -> None:
    archive = packages.archive(package)
    docker(
        program, "one",
        f"docker run --name base -i {base} tar -xz -C / < {archive} && docker commit base {image} && docker rm base",
    )  # fmt: skip


class Watcher:
    """A container in which inotifywait watches /work."""

    def __init__(self, program: Pymachine, name: str) -> None:
        self._program = program
        self._name = name

    def events(self) -> list[str]:
        """Return the events so far, each as its kinds and its path."""
        return self._logs("2> /dev/null").splitlines()

    def is_ready(self) -> bool:
        return "Watches established" in self._logs("2>&1")

    def run(self, script: str) -> None:
        docker(self._program, "one", f"docker exec {self._name} sh -c {shlex.quote(script)}")

    def noticed(self, event: str) -> None:
        """Wait until the event has come."""
        visible(lambda: event in self.events(), event)

    def _logs(self, redirection: str) -> str:
        return docker(self._program, "one", f"docker logs {self._name} {redirection}")


@contextmanager
def watching(program: Pymachine, folder: Path, in_guest: str = "") -> Iterator[Watcher]:
    """Run a container that watches `folder`, which the guest has as `in_guest`, until the host watches it too."""
    with unnoticed_watching(program, in_guest or str(folder)) as watcher:
        visible(lambda: is_watched(program, folder), "the host's watch")
        yield watcher


@contextmanager
def unnoticed_watching(program: Pymachine, folder: str) -> Iterator[Watcher]:
    """Run a container that watches the guest's `folder`, whether or not the host does."""
    name = f"watcher{next(_numbers)}"
    kinds = "attrib,create,delete,modify,move"
    docker(
        program, "one",
        f"docker run -d --name {name} -v {shlex.quote(f'{folder}:/work')} box:2"
        f" inotifywait -m -r -e {kinds} --format '%e %w%f' /work",
    )  # fmt: skip
    watcher = Watcher(program, name)
    visible(watcher.is_ready, "inotifywait")
    try:
        yield watcher
    finally:
        docker(program, "one", f"docker rm -f {name}")


def visible(condition: Callable[[], bool], what: str) -> None:
    wait.until(lambda: condition() or None, deadline=NOTICED_SECONDS, what=what, interval=0.1)


def follower(program: Pymachine) -> int:
    """Return the process that reports changes to the guest; it is no shell."""
    [pid] = [
        pid
        for pid in process.find_pids(str(machine_folder(program)))
        if b"pymachine_driver_qemu.share_events" in (line := Path(f"/proc/{pid}/cmdline").read_bytes())
        and not line.startswith(b"/bin/sh")
    ]
    return pid


def is_watched(program: Pymachine, folder: Path) -> bool:
    """Return whether one of the store's processes has an inotify watch of the folder (proc_pid_fdinfo(5))."""
    watch = f" ino:{folder.stat().st_ino:x} "
    return any(watch in text for pid in program.processes() for text in _open_files(pid))


def _open_files(pid: int) -> Iterator[str]:
    """Yield the kernel's description of the files that a process has open."""
    with suppress(OSError):  # the process has ended, or has just closed a file: callers look again
        for file in Path(f"/proc/{pid}/fdinfo").iterdir():
            yield file.read_text()


def machine_folder(program: Pymachine) -> Path:
    return program.store / "machines" / "one"


# -- the kinds of changes ----------------------------------------------------------------------------------------


def test_each_kind_of_change_is_noticed(machine: Pymachine, work: Path) -> None:
    (work / "known").write_text("1")
    (work / "sub").mkdir()
    with watching(machine, work) as watcher:
        (work / "new").write_text("created")
        watcher.noticed("ATTRIB /work/new")
        with (work / "known").open("a") as file:
            file.write("written")
        watcher.noticed("ATTRIB /work/known")
        (work / "known").rename(work / "sub" / "moved")
        watcher.noticed("ATTRIB /work/sub/moved")
        watcher.noticed("ATTRIB,ISDIR /work/")
        (work / "sub" / "moved").unlink()
        watcher.noticed("ATTRIB,ISDIR /work/sub/")
        (work / "sub" / "link").symlink_to("nowhere")
        watcher.noticed("ATTRIB /work/sub/link")
        (work / "folder").mkdir()
        watcher.noticed("ATTRIB,ISDIR /work/folder")
        assert not [event for event in watcher.events() if not event.startswith("ATTRIB")]


def test_files_of_a_new_folder_are_noticed_by_a_watcher_of_it(machine: Pymachine, work: Path) -> None:
    """The folder is made while the container runs, as by a checkout of another branch."""
    with watching(machine, work) as outer:
        (work / "folder" / "inner").mkdir(parents=True)
        (work / "folder" / "inner" / "file").write_text("1")
        outer.noticed("ATTRIB,ISDIR /work/folder")
        with watching(machine, work / "folder") as inner:
            (work / "folder" / "inner" / "file").write_text("2")
            inner.noticed("ATTRIB /work/inner/file")
            shutil.rmtree(work / "folder" / "inner")
            inner.noticed("ATTRIB,ISDIR /work/")


def test_names_with_unusual_characters_are_noticed(machine: Pymachine, work: Path) -> None:
    with watching(machine, work) as watcher:
        for name in ("with blank", "grüße-日本", "quote'\"", "-dash", "$(dollar)", "back\\slash", "]bracket["):
            (work / name).write_text("1")
            watcher.noticed(f"ATTRIB /work/{name}")
        (work / "new\nline").write_text("1")
        watcher.noticed("ATTRIB /work/new")


def test_a_read_only_folder_is_watched_too(machine: Pymachine, read_only: Path) -> None:
    with watching(machine, read_only, "/read-only") as watcher:
        (read_only / "new").write_text("1")
        before = (read_only / "new").stat()
        watcher.noticed("ATTRIB /work/new")
        # The event changes nothing on the host.
        assert (read_only / "new").stat() == before
        (read_only / "new").unlink()
        watcher.noticed("ATTRIB,ISDIR /work/")


def test_the_kernel_enforces_that_it_is_read_only(machine: Pymachine) -> None:
    sockets = runtime.find(machine_folder(machine))
    assert sockets is not None
    assert shares.are_read_only_by_kernel(sockets)


def test_an_event_changes_nothing_on_the_host(machine: Pymachine, work: Path) -> None:
    with watching(machine, work) as watcher:
        (work / "set-user-id").write_text("1")
        (work / "set-user-id").chmod(0o4755)
        (work / "plain").write_text("1")
        before = [(work / name).stat() for name in ("set-user-id", "plain")]
        watcher.noticed("ATTRIB /work/plain")
        (work / "last").write_text("1")
        watcher.noticed("ATTRIB /work/last")
        assert [(work / name).stat() for name in ("set-user-id", "plain")] == before


def test_folders_that_programs_do_not_watch_are_left_out(machine: Pymachine, work: Path) -> None:
    for name in (".git", "node_modules"):
        (work / name).mkdir()
    with watching(machine, work) as watcher:
        (work / ".git" / "index").write_text("1")
        (work / "node_modules" / "module").write_text("1")
        (work / "last").write_text("1")
        watcher.noticed("ATTRIB /work/last")
        assert watcher.events() == ["ATTRIB /work/last"]


# -- changes of the guest ----------------------------------------------------------------------------------------


def test_a_change_in_the_guest_raises_no_second_event(machine: Pymachine, work: Path) -> None:
    (work / "file").write_text("1")
    with watching(machine, work) as watcher:
        watcher.run("echo 2 > /work/file; echo 3 > /work/made; mkdir /work/folder; echo 4 > /work/folder/inner")
        watcher.run("chmod 600 /work/made; mv /work/made /work/moved; rm /work/file")
        watcher.noticed("DELETE /work/file")
        (work / "last").write_text("1")
        watcher.noticed("ATTRIB /work/last")
        events = watcher.events()
        assert [event for event in events if event.startswith("ATTRIB")] == ["ATTRIB /work/made", "ATTRIB /work/last"]


def test_a_build_that_runs_at_every_event_ends(machine: Pymachine, work: Path) -> None:
    """It writes into the folder that it watches, as a careless script does."""
    script = (
        "inotifywait -m -r -e attrib,close_write --format %f /work 2> /dev/null | while read -r name; do"
        " case $name in source) echo built; cp /work/source /work/output ;; output) echo again ;; esac; done"
    )
    with watching(machine, work) as watcher:
        name = f"builder{next(_numbers)}"
        docker(machine, "one", f"docker run -d --name {name} -v {work}:/work box:2 sh -c {shlex.quote(script)}")

        def log() -> list[str]:
            return docker(machine, "one", f"docker logs {name}").split()

        def is_built() -> bool:
            (work / "source").write_text(str(next(_numbers)))
            return bool(log())

        visible(is_built, "the build")
        (work / "last").write_text("1")
        watcher.noticed("ATTRIB /work/last")
        # Each copy is one event, of the copy itself, and none comes from the host afterwards.
        assert log().count("again") <= log().count("built")
        docker(machine, "one", f"docker rm -f {name}")


# -- programs ----------------------------------------------------------------------------------------------------


def test_a_server_of_node_reloads_a_page(machine: Pymachine, work: Path) -> None:
    install(machine, "nodejs", base="box:2", image="box:3")
    (work / "server.js").write_text(RELOADING_SERVER)
    (work / "page.html").write_text("one")
    docker(machine, "one", f"docker run -d --name web -v {work}:/work:ro -p 8099:80 box:3 node /work/server.js")
    page = "docker exec web busybox wget -q -O - http://127.0.0.1/ 2> /dev/null || :"
    visible(lambda: docker(machine, "one", page) == "one", "the page")
    for text in ("two", "three"):
        (work / "page.html").write_text(text)
        visible(lambda text=text: docker(machine, "one", page) == text, f"the page with {text}")  # type: ignore[misc]
    docker(machine, "one", "docker rm -f web")


# -- life --------------------------------------------------------------------------------------------------------


def test_another_process_takes_over_if_the_first_is_killed(machine: Pymachine, work: Path) -> None:
    with watching(machine, work) as watcher:
        (work / "first").write_text("1")
        watcher.noticed("ATTRIB /work/first")
        killed = follower(machine)
        os.kill(killed, signal.SIGKILL)
        visible(lambda: follower_runs(machine, killed), "another process")

        def is_noticed() -> bool:
            (work / "new").write_text(str(next(_numbers)))
            return "ATTRIB /work/new" in watcher.events()

        visible(is_noticed, "a change after the end of the process")


def follower_runs(program: Pymachine, killed: int) -> bool:
    try:
        return follower(program) != killed
    except ValueError:
        return False


def test_memory_can_be_saved_after_the_last_container_has_ended(machine: Pymachine, work: Path) -> None:
    """The guest has the folder open, as long as containers mount it."""
    with watching(machine, work) as watcher:
        (work / "new").write_text("1")
        watcher.noticed("ATTRIB /work/new")
    machine("snapshot", "create", "one", "idle")
    with watching(machine, work) as watcher:
        (work / "later").write_text("1")
        watcher.noticed("ATTRIB /work/later")


def test_events_can_be_switched_off_and_on(machine: Pymachine, work: Path) -> None:
    """Last in this file, since it restarts the machine."""
    machine("modify", "--restart", "--no-share-events", "one")
    assert json.loads(machine("inspect", "one").stdout)["ShareEvents"] is False
    with unnoticed_watching(machine, str(work)) as watcher:
        (work / "file").write_text("1")
        watcher.run("touch /work/last")
        watcher.noticed("CREATE /work/last")
        assert "ATTRIB /work/file" not in watcher.events()
    with pytest.raises(ValueError, match="not enough"):
        follower(machine)
    machine("modify", "--restart", "--share-events", "one")
    with watching(machine, work) as watcher:
        (work / "file").write_text("2")
        watcher.noticed("ATTRIB /work/file")
