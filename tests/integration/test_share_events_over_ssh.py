"""Inotify events for changes in folders that are mounted over SSH, with the guest's script on this host.

The engine is a folder as containerd makes it. The programs are real: OpenSSH's client, sshfs, and Debian's inotifywait.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files as resources
from pathlib import Path

import pytest

from pymachine.driver.shares import Share, ShareEvents
from pymachine.hosts import ssh_shares
from pymachine.ssh import share_events
from pymachine.ssh.reverse_sshfs import background
from pymachine.ssh.share_events import Events
from pymachine.ssh.target import Target
from pymachine.system.wait import until
from support import loopback_machines, packages
from support.loopback_machines import World, inside

SECONDS = 300.0
SCRIPT = resources("pymachine.image") / "rootfs/root/usr/lib/pymachine/share-events"
TRAP = 'X="type":"bind","source":"/etc"'
# A system without udev may have no /dev/fd.
WITHOUT_DEV_FD = """
touch "$1/null" && mount --bind /dev/null "$1/null" && mount -t tmpfs dev /dev || exit
touch /dev/null && mount --bind "$1/null" /dev/null || exit
exec bash -c "$2" share-events stdio
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with loopback_machines.running(tmp_path) as made:
        yield made


@pytest.fixture
def inotifywait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Debian's inotifywait with the C library of its package, also in the machine's PATH."""
    root, program = tmp_path / "inotify", tmp_path / "bin" / "inotifywait"
    with tarfile.open(packages.archive("inotify-tools")) as archive:
        archive.extractall(root, filter="fully_trusted")
    loader = next(iter(root.glob("usr/lib/*/ld-linux-*.so.*")))
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {loader} --library-path {loader.parent} {root}/usr/bin/inotifywait "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


class Engine:
    """The folders in which containerd describes its containers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tasks = folder / "daemon/io.containerd.runtime.v2.task/moby"
        folder.mkdir()

    def start(self) -> None:
        """Listen at the socket."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.folder / "containerd.sock"))

    def run(self, name: str, *sources: object) -> None:
        """Describe a container that mounts folders."""
        binds = [{"destination": f"/{n}", "type": "bind", "source": str(s)} for n, s in enumerate(sources)]
        mounts = [{"destination": "/proc", "type": "proc", "source": "proc"}, *binds]
        text = json.dumps({"process": {"env": [TRAP]}, "mounts": mounts}, separators=(",", ":"), ensure_ascii=False)
        (self._tasks / name).mkdir(parents=True)
        (self._tasks / name / "config.json").write_text(text.replace("&", "\\u0026"))

    def end(self, name: str) -> None:
        """Remove a container."""
        shutil.rmtree(self._tasks / name)


@dataclass
class Setting:
    """A machine with events."""

    engine: Engine
    events: Events
    log: list[str] = field(default_factory=list)

    def await_log(self, text: str) -> None:
        until(lambda: any(text in line for line in self.log), deadline=SECONDS, what=f"{text!r} in {self.log}")


@pytest.fixture
def start(world: World, inotifywait: Path) -> Iterator[Callable[..., Setting]]:
    """A function that mounts shares and raises events in them."""
    started: list[Events] = []

    def begin(*shares: Share, left_out: tuple[str, ...] = (), over_sshfs: bool = True) -> Setting:
        engine = Engine(world.folder / "run")
        engine.start()
        host = world.machine("far", *shares)
        if over_sshfs:
            ssh_shares.mount(host)
        log: list[str] = []
        target = lambda: host.target(host.driver.endpoint())  # noqa: E731
        events = Events(target=target, script=SCRIPT.read_text(), say=log.append, run_folders=[str(engine.folder)])
        started.append(events)
        events.follow(shares, ShareEvents(left_out), over_sshfs=over_sshfs)
        return Setting(engine, events, log)

    yield begin
    for events in started:
        events.follow((), None)


@pytest.fixture
def watch(inotifywait: Path, tmp_path: Path) -> Iterator[Callable[[Path], Callable[[], list[str]]]]:
    """A function that watches a folder, and returns one that returns the events."""
    running = []

    def begin(folder: Path) -> Callable[[], list[str]]:
        output = tmp_path / "events"
        with output.open("wb") as file:
            argv: list[str | Path] = [inotifywait, "-m", "--format", "%e %f", folder]
            running.append(subprocess.Popen(argv, stdout=file, stderr=file))
        until(lambda: "established" in output.read_text(), deadline=SECONDS, what="inotifywait")
        return lambda: [line for line in output.read_text().splitlines() if "." not in line]

    yield begin
    for process in running:
        process.kill()
        process.wait()


def await_event(events: Callable[[], list[str]], wanted: str) -> list[str]:
    until(lambda: wanted in events(), deadline=SECONDS, what=f"{wanted} in {events()}")
    return events()


@pytest.mark.parametrize("read_only", [False, True])
def test_changes_on_this_host_raise_events(
    world: World,
    start: Callable[..., Setting],
    watch: Callable[[Path], Callable[[], list[str]]],
    read_only: bool,
) -> None:
    share = world.share('two & "two", \\', read_only=read_only)
    setting = start(share)
    setting.engine.run("one", "/var/lib/x/hosts", share.guest_path)
    setting.await_log(f"watching {share.path}")
    events = watch(Path(share.guest_path))
    (share.path / "new").write_text("x")
    await_event(events, "ATTRIB new")
    (share.path / "file").write_text("changed")
    await_event(events, "ATTRIB file")
    (share.path / "file").rename(share.path / "moved")
    await_event(events, "ATTRIB moved")
    folder_events = [event for event in events() if event.startswith("ATTRIB,ISDIR")]
    (share.path / "new").unlink()
    until(
        lambda: len([event for event in events() if event.startswith("ATTRIB,ISDIR")]) > len(folder_events),
        deadline=SECONDS,
        what="an event for the removal",
    )
    setting.engine.end("one")
    setting.await_log("watching nothing")
    if read_only:
        with pytest.raises(OSError, match="Read-only file system"):
            inside(share, "moved").write_text("x")


@pytest.mark.parametrize("read_only", [False, True])
def test_changes_raise_events_in_folders_that_the_hypervisor_mounts(
    world: World,
    start: Callable[..., Setting],
    watch: Callable[[Path], Callable[[], list[str]]],
    read_only: bool,
) -> None:
    """The machine's file system is a copy of the folder. A named pipe of the host's is a plain file in it."""
    share = world.share("source", read_only=read_only)
    copy, point = world.folder / "copy", Path(share.guest_path)
    copy.mkdir()
    point.mkdir(parents=True)
    for name in ("file", "pipe"):
        (copy / name).touch()
    subprocess.run(["mount", "--bind", copy, point], check=True)
    if read_only:
        subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
    setting = start(share, over_sshfs=False)
    setting.engine.run("one", share.guest_path)
    setting.await_log(f"watching {share.path}")
    events = watch(point)
    os.mkfifo(share.path / "pipe")
    (share.path / "file").write_text("changed")
    await_event(events, "ATTRIB file")
    assert "ATTRIB pipe" not in events()
    # Else the kernel may forget the inode that is watched.
    until(lambda: is_open(point), deadline=SECONDS, what="the folder to be kept open")
    setting.engine.end("one")
    until(lambda: not is_open(point), deadline=SECONDS, what="the folder to be closed")


@pytest.mark.parametrize("digest", ["0" * 64, ""])
def test_the_keeper_raises_events_if_the_driver_mounts_the_folders(
    world: World, inotifywait: Path, digest: str
) -> None:
    share = world.share("source")
    host = world.machine("box", share, driver_name="virtualbox", FixedAddress=True, ImageDigest=digest)
    ssh_shares.mount(host)
    if not digest:  # boot2docker's image lacks the programs
        assert background.find(host.directory) == 0
        return
    log = host.directory / "shares.log"
    until(lambda: "ready to raise events" in log.read_text(), deadline=SECONDS, what="the connection")
    assert ssh_shares.problem(host.directory, share) == ""
    ssh_shares.mount(host)
    pid = background.find(host.directory)
    assert pid
    # It takes over that no events are wanted any more.
    host.record.share_events = False
    host.save()
    until(lambda: background.find(host.directory) == 0, deadline=SECONDS, what="the keeper to end")
    ssh_shares.mount(host)
    assert background.find(host.directory) == 0


def test_a_change_of_the_machine_raises_no_second_event(
    world: World, start: Callable[..., Setting], watch: Callable[[Path], Callable[[], list[str]]]
) -> None:
    share = world.share("source")
    setting = start(share)
    setting.engine.run("one", share.guest_path)
    setting.await_log("watching /")
    (share.path / "first").write_text("x")
    events = watch(Path(share.guest_path))
    (share.path / "second").write_text("x")
    await_event(events, "ATTRIB second")
    inside(share, "own").write_text("x")
    # When the host's change has arrived, so has every earlier one.
    (share.path / "third").write_text("x")
    found = await_event(events, "ATTRIB third")
    assert "CREATE own" in found
    assert "ATTRIB own" not in found


def test_the_connection_is_made_again(
    world: World, start: Callable[..., Setting], watch: Callable[[Path], Callable[[], list[str]]]
) -> None:
    share, other = world.share("source"), world.share("other")
    setting = start(share, other)
    setting.engine.run("one", share.guest_path)
    setting.await_log(f"watching {share.path}")
    setting.log.clear()
    world.server.break_connections()
    setting.await_log(f"watching {share.path}")
    loopback_machines.await_mount(share, "source")
    # With other shares, too.
    setting.log.clear()
    setting.events.follow([share], ShareEvents((".git",)))
    setting.await_log(f"watching {share.path}")
    events = watch(Path(share.guest_path))
    (share.path / "late").write_text("x")
    await_event(events, "ATTRIB late")


def test_nothing_remains_in_the_machine(world: World, start: Callable[..., Setting]) -> None:
    share = world.share("source")
    setting = start(share)
    setting.engine.run("one", share.guest_path)
    setting.await_log("watching /")
    marks = next(word for word in commands() if b"share-events-" in word)
    folder = Path(marks.split(b"MARKS=")[1].split(b"\n")[0].decode())
    assert folder.is_dir()
    setting.events.follow((), None)
    until(lambda: not folder.exists(), deadline=SECONDS, what="the folder of marks to be removed")
    until(lambda: not any(bytes(folder) in word for word in commands()), deadline=SECONDS, what="the programs to end")


def test_a_machine_without_inotifywait_raises_no_events(
    world: World, start: Callable[..., Setting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share_events, "_CHECK", share_events._CHECK.replace("inotifywait", "no-such-program"))
    setting = start(world.share("source"))
    setting.await_log("no events for changes in the shared folders: no-such-program is not installed")


def test_a_new_mount_is_watched_anew(world: World, start: Callable[..., Setting]) -> None:
    """The watches of the machine are on the files of the earlier mount."""
    share = world.share("source")
    setting = start(share)
    setting.await_log("ready to raise events")
    setting.events.follow([share], ShareEvents(()), mounts=1)

    def is_connected_again() -> bool:
        return sum("ready to raise events" in line for line in setting.log) == 2

    until(is_connected_again, deadline=SECONDS, what="another connection")


def test_a_fault_does_not_end_the_events(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    def fail(*_: object, **__: object) -> None:
        raise ValueError(f"fault {len(log) + 1}")

    def find_target() -> Target:
        raise AssertionError("without a connection, nobody logs in")

    monkeypatch.setattr(share_events, "_Connection", fail)
    with Events(target=find_target, script="", say=log.append) as events:
        events.follow([world.share("source")], ShareEvents(()))
        for number in (1, 2):
            fault = f"fault {number}"
            until(lambda: any(fault in line for line in log), deadline=SECONDS, what=fault)  # noqa: B023


def test_the_script_works_without_dev_fd(inotifywait: Path, tmp_path: Path) -> None:
    script = f"MARKS={tmp_path}/marks\nRUN_FOLDERS={tmp_path}\n{SCRIPT.read_text()}"
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    argv = ["unshare", *user, "--mount", "--propagation", "private", "sh", "-c", WITHOUT_DEV_FD, "sh", str(tmp_path)]
    pipe = subprocess.PIPE
    # The script ends its process group.
    with subprocess.Popen([*argv, script], stdin=pipe, stdout=pipe, text=True, start_new_session=True) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("watch 0\nmark 0\n")
        process.stdin.flush()
        assert any(line.startswith("event CREATE") and "marks/sync" in line for line in process.stdout)
        process.stdin.close()
        process.wait(SECONDS)


def is_open(folder: Path) -> bool:
    """Return whether a process has a folder open, except for as its working folder."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == folder:
                return True
        except OSError:
            continue
    return False


def commands() -> list[bytes]:
    """Return the words of all command lines."""
    found: list[bytes] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found += (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
    return found
