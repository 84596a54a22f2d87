"""Events for changes in shared folders: the real `watchfiles` on real folders, and a guest that the test plays."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.driver.contract import BootRequest
from pymachine.driver.kit.listen_address import ListenAddress
from pymachine.driver.kit.share_events import follower as follower_module
from pymachine.driver.kit.share_events.follower import Follower
from pymachine.driver.kit.share_events.host_changes import HostChange, Watcher, files_in, folders_in, opened
from pymachine.driver.kit.share_events.messages import Folders, GuestEvent, Mark, Reports, Word, message, parse
from pymachine.driver.kit.share_events.own_changes import OwnChanges
from pymachine.driver.shares import ShareEvents
from pymachine.system.wait import until
from pymachine_driver_qemu import background, share_events
from support import processes
from support.share_guest import SECONDS, SYNC, Guest, followed, share

# -- messages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "report"),
    [
        (b'folders ["/src","/a/../b//c/","x"]', Folders(("/src", "/b/c"))),
        (b"folders []", Folders(())),
        (b'folders ["/caf\xc3\xa9\\n", "/\\udcff"]', Folders(("/café\n", "/\udcff"))),
        (b"event CREATE,ISDIR /src/new/", GuestEvent(frozenset({"CREATE", "ISDIR"}), "/src/new")),
        (b"event MODIFY /" + b"x" * 5000, None),
        (b"event MODIFY /src/a b\xff", GuestEvent(frozenset({"MODIFY"}), "/src/a b\udcff")),
        (f"event CLOSE_WRITE,CLOSE {SYNC}".encode(), Mark.SYNC),
        (b"event CLOSE_WRITE,CLOSE /run/pymachine/share-events/begin", Mark.BEGIN),
        (b"event CLOSE_WRITE,CLOSE /run/pymachine/share-events/end", Mark.END),
        (f"event CREATE {SYNC}".encode(), None),
        (b"event CLOSE_WRITE /run/pymachine/share-events/other", None),
        (b"event MODIFY src/a", None),
        (b"event MODIFY", None),
        (b"event", None),
        (b"", None),
        (b"Watches established.", None),
        (b"folders", None),
        (b"folders {}", None),
        (b'folders "/src"', None),
        (b'folders ["/src", ["/src"]]', None),
        (b"folders [1]", None),
        (b"folders [" + b"9" * 5000 + b"]", None),
        (b"folders " + b"[" * 100_000, None),
        (b'folders ["/a\\u0000b", "/\\ud800", "/src"]', Folders(("/src",))),
        (json.dumps([f"/{number}" for number in range(300)]).encode().join((b"folders ", b"")), None),
    ],
    # Not of the report: a set has another order in each process of the tests.
    ids=lambda value: value.decode(errors="replace") if isinstance(value, bytes) else "",
)
def test_lines_of_a_guest(line: bytes, report: object) -> None:
    found = parse(line)
    if line.count(b"/") == 300:
        assert isinstance(found, Folders)
        assert len(found.paths) == 256
    else:
        assert found == report


def test_reports_come_in_pieces_and_overlong_lines_are_left_out() -> None:
    reports = Reports()
    assert reports.feed(b"event MODIFY /a\nev") == [GuestEvent(frozenset({"MODIFY"}), "/a")]
    assert reports.feed(b"ent MODIFY /b") == []
    assert reports.feed(b"\n") == [GuestEvent(frozenset({"MODIFY"}), "/b")]
    for _ in range(100):
        assert reports.feed(b"event MODIFY /" + b"x" * 65536) == []
    assert reports.feed(b"event MODIFY /c\nevent MODIFY /d\n") == [GuestEvent(frozenset({"MODIFY"}), "/d")]


def test_messages_have_a_limited_number_of_paths() -> None:
    assert list(message(Word.MARK)) == [b"mark 0\n"]
    assert list(message(Word.CHANGE, ["/a\nb", "/\udcff"])) == [b"change 8\n/a\nb\0/\xff\0"]
    sent = list(message(Word.KEEP, [f"/{number}" for number in range(1200)]))
    assert [data.count(b"\0") for data in sent] == [500, 500, 200]


# -- the guest's own changes -------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def event(kinds: str, path: str) -> GuestEvent:
    return GuestEvent(frozenset(kinds.split(",")), path)


def test_a_change_that_the_guest_reports_is_its_own_for_a_while() -> None:
    clock = Clock()
    own = OwnChanges(clock)
    own.note(event("MODIFY", "/src/a"))
    own.note(event("CLOSE_WRITE,CLOSE", "/src/b"))
    assert [own.made(path) for path in ("/src/a", "/src/b", "/src")] == [True, False, False]
    clock.seconds += 0.7
    assert not own.made("/src/a")
    own.note(event("MODIFY", "/src/a"))
    clock.seconds += 1.6
    assert not own.made("/src/a")


def test_a_long_write_of_the_guest_stays_its_own() -> None:
    clock = Clock()
    own = OwnChanges(clock)
    own.note(event("MODIFY", "/src/a"))
    for _ in range(20):
        clock.seconds += 0.5
        assert own.made("/src/a")
    clock.seconds += 0.7
    assert not own.made("/src/a")


def test_all_in_a_new_folder_is_the_guests_until_it_is_watched() -> None:
    clock = Clock()
    own = OwnChanges(clock)
    own.note(event("CREATE,ISDIR", "/src/new"))
    clock.seconds += 20
    assert own.made("/src/new/deep/file")
    assert not own.made("/src/newer")
    own.watched("/src/new")
    assert own.made("/src/new/file")
    clock.seconds += 1.6
    assert not own.made("/src/new/file")


def test_a_guest_that_reports_without_end_uses_limited_memory() -> None:
    own = OwnChanges(Clock())
    for number in range(20_100):
        own.note(event("CREATE,ISDIR", f"/src/{number}"))
    assert not own.made("/src/0")
    assert own.made("/src/20099")


# -- folders of the host -----------------------------------------------------------------------------------------


def test_folders_are_found_nearest_first_without_those_left_out(tmp_path: Path) -> None:
    for name in ("a/deep/er", "b", ".git/objects", "a/node_modules/x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to("/etc")
    root = str(tmp_path)
    found = folders_in(root, left_out={".git", "node_modules"})
    assert found == [root, f"{root}/a", f"{root}/b", f"{root}/a/deep", f"{root}/a/deep/er"]
    assert folders_in(root, left_out={".git"}, most=2) == [root, f"{root}/a"]
    assert folders_in(f"{root}/gone", left_out=()) == []
    assert (files_in(root), files_in(f"{root}/gone")) == ([".git", "a", "b", "link"], [])


def test_symbolic_links_are_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "in").mkdir(parents=True)
    share = tmp_path / "share"
    share.mkdir()
    (share / "link").symlink_to(outside)
    for path in (f"{share}/link", f"{share}/link/in"):
        assert (folders_in(path, left_out=()), files_in(path)) == ([], [])
        with pytest.raises(OSError), opened(path):
            pass


@pytest.fixture
def changes(tmp_path: Path) -> Iterator[list[HostChange]]:
    """The changes in the folders `here` and `there`, where `there` became a symbolic link to `outside`."""
    for name in ("here", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "there").symlink_to("outside")
    found: list[HostChange] = []
    watcher = Watcher([str(tmp_path / "here"), str(tmp_path / "there")], found.extend)
    yield found
    watcher.end()


def test_nothing_behind_a_symbolic_link_is_watched(tmp_path: Path, changes: list[HostChange]) -> None:
    (tmp_path / "outside" / "secret").touch()
    (tmp_path / "there" / "secret too").touch()
    (tmp_path / "here" / "last").touch()
    until(lambda: changes, deadline=SECONDS, what="a change")
    assert {change.path for change in changes} == {str(tmp_path / "here" / "last")}


def test_a_watcher_survives_names_that_are_not_utf_8(tmp_path: Path, changes: list[HostChange]) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/here/\xff", os.O_CREAT | os.O_WRONLY))

    def is_seen() -> bool:
        (tmp_path / "here" / "good\n").touch()
        return any(change.path.endswith("/good\n") for change in changes)

    until(is_seen, deadline=SECONDS, what="a later change")


def test_a_watcher_passes_on_what_it_has_collected_when_it_ends(tmp_path: Path) -> None:
    found: list[HostChange] = []
    watcher = Watcher([str(tmp_path)], found.extend)
    (tmp_path / "last").touch()
    watcher.end()
    until(lambda: found, deadline=SECONDS, what="the last change")
    assert found == [HostChange(str(tmp_path / "last"), is_new=True)]


# -- one guest ---------------------------------------------------------------------------------------------------


@pytest.fixture
def src(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "src"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "file").write_text("before")
    return folder


@pytest.fixture
def guest(src: Path) -> Iterator[Guest]:
    """A guest whose containers mount the shared folder `src`, as /src."""
    with followed([share(src, "/src")], left_out=[".git"]) as (guest, _, _):
        guest.mount("/src")
        guest.wait_for_folders("/src", "/src/sub")
        yield guest


def test_the_guest_hears_of_changes_on_the_host(guest: Guest, src: Path) -> None:
    assert guest.asked[0] == ("hello", ())
    (src / "file").write_text("after")
    guest.wait_for_change("/src/file")
    (src / "sub" / "new\nname").touch()
    guest.wait_for_change("/src/sub/new\nname")
    (src / "file").rename(src / "sub" / "moved")
    guest.wait_for_change("/src/sub/moved")
    guest.wait_for_change("/src")
    (src / "sub" / "moved").unlink()
    guest.wait_for_change("/src/sub")


def test_a_new_folder_is_watched_with_all_that_it_has(guest: Guest, src: Path) -> None:
    (src / "new" / "deep").mkdir(parents=True)
    (src / "new" / "deep" / "file").touch()
    guest.wait_for_change("/src/new/deep/file")
    guest.wait(lambda: {"/src/new", "/src/new/deep"} <= guest.kept(), "the new folders")
    assert "/src/new" in guest.paths("change")
    (src / "new" / "deep" / "later").touch()
    guest.wait_for_change("/src/new/deep/later")


def test_a_removed_folder_is_released_and_watched_again_if_it_comes_back(guest: Guest, src: Path) -> None:
    (src / "sub").rmdir()
    guest.wait_for_folders("/src")
    (src / "sub").mkdir()
    guest.wait_for_folders("/src", "/src/sub")
    # Without a pause, both changes come at once.
    for name in ("first", "second", "third"):
        before = guest.paths("release").count("/src/sub")
        for path in (src / "sub").iterdir():
            path.unlink()
        (src / "sub").rmdir()
        (src / "sub").mkdir()
        guest.wait(lambda: guest.paths("release").count("/src/sub") > before, "the earlier folder's release")  # noqa: B023
        guest.wait(lambda: "/src/sub" in guest.kept(), "the new folder")
        (src / "sub" / name).touch()
        guest.wait_for_change(f"/src/sub/{name}")


def test_a_renamed_folder_is_watched_by_its_new_name(guest: Guest, src: Path) -> None:
    (src / "sub" / "deep").mkdir()
    guest.wait_for_folders("/src", "/src/sub", "/src/sub/deep")
    (src / "sub").rename(src / "renamed")
    guest.wait(lambda: guest.kept() == {"/src", "/src/renamed", "/src/renamed/deep"}, "the new names")
    (src / "renamed" / "deep" / "file").touch()
    guest.wait_for_change("/src/renamed/deep/file")


def test_folders_left_out_raise_no_events(guest: Guest, src: Path) -> None:
    (src / ".git" / "index").touch()
    (src / "sub" / ".git").mkdir()
    (src / "sub" / ".git" / "index").touch()
    (src / "last").touch()
    guest.wait_for_change("/src/last")
    assert not [path for _, paths in guest.asked for path in paths if ".git" in path]


def test_the_guests_own_changes_come_back_to_it_only_if_the_host_changes_them_later(guest: Guest, src: Path) -> None:
    guest.before_mark = [b"event MODIFY /src/file"]
    (src / "file").write_text("by the guest")
    guest.wait(lambda: not guest.before_mark, "the question for own changes")
    (src / "other").touch()
    guest.wait_for_change("/src/other")
    assert "/src/file" not in guest.paths("change")

    def is_told() -> bool:
        (src / "file").touch()
        return "/src/file" in guest.paths("change")

    # Touched without a pause it would be a long write.
    until(is_told, deadline=SECONDS, what="the host's later change", interval=2.0, longest=2.0)


def test_a_folder_that_the_guest_made_is_watched_but_raises_no_event(guest: Guest, src: Path) -> None:
    guest.before_mark = [b"event CREATE,ISDIR /src/new"]
    (src / "new" / "deep").mkdir(parents=True)
    (src / "new" / "deep" / "file").touch()
    guest.wait(lambda: "/src/new/deep" in guest.kept(), "the new folder")
    (src / "other").touch()
    guest.wait_for_change("/src/other")
    assert [path for path in guest.paths("change") if path.startswith("/src/new")] == []


def test_attributes_between_the_marks_are_the_events_that_the_host_asked_for(guest: Guest, src: Path) -> None:
    marks = "/run/pymachine/share-events"
    guest.before_mark = [
        f"event CLOSE_WRITE,CLOSE {marks}/begin".encode(),
        b"event ATTRIB /src/file",
        b"event MODIFY /src/sub/own",
        f"event CLOSE_WRITE,CLOSE {marks}/end".encode(),
        b"event ATTRIB /src/own",
    ]
    for name in ("sub/own", "own", "file"):
        (src / name).touch()
    guest.wait_for_change("/src/file")
    (src / "other").touch()
    guest.wait_for_change("/src/other")
    assert not {"/src/sub/own", "/src/own"} & set(guest.paths("change"))


def test_a_mark_that_never_comes_delays_events_only(src: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "_MARK_SECONDS", 0.1)
    with followed([share(src, "/src")], answers=False) as (guest, _, _):
        guest.mount("/src")
        guest.wait(lambda: ("watch", ()) in guest.asked, "the watch")
        (src / "file").write_text("after")
        guest.wait_for_change("/src/file")


def test_after_many_changes_only_their_folders_get_events(
    guest: Guest, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "_MOST_CHANGES", 2)
    (src / "new").mkdir()
    for number in range(20):
        (src / "sub" / str(number)).touch()
        (src / "new" / str(number)).touch()
    guest.wait_for_change("/src/sub")


def test_a_guest_that_restarts_gets_all_folders_again(guest: Guest, src: Path) -> None:
    guest.mount()
    guest.wait(lambda: not guest.kept(), "the folders to be released")
    del guest.asked[:]
    guest.mount("/src/sub")
    guest.wait_for_folders("/src/sub")
    (src / "unwatched").touch()
    (src / "sub" / "file").touch()
    guest.wait_for_change("/src/sub/file")
    assert "/src/unwatched" not in guest.paths("change")


def test_a_folder_that_is_shared_at_two_paths_raises_events_at_both(src: Path) -> None:
    with followed([share(src, "/one"), share(src, "/two")]) as (guest, _, _):
        guest.mount("/one", "/two")
        guest.wait_for_folders("/one", "/one/sub", "/one/.git", "/two", "/two/sub", "/two/.git")
        (src / "sub" / "file").touch()
        guest.wait_for_change("/one/sub/file")
        guest.wait_for_change("/two/sub/file")
        # Programs at the other path do not see the changes that the guest makes at this one.
        guest.before_mark = [b"event MODIFY /one/file"]
        (src / "file").write_text("by the guest")
        guest.wait_for_change("/two/file")
        assert "/one/file" not in guest.paths("change")
        (src / "sub" / "file").unlink()
        (src / "sub").rmdir()
        guest.wait(lambda: not guest.kept() & {"/one/sub", "/two/sub"}, "the removed folder's release")


def test_a_folder_that_another_share_hides_in_the_guest_is_not_watched(tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    for folder in (outer / "project", inner):
        folder.mkdir(parents=True)
    with followed([share(inner, "/home/project"), share(outer, "/home")]) as (guest, _, _):
        guest.mount("/home")
        guest.wait_for_folders("/home", "/home/project")
        (outer / "project" / "hidden").touch()
        (inner / "file").touch()
        guest.wait_for_change("/home/project/file")
        (outer / "last").touch()
        guest.wait_for_change("/home/last")
        assert "/home/project/hidden" not in guest.paths("change")


@pytest.mark.parametrize("mounted", ["/", "/home", "/home/me", "/home/me/project/inner/deep", "/home/me/project/inner"])
def test_the_deepest_share_decides_the_path_in_the_guest(tmp_path: Path, mounted: str) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    (outer / "project" / "inner" / "deep").mkdir(parents=True)
    (inner / "deep").mkdir(parents=True)
    shares = [share(outer, "/home/me"), share(inner, "/home/me/project/inner")]
    with followed(shares) as (guest, _, _):
        guest.mount(mounted)
        guest.wait(lambda: "/home/me/project/inner/deep" in guest.kept() and ("watch", ()) in guest.asked, "folders")
        (inner / "deep" / "file").touch()
        guest.wait_for_change("/home/me/project/inner/deep/file")


def test_a_share_at_a_link_is_watched_where_the_link_leads(tmp_path: Path, src: Path) -> None:
    (tmp_path / "link").symlink_to("src")
    with followed([share(tmp_path / "link", "/here")]) as (guest, _, _):
        guest.mount("/here/sub")
        guest.wait_for_folders("/here/sub")
        (src / "sub" / "file").touch()
        guest.wait_for_change("/here/sub/file")


def test_only_a_limited_number_of_folders_is_watched(src: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "MOST_FOLDERS", 3)
    for number in range(10):
        (src / "sub" / str(number)).mkdir()
    with followed([share(src, "/src")], left_out=[".git"]) as (guest, _, said):
        guest.mount("/src")
        guest.wait_for_folders("/src", "/src/sub", "/src/sub/0")
        until(lambda: any("only the 3 nearest folders" in line for line in said), deadline=SECONDS, what="the log")
        (src / "sub" / "new").mkdir()
        guest.wait_for_change("/src/sub/new")
        assert guest.kept() == {"/src", "/src/sub", "/src/sub/0"}


def test_changes_of_owner_by_the_guest_raise_no_other_event(guest: Guest, src: Path) -> None:
    """Where QEMU's system calls are not filtered, the host sees by what the guest raises an event."""
    (src / "file").write_text("1")
    guest.wait_for_change("/src/file")
    os.chown(src / "file", os.getuid(), os.getgid())
    (src / "other").write_text("1")
    guest.wait_for_change("/src/other")
    assert guest.paths("change").count("/src/file") == 1
    (src / "file").write_text("changed")
    guest.wait(lambda: guest.paths("change").count("/src/file") == 2, "the next event")


# -- hostile guests ----------------------------------------------------------------------------------------------


def test_lines_that_are_no_reports_change_nothing(guest: Guest, src: Path) -> None:
    guest.send(
        b"x" * 400_000,
        b"folders {",
        b"folders " + b"[" * 50_000,
        b'folders [["/src"]]',
        b"event \xff\xfe",
        b"event MODIFY /src/../../etc/passwd",
        b"event ISDIR,CREATE /" + b"y/" * 1000,
    )
    (src / "file").write_text("after")
    guest.wait_for_change("/src/file")
    assert guest.kept() == {"/src", "/src/sub"}


@pytest.mark.parametrize(
    "path",
    [
        "/src/../etc",
        "/etc",
        "/srcs",
        "/src/out",
        "/src/out/in",
        "/src/file",
        "/src/gone",
        "//src",
        "/src/\0",
    ],
)
def test_nothing_outside_of_the_shares_is_watched(tmp_path: Path, src: Path, path: str) -> None:
    outside = tmp_path / "outside"
    (outside / "in").mkdir(parents=True)
    (src / "out").symlink_to(outside)
    with followed([share(src, "/src"), share(src / "sub", "/other")]) as (guest, _, _):
        guest.mount(path, "/other", f"/src/{'x' * 5000}")
        guest.wait(lambda: ("watch", ()) in guest.asked, "the watch")
        assert guest.kept() == {"/other"}
        (outside / "secret").touch()
        (outside / "in" / "secret").touch()
        (src / "sub" / "file").touch()
        guest.wait(lambda: any(path.endswith("/file") for path in guest.paths("change")), "the event")
        assert not [path for _, paths in guest.asked for path in paths if "secret" in path or "out" in path.split("/")]


def test_a_guest_cannot_fill_the_log(tmp_path: Path, src: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "_MOST_LINES", 3)
    with followed([share(src, "/src")]) as (guest, _, said):
        for _ in range(5):
            guest.mount("/src")
            guest.mount()
        guest.mount("/src")
        guest.wait(lambda: guest.paths("keep").count("/src") == 6, "the last report")
        (src / "new").write_text("1")
        guest.wait_for_change("/src/new")
    assert len(said) == 3


def test_a_folder_that_becomes_a_link_is_not_watched(guest: Guest, tmp_path: Path, src: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "secret folder").mkdir(parents=True)
    (src / "sub").rename(src / "moved")
    (src / "sub").symlink_to(outside)
    guest.wait(lambda: guest.kept() == {"/src", "/src/moved"}, "the moved folder")
    (outside / "secret").touch()
    (src / "moved" / "file").touch()
    guest.wait_for_change("/src/moved/file")
    assert not [path for _, paths in guest.asked for path in paths if "secret" in path or path.startswith("/src/sub/")]


# -- the process of QEMU's driver --------------------------------------------------------------------------------


def test_the_process_is_started_only_for_machines_that_want_events(
    tmp_path: Path, src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is a script here, and the shell that waits for the guest's first line is the real one."""
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\necho "$*" > "$4/ran"\n')
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    machine = tmp_path / "machine"
    machine.mkdir()
    settings = machine / background.SHARES.settings
    shares, events = (share(src, "/src"),), ShareEvents(("node_modules",))
    for wanted in (True, False):
        request = BootRequest(
            identity=lambda endpoint: b"", shares=shares, share_events=events if wanted else None, image=None
        )
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                background.follow_shares(machine, request, reports=theirs)
            assert settings.exists() == wanted
            if wanted:
                expected = {"shares": [[str(src), "/src"]], "left_out": ["node_modules"]}
                assert json.loads(settings.read_text()) == expected
                ours.sendall(b"folders []\n")
                until((machine / "ran").exists, deadline=SECONDS, what="the process")
                ours.shutdown(socket.SHUT_WR)
            # The other end is closed, by the shell if it was started.
            ours.settimeout(SECONDS)
            assert ours.recv(1) == b""


@pytest.mark.parametrize("ended", [True, False])
def test_a_process_that_has_ended_is_started_again_if_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    prefix = "disconnected:" if ended else ""
    started: list[str] = []

    labels = (background.PORTS.chardev, background.SHARES.chardev)
    devices = [{"label": label, "filename": f"{prefix}unix:{label}"} for label in labels]
    listen = ListenAddress("127.0.0.1", 2376, 22022)
    monkeypatch.setattr(background, "connect", lambda sockets, program: socket.socket())
    monkeypatch.setattr(background, "start", lambda folder, program, *, reports: started.append(program.module))
    background.start_missing(tmp_path, tmp_path, devices, listen)
    assert started == ([background.PORTS.module] if ended else [])
    (tmp_path / background.SHARES.settings).touch()
    background.start_missing(tmp_path, tmp_path, devices, listen)
    assert started[1:] == ([background.PORTS.module, background.SHARES.module] if ended else [])


def test_the_shell_ends_with_the_guest_also_if_its_program_always_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_WAIT", background._WAIT.replace("sleep 5", "sleep 0"))
    monkeypatch.setattr("sys.executable", str(tmp_path / "missing"))
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            background.start(tmp_path, background.SHARES, reports=theirs)
        ours.sendall(b"folders []\n")
        ours.shutdown(socket.SHUT_WR)
        ours.settimeout(SECONDS)
        assert ours.recv(1) == b""


def test_a_file_that_a_file_server_must_not_open_raises_no_event(src: Path, tmp_path: Path) -> None:
    """VirtualBox opens a file to set its owner, and would wait for a writer of a named pipe."""
    with followed([share(src, "/src")], left_out=(".git",), only_plain_files=True) as (guest, _, _):
        guest.mount("/src")
        guest.wait_for_folders("/src", "/src/sub")
        os.mkfifo(src / "pipe")
        (src / "link").symlink_to("pipe")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(src / "socket"))
        (src / "file").touch()
        guest.wait_for_change("/src/file")
        (src / "sub" / "new").mkdir()
        guest.wait_for_change("/src/sub/new")
        assert not {"/src/pipe", "/src/link", "/src/socket"} & set(guest.paths("change"))


# -- the end -----------------------------------------------------------------------------------------------------


def test_the_process_ends_when_nothing_is_mounted_for_a_while(src: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        follower = Follower(
            [share(src, "/src")],
            left_out=(),
            incoming=number,
            outgoing=number,
            say=lambda line: None,
            idle_seconds=0.05,
        )
        follower.run()
        assert ours.recv(100) == b"hello 0\n"


def test_the_process_reads_its_settings_and_ends_with_the_guest(tmp_path: Path, src: Path) -> None:
    settings = background.share_settings([share(src, "/src")], ShareEvents((".git",)))
    (tmp_path / background.SHARES.settings).write_text(json.dumps(settings))
    ours, theirs = socket.socketpair()
    # More folders than a process may open by default are watched too.
    limited = ["/bin/sh", "-c", 'ulimit -S -n 64; exec "$@"', "sh"]
    argv = [*limited, sys.executable, "-P", "-m", background.SHARES.module, str(tmp_path)]
    for number in range(100):
        (src / "sub" / str(number)).mkdir()
    with ours, theirs, processes.started(argv, stdin=theirs) as process:
        theirs.close()
        guest = Guest(ours)
        guest.mount("/src")
        guest.wait_for_folders("/src", "/src/sub", *(f"/src/sub/{number}" for number in range(100)))
        (src / "sub" / "99" / "file").touch()
        guest.wait_for_change("/src/sub/99/file")
        ours.shutdown(socket.SHUT_RDWR)
        assert process.wait(SECONDS) == 0


def test_settings_that_are_missing_or_broken_end_the_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert share_events.main([str(tmp_path)]) == 0
    for text in ("{", "[]", '{"shares": [], "left_out": 1}', '{"shares": [1], "left_out": []}'):
        (tmp_path / background.SHARES.settings).write_text(text)
        assert share_events.main([str(tmp_path)]) == 1
        assert "ended by an error" in "".join(capfd.readouterr())
