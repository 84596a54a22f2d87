"""The guest's script share-events, run by bash with pipes in place of its port, and the real inotifywait."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

import pymachine.image
from pymachine.system.wait import until
from support import processes

SCRIPTS = Path(pymachine.image.__file__).parent / "rootfs" / "root" / "usr" / "lib" / "pymachine"
SECONDS = 60.0


class Script:
    """The running script. `src` stands for a shared folder of the guest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.src = folder / "src"
        self.tasks = folder / "tasks"
        self.marks = f"{folder}/state/share-events"
        self.lines: list[str] = []
        self.process: subprocess.Popen[Any]

    def read(self, output: IO[bytes]) -> None:
        self.lines.extend(os.fsdecode(line[:-1]) for line in output)

    def ask(self, word: str, *paths: Path | str) -> None:
        data = b"".join(os.fsencode(path) + b"\0" for path in paths)
        assert self.process.stdin
        self.process.stdin.write(f"{word} {len(data)}\n".encode() + data)
        self.process.stdin.flush()

    def run_container(self, name: str, *sources: Path | str) -> None:
        """Make the folder of a running container that mounts folders of the guest."""
        (self.tasks / name).mkdir()
        mounts = [{"type": "bind", "source": str(source)} for source in sources]
        text = json.dumps({"mounts": [*mounts, {"type": "tmpfs"}]}, separators=(",", ":"))  # as Go writes it
        (self.tasks / name / "config.json").write_text(text)

    def wait_for(self, *lines: str) -> None:
        until(lambda: set(lines) <= set(self.lines), deadline=SECONDS, what=str(lines))

    def mark(self) -> list[str]:
        """Return the lines until a mark."""
        mark = f"event CLOSE_WRITE,CLOSE {self.marks}/sync"
        before = self.lines.count(mark)
        self.ask("mark")
        until(lambda: self.lines.count(mark) > before, deadline=SECONDS, what="the mark")
        return list(self.lines)

    def opened(self) -> set[str]:
        """Return the folders in `src` that the script has open."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                target = str(path.readlink())
                if os.getpgid(int(path.parts[2])) == self.process.pid and target.startswith(str(self.src)):
                    found.add(target)
            except OSError:
                continue  # it has ended, or it belongs to another user
        return found


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    made = Script(tmp_path.resolve())
    for name in ("bin", "state", "tasks", "identity", "src/sub"):
        (made.folder / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox
    (made.folder / "bin" / "chown").symlink_to(busybox)
    (made.folder / "identity" / "mounts").write_text(f"9p\tshare0\trw\t{made.src}\n")
    os.mkfifo(made.folder / "state" / "never")
    changes = {
        "/usr/lib/pymachine/common": f"{made.folder}/common",
        "export PATH=": f"export PATH={made.folder}/bin:",
        "STATE=/run/pymachine": f"STATE={made.folder}/state",
        "IDENTITY_DIR=/var/lib/boot2docker/identity": f"IDENTITY_DIR={made.folder}/identity",
        "PORT=/dev/virtio-ports/org.pymachine.shares": f"PORT={made.folder}",
        'TASKS=("/run/containerd/$MOBY")': f'TASKS=("{made.tasks}")',
        "CONTAINERS=/var/lib/docker/containers": f"CONTAINERS={made.folder}/containers",
        'exec 3<> "$PORT" 4>&3': "exec 3<&0 4>&1",
    }
    texts = {name: (SCRIPTS / name).read_text() for name in ("common", "share-events")}
    for before, after in changes.items():
        assert any(before in text for text in texts.values()), before
        texts = {name: text.replace(before, after) for name, text in texts.items()}
    for name, text in texts.items():
        (made.folder / name).write_text(text)
    argv = ["bash", str(made.folder / "share-events")]
    with processes.started(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        made.process = process
        assert process.stdout
        reader = threading.Thread(target=made.read, args=(process.stdout,), daemon=True)
        reader.start()
        numbers = iter(range(1000))

        def is_reported() -> bool:
            """Start containers until one is seen: the script does not say when it looks for them."""
            made.run_container(f"first{next(numbers)}", made.src)
            return bool(made.lines)

        until((made.tasks / ".pymachine").exists, deadline=SECONDS, what="the script")
        until(is_reported, deadline=SECONDS, what="the folders of the first container", interval=0.2)
        made.wait_for("folders []", f'folders ["{made.src}"]')
        yield made
        processes.end(process)
        reader.join(SECONDS)


def test_only_shared_folders_of_containers_are_reported(script: Script) -> None:
    script.run_container("second", "/etc", f"{script.src}/sub", script.folder / "srcs", script.folder)
    script.run_container("third", "/")
    found = sorted(["/", str(script.folder), str(script.src), f"{script.src}/sub"])
    expected = json.dumps(found, separators=(",", ":"))
    script.wait_for(f"folders {expected}")
    for path in script.tasks.glob("*"):
        shutil.rmtree(path) if path.is_dir() else None
    until(lambda: script.lines[-1] == "folders []", deadline=SECONDS, what="the end of all containers")


def test_hello_sends_the_folders_and_closes_all(script: Script) -> None:
    script.ask("keep", script.src)
    until(lambda: script.opened() == {str(script.src)}, deadline=SECONDS, what="the folder to be opened")
    before = len(script.lines)
    script.ask("hello")
    until(lambda: len(script.lines) > before, deadline=SECONDS, what="the answer")
    assert script.lines[before:] == [f'folders ["{script.src}"]']
    assert script.opened() == set()


def test_hello_sends_the_folders_of_a_container_that_is_about_to_start(script: Script) -> None:
    container = script.folder / "containers" / "new"
    container.mkdir()
    (container / "hostconfig.json").write_text(json.dumps({"Binds": [f"{script.src}/sub:/sub"]}))
    expected = f'folders ["{script.src}","{script.src}/sub"]'
    script.wait_for(expected)
    script.ask("hello")
    until(lambda: script.lines.count(expected) == 2, deadline=SECONDS, what="the same folders again")


def test_folders_are_kept_open_until_they_are_released(script: Script) -> None:
    odd = script.src / "with\nnewline"
    odd.mkdir()
    os.mkfifo(script.src / "pipe")
    (script.src / "file").touch()
    script.ask("keep", script.src, script.src / "sub", odd, script.src / "pipe", script.src / "file", "/no/such")
    script.ask("keep", script.src / "sub")
    expected = {str(script.src), f"{script.src}/sub", str(odd)}
    until(lambda: script.opened() == expected, deadline=SECONDS, what="the folders to be opened")
    script.ask("release", script.src / "sub", odd, "/no/such")
    until(lambda: script.opened() == {str(script.src)}, deadline=SECONDS, what="the folders to be closed")


def test_changes_of_the_guest_are_reported_before_the_mark(script: Script) -> None:
    script.ask("keep", script.src, script.src / "sub")
    script.ask("watch")
    script.mark()
    (script.src / "file").write_text("x")
    (script.src / "file").rename(script.src / "sub" / "moved to")
    (script.src / "new").mkdir()
    found = script.mark()
    for line in (
        f"event CREATE {script.src}/file",
        f"event MODIFY {script.src}/file",
        f"event MOVED_FROM {script.src}/file",
        f"event MOVED_TO {script.src}/sub/moved to",
        f"event CREATE,ISDIR {script.src}/new",
    ):
        assert line in found
    # Another watch, with a folder that has been removed.
    (script.src / "sub" / "moved to").unlink()
    (script.src / "sub").rmdir()
    script.ask("release", script.src / "sub")
    script.ask("keep", script.src / "new")
    script.ask("watch")
    script.mark()
    (script.src / "new" / "late").touch()
    assert f"event CREATE {script.src}/new/late" in script.mark()


def test_events_are_raised_between_two_marks(script: Script) -> None:
    (script.src / "a\nb").touch()
    (script.src / "link").symlink_to("/etc/passwd")
    (script.src / "file").touch()
    (script.src / "program").touch()
    (script.src / "program").chmod(0o4755)
    owner = (script.src / "file").stat()
    script.ask("keep", script.src)
    script.ask("watch")
    script.mark()
    names = ("file", "gone", "link", "program", "a\nb")
    before = len(script.lines)
    script.ask("change", *(script.src / name for name in names))
    found = script.mark()[before:]
    begin, end = (f"event CLOSE_WRITE,CLOSE {script.marks}/{name}" for name in ("begin", "end"))
    inside = found[found.index(begin) : found.index(end)]
    assert f"event ATTRIB {script.src}/file" in inside
    assert f"event ATTRIB {script.src}/link" in inside
    assert f"event ATTRIB {script.src}/a" in inside
    # A new owner would clear this bit.
    assert f"event ATTRIB {script.src}/program" not in found
    assert (script.src / "program").stat().st_mode & 0o7777 == 0o4755
    after = (script.src / "file").stat()
    assert (after.st_uid, after.st_gid, after.st_mtime) == (owner.st_uid, owner.st_gid, owner.st_mtime)


def test_words_that_are_none_are_left_out(script: Script) -> None:
    assert script.process.stdin
    script.process.stdin.write(b"\nkeep\nkeep x\nkeep 99999999\nno-such-word 0\n")
    script.ask("no-such-word", script.src)
    script.ask("keep", script.src)
    until(lambda: script.opened() == {str(script.src)}, deadline=SECONDS, what="the folder to be opened")


# -- over SSH ----------------------------------------------------------------------------------------------------


@dataclass
class Started:
    """How the script is started over SSH, without SSH."""

    made: Script
    path: str = os.environ["PATH"]

    @contextmanager
    def running(self, *shares: Path) -> Iterator[Script]:
        """Run the script with shared folders, and containerds whose sockets are in the folders `first` and `second`."""
        made = self.made
        variables = {
            "MARKS": shlex.quote(made.marks),
            "RUN_FOLDERS": shlex.quote(f"{made.folder}/first {made.folder}/second"),
            "SHARES": f"({shlex.join(map(str, shares))})",
            "IN_JSON": f"({shlex.join(map(str, shares))})",
            "READ_ONLY": "()",
            "KEEP_OPEN": "yes",
        }
        settings = "".join(f"{name}={value}\n" for name, value in variables.items())
        argv = ["bash", "-c", settings + (SCRIPTS / "share-events").read_text(), "share-events", "stdio"]
        environment = {**os.environ, "PATH": self.path}
        pipe = subprocess.PIPE
        with processes.started(argv, stdin=pipe, stdout=pipe, stderr=pipe, env=environment) as process:
            made.process = process
            assert process.stdout
            reader = threading.Thread(target=made.read, args=(process.stdout,), daemon=True)
            reader.start()
            made.wait_for("pymachine-begin")
            yield made
            processes.end(process)
            reader.join(SECONDS)


@pytest.fixture
def over_ssh(tmp_path: Path) -> Started:
    made = Script(tmp_path.resolve())
    made.src.mkdir()
    return Started(made)


def containerd(folder: Path) -> Path:
    """Make the socket of a containerd, and return the folder of its containers."""
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "containerd.sock"))
    return folder / "daemon" / "io.containerd.runtime.v2.task" / "moby"


def test_containers_are_found_in_any_containerd(over_ssh: Started) -> None:
    made = over_ssh.made
    tasks = [containerd(made.folder / name) for name in ("first", "second")]
    made.tasks = tasks[1]
    with over_ssh.running(made.src):
        until(lambda: all(map(Path.exists, tasks)), deadline=SECONDS, what="the script")
        made.run_container("one", made.src)
        made.ask("hello")
        made.wait_for(f'folders ["{made.src}"]')


def test_nothing_outside_of_the_shared_folder_is_touched(over_ssh: Started) -> None:
    """A container replaces a folder with a link before the script raises the event."""
    made = over_ssh.made
    outside = made.folder / "outside"
    for folder in (outside, made.src / "folder"):
        folder.mkdir()
        (folder / "file").touch()
    (made.src / "link").symlink_to(outside)
    files = (outside / "file", made.src / "folder" / "file", made.src)
    before = [path.stat().st_ctime_ns for path in files]
    with over_ssh.running(made.src):
        made.ask("watch")
        made.ask("change", made.src / "link" / "file", made.src / "folder" / "file", made.src)
        made.mark()
    # A new owner, even the same one, changes this time.
    assert [path.stat().st_ctime_ns > time for path, time in zip(files, before, strict=True)] == [False, True, True]


def test_a_line_break_in_a_name_changes_no_other_file(over_ssh: Started) -> None:
    made = over_ssh.made
    odd, other = made.src / "other\nx", made.src / "other"
    for path in (odd, other):
        path.touch()
    os.chown(odd, 4242, 4242)
    owner = os.getuid()
    with over_ssh.running(made.src):
        made.ask("watch")
        made.ask("change", odd)
        made.mark()
    assert (other.stat().st_uid, odd.stat().st_uid) == (owner, 4242)


def test_a_failing_inotifywait_ends_the_script_with_its_reason(over_ssh: Started) -> None:
    """Without reports of its own changes, a container would get events for them."""
    made = over_ssh.made
    programs = made.folder / "programs"
    programs.mkdir()
    (programs / "inotifywait").write_text("#!/bin/sh\necho 'no more watches' >&2\nexit 1\n")
    (programs / "inotifywait").chmod(0o755)
    over_ssh.path = f"{programs}:{over_ssh.path}"
    with over_ssh.running(made.src):
        made.ask("keep", made.src)
        made.ask("watch")
        assert made.process.wait(SECONDS) == 1
        assert made.process.stderr
        assert made.process.stderr.read().decode().splitlines()[-1] == "no more watches"
