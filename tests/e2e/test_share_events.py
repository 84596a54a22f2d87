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
from support import folders, images, open_shells, packages
from support.open_shells import OpenShell
from support.runner import Pymachine, private_store

# An event comes within a second. A container may start late on a busy host.
NOTICED_SECONDS = 180.0
RELOADING_SERVER = """
const fs = require("fs"), http = require("http");
let page;
const load = () => { page = fs.readFileSync("page.html"); };
load();
fs.watch(".", load);
http.createServer((request, response) => response.end(page)).listen(80, () => console.log("serving"));
"""
# Files by which tests wait for all events of earlier changes.
SETTLED = (".settled-first", ".settled-then")
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The writable folder, with the programs of the tests in a folder that the host does not watch."""
    folder = tmp_path_factory.mktemp("shared")
    packages.unpack(folder / "node_modules", "inotify-tools", "nodejs")
    return folder


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("read-only")


@pytest.fixture(scope="module")
def machine(folder: Path, read_only: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pymachine]:
    """A machine `one` with both folders, and an image `box` with busybox."""
    with private_store() as program:
        with_shared_template(program)
        words = ["--share", str(folder), "--share", f"{read_only}:/read-only:ro"]
        assert RESUMED in program("create", *words, "one").stdout
        layer = tmp_path_factory.mktemp("image") / "box.tar"
        layer.write_bytes(images.alpine_like("3", packages=""))
        docker(program, "one", f"docker import {layer} box:1")
        yield program


@pytest.fixture(scope="module")
def container(machine: Pymachine, folder: Path, read_only: Path) -> Iterator[OpenShell]:
    """A shell in a container that has mounted the writable folder at /work and the other one at /read-only.

    It runs during all tests that do not restart the machine or save its memory.
    """
    with sharing_container(machine, f"{folder}:/work", "/read-only:/read-only") as shell:
        for each in (folder, read_only):
            visible(lambda each=each: is_watched(machine, each), f"the host's watch of {each}")  # type: ignore[misc]
        yield shell


@pytest.fixture
def work(folder: Path, request: pytest.FixtureRequest) -> Path:
    """An empty folder in the writable one."""
    return folders.make_empty(folder, request)


@contextmanager
def sharing_container(program: Pymachine, *mounts: str, name: str = "one") -> Iterator[OpenShell]:
    """Open a shell in a new container with `mounts`, the first of which has inotifywait in its node_modules."""
    words = [word for mount in mounts for word in ("-v", mount)]
    with open_shells.in_container(program, name, *words, "box:1") as shell:
        shell(packages.link_script(f"{mounts[0].split(':')[1]}/node_modules"))
        yield shell


class Watcher:
    """An inotifywait that watches a folder in a container. The paths of its events begin with a dot."""

    def __init__(self, container: OpenShell, folder: str) -> None:
        self._container = container
        self._output = f"/tmp/events{next(_numbers)}"
        kinds = "attrib,create,delete,modify,move"
        self._pid = container(
            f"cd {shlex.quote(folder)}\n"
            f"inotifywait -m -r -e {kinds} --format '%e %w%f' . >> {self._output} 2> {self._output}.log & echo $!"
        ).strip()
        visible(lambda: "established" in container(f"cat {self._output}.log"), "inotifywait")

    def events(self) -> list[str]:
        """Return the events so far, each as its kinds and its path."""
        lines = self._container(f"cat {self._output}").splitlines()
        return [line for line in lines if not line.endswith(SETTLED)]

    def noticed(self, event: str) -> None:
        """Wait until the event has come."""
        visible(lambda: event in self._container(f"cat {self._output}").splitlines(), event)

    def skip_earlier(self, folder: Path) -> None:
        """Forget the events of all changes so far. `folder` is the watched one, on the host."""
        # The host reports changes in their order, but several at once in any order. So when the second of these files
        # is noticed, nothing from before the first one can follow.
        for name in SETTLED:
            (folder / name).write_text(str(next(_numbers)))
            self.noticed(f"ATTRIB ./{name}")
        self._container(f": > {self._output}")

    def end(self) -> None:
        self._container(f"kill {self._pid}")


@contextmanager
def watching(program: Pymachine, container: OpenShell, folder: Path, in_container: str = "") -> Iterator[Watcher]:
    """Watch a folder in a container from when the host watches it, too.

    It is `folder` on the host, and `in_container`, by default a folder in /work of the same name.
    """
    watcher = Watcher(container, in_container or f"/work/{folder.name}")
    visible(lambda: is_watched(program, folder), "the host's watch")
    watcher.skip_earlier(folder)
    yield watcher
    watcher.end()


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


def test_each_kind_of_change_is_noticed(machine: Pymachine, container: OpenShell, work: Path) -> None:
    (work / "known").write_text("1")
    (work / "sub").mkdir()
    with watching(machine, container, work) as watcher:
        (work / "new").write_text("created")
        watcher.noticed("ATTRIB ./new")
        with (work / "known").open("a") as file:
            file.write("written")
        watcher.noticed("ATTRIB ./known")
        (work / "known").rename(work / "sub" / "moved")
        watcher.noticed("ATTRIB ./sub/moved")
        watcher.noticed("ATTRIB,ISDIR ./")
        (work / "sub" / "moved").unlink()
        watcher.noticed("ATTRIB,ISDIR ./sub/")
        (work / "sub" / "link").symlink_to("nowhere")
        watcher.noticed("ATTRIB ./sub/link")
        (work / "folder").mkdir()
        watcher.noticed("ATTRIB,ISDIR ./folder")
        assert not [event for event in watcher.events() if not event.startswith("ATTRIB")]


def test_files_of_a_new_folder_are_noticed_by_a_watcher_of_it(
    machine: Pymachine, container: OpenShell, work: Path
) -> None:
    """The folder is made while the container runs, as by a checkout of another branch."""
    with watching(machine, container, work) as outer:
        (work / "folder" / "inner").mkdir(parents=True)
        (work / "folder" / "inner" / "file").write_text("1")
        outer.noticed("ATTRIB,ISDIR ./folder")
        with watching(machine, container, work / "folder", f"/work/{work.name}/folder") as inner:
            (work / "folder" / "inner" / "file").write_text("2")
            inner.noticed("ATTRIB ./inner/file")
            shutil.rmtree(work / "folder" / "inner")
            inner.noticed("ATTRIB,ISDIR ./")


def test_names_with_unusual_characters_are_noticed(machine: Pymachine, container: OpenShell, work: Path) -> None:
    with watching(machine, container, work) as watcher:
        names = ("with blank", "grüße-日本", "quote'\"", "-dash", "$(dollar)", "back\\slash", "]bracket[")
        for name in (*names, "new\nline"):
            (work / name).write_text("1")
        for name in (*names, "new"):
            watcher.noticed(f"ATTRIB ./{name}")


def test_a_read_only_folder_is_watched_too(machine: Pymachine, container: OpenShell, read_only: Path) -> None:
    with watching(machine, container, read_only, "/read-only") as watcher:
        (read_only / "new").write_text("1")
        before = (read_only / "new").stat()
        watcher.noticed("ATTRIB ./new")
        # The event changes nothing on the host.
        assert (read_only / "new").stat() == before
        (read_only / "new").unlink()
        watcher.noticed("ATTRIB,ISDIR ./")


def test_the_kernel_enforces_that_it_is_read_only(machine: Pymachine) -> None:
    sockets = runtime.find(machine_folder(machine))
    assert sockets is not None
    assert shares.are_read_only_by_kernel(sockets)


def test_an_event_changes_nothing_on_the_host(machine: Pymachine, container: OpenShell, work: Path) -> None:
    with watching(machine, container, work) as watcher:
        (work / "set-user-id").write_text("1")
        (work / "set-user-id").chmod(0o4755)
        (work / "plain").write_text("1")
        before = [(work / name).stat() for name in ("set-user-id", "plain")]
        watcher.noticed("ATTRIB ./plain")
        (work / "last").write_text("1")
        watcher.noticed("ATTRIB ./last")
        assert [(work / name).stat() for name in ("set-user-id", "plain")] == before


def test_folders_that_programs_do_not_watch_are_left_out(machine: Pymachine, container: OpenShell, work: Path) -> None:
    for name in (".git", "node_modules"):
        (work / name).mkdir()
    with watching(machine, container, work) as watcher:
        (work / ".git" / "index").write_text("1")
        (work / "node_modules" / "module").write_text("1")
        (work / "last").write_text("1")
        watcher.noticed("ATTRIB ./last")
        assert watcher.events() == ["ATTRIB ./last"]


# -- changes of the guest ----------------------------------------------------------------------------------------


def test_a_change_in_the_guest_raises_no_second_event(machine: Pymachine, container: OpenShell, work: Path) -> None:
    (work / "file").write_text("1")
    with watching(machine, container, work) as watcher:
        container(f"""cd /work/{work.name}
            echo 2 > file; echo 3 > made; mkdir folder; echo 4 > folder/inner
            chmod 600 made; mv made moved; rm file""")
        watcher.noticed("DELETE ./file")
        (work / "last").write_text("1")
        watcher.noticed("ATTRIB ./last")
        events = watcher.events()
        assert [event for event in events if event.startswith("ATTRIB")] == ["ATTRIB ./made", "ATTRIB ./last"]


def test_a_build_that_runs_at_every_event_ends(machine: Pymachine, container: OpenShell, work: Path) -> None:
    """It writes into the folder that it watches, as a careless script does."""
    with watching(machine, container, work) as watcher:
        builder = container(f"""cd /work/{work.name}
            inotifywait -m -r -e attrib,close_write --format %f . 2> /dev/null | while read -r name; do
                case $name in source) echo built; cp source output ;; output) echo again ;; esac
            done > /tmp/built &
            echo $!""").strip()

        def log() -> list[str]:
            return container("cat /tmp/built").split()

        def is_built() -> bool:
            (work / "source").write_text(str(next(_numbers)))
            return bool(log())

        visible(is_built, "the build")
        (work / "last").write_text("1")
        watcher.noticed("ATTRIB ./last")
        # Each copy is one event, of the copy itself, and none comes from the host afterwards.
        assert log().count("again") <= log().count("built")
        container(f"kill {builder}")


# -- programs ----------------------------------------------------------------------------------------------------


def test_a_server_of_node_reloads_a_page(container: OpenShell, work: Path) -> None:
    (work / "server.js").write_text(RELOADING_SERVER)
    (work / "page.html").write_text("one")
    server = container(f"cd /work/{work.name}; node server.js > /tmp/server 2>&1 & echo $!").strip()
    page = "busybox wget -q -O - http://127.0.0.1/ 2> /dev/null || :"
    visible(lambda: container(page) == "one", "the page")
    for text in ("two", "three"):
        (work / "page.html").write_text(text)
        visible(lambda text=text: container(page) == text, f"the page with {text}")  # type: ignore[misc]
    container(f"kill {server}")


# -- life --------------------------------------------------------------------------------------------------------


def test_another_process_takes_over_if_the_first_is_killed(
    machine: Pymachine, container: OpenShell, work: Path
) -> None:
    with watching(machine, container, work) as watcher:
        (work / "first").write_text("1")
        watcher.noticed("ATTRIB ./first")
        killed = follower(machine)
        os.kill(killed, signal.SIGKILL)
        visible(lambda: follower_runs(machine, killed), "another process")

        def is_noticed() -> bool:
            (work / "new").write_text(str(next(_numbers)))
            return "ATTRIB ./new" in watcher.events()

        visible(is_noticed, "a change after the end of the process")


def follower_runs(program: Pymachine, killed: int) -> bool:
    try:
        return follower(program) != killed
    except ValueError:
        return False


def test_memory_can_be_saved_after_the_last_container_has_ended(
    machine: Pymachine, container: OpenShell, folder: Path, work: Path
) -> None:
    """The guest has the folder open, as long as containers mount it. No test after this one can use `container`."""
    with watching(machine, container, work) as watcher:
        (work / "new").write_text("1")
        watcher.noticed("ATTRIB ./new")
    container.close()
    machine("snapshot", "create", "one", "idle")
    with sharing_container(machine, f"{folder}:/work") as another, watching(machine, another, work) as watcher:
        (work / "later").write_text("1")
        watcher.noticed("ATTRIB ./later")


def test_events_can_be_switched_off_and_on(machine: Pymachine, folder: Path, work: Path) -> None:
    """The machine continues with the memory that the test above has saved, which takes less time than a boot."""
    machine("kill", "one")
    machine("modify", "--no-share-events", "one")
    assert json.loads(machine("inspect", "one").stdout)["ShareEvents"] is False
    machine("snapshot", "restore", "one", "idle")
    with sharing_container(machine, f"{folder}:/work") as container:
        watcher = Watcher(container, f"/work/{work.name}")
        (work / "file").write_text("1")
        container(f"touch /work/{work.name}/last")
        watcher.noticed("CREATE ./last")
        assert "ATTRIB ./file" not in watcher.events()
        with pytest.raises(ValueError, match="not enough"):
            follower(machine)
    machine("kill", "one")
    machine("modify", "--share-events", "one")
    machine("snapshot", "restore", "one", "idle")
    with sharing_container(machine, f"{folder}:/work") as container, watching(machine, container, work) as watcher:
        (work / "file").write_text("2")
        watcher.noticed("ATTRIB ./file")
