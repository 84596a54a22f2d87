"""Shared folders over SSH: the keeper with OpenSSH's client, an SSH server on the loopback, and the real sshfs.

The machine is this host, so a folder's mount is a folder of this host, too.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from pymachine.driver.shares import Share
from pymachine.errors import UsageError
from pymachine.hosts import lifecycle, modify, remove, ssh_shares
from pymachine.hosts.host import Host
from pymachine.hosts.ssh_shares import ShareMountError
from pymachine.ssh.reverse_sshfs import background, status
from pymachine.ssh.reverse_sshfs.status import MountState
from pymachine.system.wait import until
from support import loopback_machines, processes
from support.loopback_machines import World, await_mount, inside, is_mounted

SECONDS = 300.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with loopback_machines.running(tmp_path) as made:
        yield made


def await_state(host: Host, share: Share, state: MountState) -> str:
    """Wait until the keeper has recorded the state of a share, and return the problem."""

    def found() -> list[str]:
        known = status.load(host.directory)
        entry = known.shares.get(str(share)) if known else None
        return [entry.problem] if entry and entry.state is state else []

    return until(found, deadline=SECONDS, what=f"{share} {state}")[0]


def log(host: Host) -> str:
    return (host.directory / "shares.log").read_text()


def sshfs_of(share: Share) -> int:
    """Return the process that has mounted a folder."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"sshfs") and os.fsencode(share.guest_path) in words:
            return int(entry.name)
    raise AssertionError(f"nothing has mounted {share}")


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, even if it has not been waited for."""
    try:
        return not (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


def children(pid: int) -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if processes.parent(int(entry.name)) == pid]


def test_a_folder_is_in_the_machine_with_the_hosts_owners_and_permissions(world: World) -> None:
    share = world.share("with blank, comma", read_only=False)
    host = world.machine("far", share)
    os.chown(share.path / "file", 12345, 54321)
    ssh_shares.mount(host)
    assert is_mounted(share)
    assert (inside(share).stat().st_uid, inside(share).stat().st_gid) == (12345, 54321)
    inside(share, "new").write_text("new")
    assert (share.path / "new").read_text() == "new"
    assert (share.path / "new").stat().st_uid == os.getuid()
    os.chown(inside(share, "new"), 1, 1)
    assert (share.path / "new").stat().st_uid == os.getuid()
    line = next(line for line in Path("/proc/self/mounts").read_text().splitlines() if "\\040blank" in line)
    for option in ("rw", "nosuid", "nodev", "default_permissions", "allow_other"):
        assert option in line.split()[3].split(",")
    (share.path / "link").symlink_to("/nowhere/../else")
    assert str(inside(share, "link").readlink()) == "/nowhere/../else"
    assert ssh_shares.end(host.directory)
    assert not is_mounted(share)
    assert background.find(host.directory) == 0
    assert not ssh_shares.end(host.directory)
    assert "mounted" in log(host)


def test_a_read_only_folder_cannot_be_changed(world: World) -> None:
    share = world.share("source", read_only=True)
    ssh_shares.mount(world.machine("far", share))
    with pytest.raises(OSError, match="Read-only file system"):
        inside(share).write_text("x")
    # The host refuses it, too.
    subprocess.run(["mount", "-o", "remount,rw", share.guest_path], check=False)
    with pytest.raises(OSError, match="denied|Read-only"):
        inside(share).write_text("x")
    assert (share.path / "file").read_text() == "source"


def test_a_lost_connection_is_made_again(world: World) -> None:
    share = world.share("source")
    host = world.machine("far", share)
    ssh_shares.mount(host)
    first = sshfs_of(share)
    world.server.break_connections()
    until(lambda: has_ended(first), deadline=SECONDS, what="the first sshfs to end")
    await_mount(share, "source")
    assert sshfs_of(share) != first
    assert "connecting" in log(host)


def test_an_sshfs_that_ended_is_started_again_and_its_stale_mount_is_removed(world: World) -> None:
    share = world.share("source")
    host = world.machine("far", share)
    ssh_shares.mount(host)
    first = sshfs_of(share)
    os.kill(first, signal.SIGKILL)
    await_mount(share, "source")
    assert sshfs_of(share) != first
    mounts = Path("/proc/self/mountinfo").read_text()
    assert mounts.count(f" {share.guest_path} ") == 1


def test_a_connection_that_hangs_is_replaced(world: World) -> None:
    """As after a connection that vanished: the old sshfs waits, and the new keeper's machine removes its mount."""
    share = world.share("source")
    host = world.machine("far", share)
    ssh_shares.mount(host)
    keeper, old = background.find(host.directory), sshfs_of(share)
    sessions = children(keeper)
    for pid in [keeper, *sessions]:
        os.kill(pid, signal.SIGSTOP)
    try:
        (host.directory / "shares.lock").rename(host.directory / "old.lock")
        ssh_shares.mount(host)
        assert inside(share).read_text() == "source"
        assert sshfs_of(share) != old
    finally:
        for pid in [keeper, *sessions]:
            os.kill(pid, signal.SIGKILL)


def test_a_killed_keeper_leaves_no_session_behind(world: World) -> None:
    share = world.share("source")
    host = world.machine("far", share)
    ssh_shares.mount(host)
    keeper = background.find(host.directory)
    session = min(children(keeper))  # the other one is ssh, which raises events
    os.kill(keeper, signal.SIGKILL)
    until(lambda: not is_mounted(share), deadline=SECONDS, what="the folder to be unmounted")
    until(lambda: background.find(host.directory) == 0, deadline=SECONDS, what="the keeper to end")
    until(lambda: has_ended(session), deadline=SECONDS, what="the session to end")
    ssh_shares.mount(host)
    assert inside(share).read_text() == "source"


def test_a_folder_that_vanishes_is_unmounted_and_mounted_again(world: World) -> None:
    gone, stays = world.share("gone"), world.share("stays")
    host = world.machine("far", gone, stays)
    ssh_shares.mount(host)
    gone.path.rename(gone.path.with_name("aside"))
    assert await_state(host, gone, MountState.MISSING) == "it does not exist"
    until(lambda: not is_mounted(gone), deadline=SECONDS, what="the folder to be unmounted")
    assert inside(stays).read_text() == "stays"
    world.share("gone")
    await_mount(gone, "gone")
    # A folder that was replaced between two looks at it is another one.
    shutil.rmtree(gone.path)
    world.share("gone")
    (gone.path / "file").write_text("another")
    await_mount(gone, "another")


def test_a_machine_is_mounted_without_a_folder_that_vanished(world: World) -> None:
    gone, stays = world.share("gone"), world.share("stays")
    host = world.machine("far", gone, stays)
    shutil.rmtree(gone.path)
    ssh_shares.mount(host)
    assert is_mounted(stays)
    assert not is_mounted(gone)


def test_a_folder_inside_of_another_one_is_mounted_after_it(world: World) -> None:
    outer, inner = world.share("outer"), world.share("inner", "outer/inner")
    (outer.path / "inner").mkdir()
    host = world.machine("far", inner, outer)
    ssh_shares.mount(host)
    assert (inside(outer).read_text(), inside(inner).read_text()) == ("outer", "inner")
    os.kill(sshfs_of(outer), signal.SIGKILL)
    await_mount(inner, "inner")
    await_mount(outer, "outer")
    assert inside(inner).read_text() == "inner"


def test_two_machines_share_one_folder(world: World) -> None:
    one = world.share("source", "one")
    two = world.share("source", "two", read_only=True)
    first, second = world.machine("first", one), world.machine("second", two)
    ssh_shares.mount(first)
    ssh_shares.mount(second)
    inside(one, "new").write_text("from the first")
    assert inside(two, "new").read_text() == "from the first"
    ssh_shares.end(first.directory)
    assert not is_mounted(one)
    assert inside(two, "new").read_text() == "from the first"
    # Neither takes the mount of the other.
    thief = world.machine("thief", world.share("other", "two"))
    with pytest.raises(ShareMountError, match=r"is a mount point already \(of pymachine-"):
        ssh_shares.mount(thief)
    assert inside(two).read_text() == "source"


def test_shares_of_a_running_machine_change_with_its_record(world: World) -> None:
    first, second = world.share("first"), world.share("second")
    host = world.machine("far", first)
    ssh_shares.mount(host)
    keeper, sshfs = background.find(host.directory), sshfs_of(first)
    host.record.shares.append(second)
    host.save()
    ssh_shares.mount(host)
    assert inside(second).read_text() == "second"
    assert (background.find(host.directory), sshfs_of(first)) == (keeper, sshfs)
    host.record.shares.remove(first)
    host.save()
    ssh_shares.mount(host)
    assert not is_mounted(first)
    assert inside(second).read_text() == "second"
    host.record.shares.clear()
    host.save()
    ssh_shares.mount(host)
    assert not is_mounted(second)
    assert background.find(host.directory) == 0


def test_modify_changes_the_shares_of_a_running_machine(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymachine.hosts.provision.apply", lambda _: None)
    monkeypatch.setattr("pymachine.hosts.context_updates.refresh", lambda _: None)
    monkeypatch.setattr(Host, "wait_for_engine", lambda _, seconds: None)
    first, second = world.share("first"), world.share("second")
    host = world.machine("far")
    modify.modify(world.hosts, "far", modify.Changes(share=[first, second]))
    assert (inside(first).read_text(), inside(second).read_text()) == ("first", "second")
    modify.modify(world.hosts, "far", modify.Changes(unshare=[str(first.path)]))
    assert not is_mounted(first)
    # A change that does not work is undone.
    taken = world.share("taken")
    Path(taken.guest_path).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "mine", taken.guest_path], check=True)
    with pytest.raises(ShareMountError, match="is a mount point already"):
        modify.modify(world.hosts, "far", modify.Changes(share=[taken], unshare=[str(second.path)]))
    assert world.hosts.open("far").record.shares == [second]
    await_mount(second, "second")
    modify.modify(world.hosts, "far", modify.Changes(unshare=[str(second.path)]))
    assert not background.find(host.directory)


def test_folders_cannot_be_shared_without_openssh(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host = world.machine("far")
    monkeypatch.setenv("PATH", str(world.folder))
    with pytest.raises(ShareMountError, match="which is not installed"):
        modify.modify(world.hosts, "far", modify.Changes(share=[world.share("source")]))
    assert world.hosts.open("far").record.shares == []
    host.record.shares.append(world.share("source"))
    with pytest.raises(ShareMountError, match="which is not installed"):
        ssh_shares.mount(host)


def test_the_keeper_ends_with_the_machine(world: World) -> None:
    share = world.share("source")
    host = world.machine("far", share)
    ssh_shares.mount(host)
    keeper = background.find(host.directory)
    shutil.rmtree(host.directory)
    until(lambda: not is_mounted(share), deadline=SECONDS, what="the folder to be unmounted")
    until(lambda: has_ended(keeper), deadline=SECONDS, what="the keeper to end")
    assert not host.directory.exists()


@pytest.mark.parametrize("forget", [False, True])
def test_removing_a_machine_unmounts_its_folders(world: World, *, forget: bool) -> None:
    share = world.share("source")
    host = world.machine("far", share)
    ssh_shares.mount(host)
    (remove.forget if forget else remove.remove)(world.hosts, "far")
    assert not is_mounted(share)
    assert not host.directory.exists()


def test_a_machine_that_cannot_be_stopped_keeps_its_folders(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    share = world.share("source")
    host = world.machine("far", share)
    ssh_shares.mount(host)

    def fail(*_: object) -> None:
        assert not is_mounted(share)
        raise UsageError("it does not work")

    monkeypatch.setattr(type(host.driver), "stop", fail)
    with pytest.raises(UsageError):
        lifecycle.stop(world.hosts, "far")
    await_mount(share, "source")


def test_start_brings_back_the_folders_of_a_machine_that_runs(world: World) -> None:
    share = world.share("source")
    host = world.machine("far", share)
    with pytest.raises(Exception, match="already running"):
        lifecycle.start(world.hosts, "far")
    assert inside(share).read_text() == "source"
    assert background.find(host.directory)


@pytest.mark.parametrize("program", ["exit 255", "echo 'Permission denied' >&2; exit 255"])
def test_a_machine_that_does_not_answer_is_tried_again(
    world: World, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    share = world.share("source")
    host = world.machine("far", share)
    real = shutil.which("ssh")
    marker = world.folder / "answers"
    fake_ssh(world, monkeypatch, f'[ -e {shlex.quote(str(marker))} ] && exec {real} "$@"; {program}')
    monkeypatch.setenv("PYMACHINE_BOOT_TIMEOUT", "3")
    with pytest.raises(ShareMountError, match=r"far \(root@127.0.0.1"):
        ssh_shares.mount(host)
    marker.touch()
    await_mount(share, "source")


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("yes", "prints too much"),
        ("echo hello; exit 3", "exit code 3"),
        ("printf '\\033]0;owned\\007\\377\\n' >&2; exit 1", r"\\x1b\]0;owned\\x07"),
        ("echo pymachine-begin; echo 'no such thing' >&2; exit 1", "no such thing"),
        ("exit 77", "cannot become root"),
    ],
)
def test_output_that_is_not_sshfs(world: World, monkeypatch: pytest.MonkeyPatch, program: str, says: str) -> None:
    fake_ssh(world, monkeypatch, program)
    host = world.machine("far", world.share("source"), login=False)
    monkeypatch.setenv("PYMACHINE_BOOT_TIMEOUT", "3")
    with pytest.raises(ShareMountError, match=says):
        ssh_shares.mount(host)
    assert "\x1b" not in log(host)


def test_a_machine_that_talks_without_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says that it has mounted the folder, and then sends requests that are none, and messages."""
    fake_ssh(world, monkeypatch, "echo pymachine-mounted >&2; echo pymachine-begin; yes >&2 & exec cat /dev/zero")
    share = world.share("source")
    host = world.machine("far", share, login=False)
    ssh_shares.mount(host)
    await_state(host, share, MountState.MOUNTED)
    assert ssh_shares.end(host.directory)
    assert (host.directory / "shares.log").stat().st_size < 100_000


def fake_ssh(world: World, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Put a program in front of OpenSSH's client."""
    folder = world.folder / "fake"
    folder.mkdir(exist_ok=True)
    (folder / "ssh").write_text(f"#!/bin/sh\n{program}\n")
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("text", "other", "says"),
    [
        ("command -v sshfs", "false", "sshfs is not installed"),
        ("-c /dev/fuse", "-c /nowhere", "its kernel has no FUSE"),
    ],
)
def test_a_machine_without_sshfs_or_fuse(
    world: World, monkeypatch: pytest.MonkeyPatch, text: str, other: str, says: str
) -> None:
    fake_ssh(world, monkeypatch, f"sed -u -e 's,{text},{other},' -e '/^mount_share$/q' | sh -s")
    with pytest.raises(ShareMountError, match=says):
        ssh_shares.mount(world.machine("far", world.share("source"), login=False))


def test_a_machine_with_an_older_image(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has pymachine's files, and no sshfs."""
    edits = "-e 's,command -v sshfs,false,' -e 's,-d /usr/lib/pymachine,-d /usr,' -e '/^mount_share$/q'"
    fake_ssh(world, monkeypatch, f"sed -u {edits} | sh -s")
    with pytest.raises(ShareMountError, match="its image has no sshfs: pymachine upgrade gives it a newer one"):
        ssh_shares.mount(world.machine("far", world.share("source"), login=False))


def test_a_mount_point_of_another_program_is_left_alone(world: World) -> None:
    share = world.share("source")
    Path(share.guest_path).mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "mine", share.guest_path], check=True)
    host = world.machine("far", share)
    for _ in range(2):
        with pytest.raises(ShareMountError, match=r"is a mount point already \(of mine\)"):
            ssh_shares.mount(host)
    assert list(Path(share.guest_path).iterdir()) == []
    assert "is a mount point already (of mine)" in ssh_shares.problem(host.directory, share)
    # Earlier reports of a keeper do not count.
    subprocess.run(["umount", share.guest_path], check=True)
    ssh_shares.mount(host)
    assert inside(share).read_text() == "source"
    assert ssh_shares.problem(host.directory, share) == ""


@pytest.mark.parametrize("point", ["~root", "~root/.ssh"])
def test_the_keys_of_the_login_are_not_hidden(world: World, point: str) -> None:
    share = Share(path=world.share("source").path, guest_path=PurePosixPath(Path(point).expanduser()))
    with pytest.raises(ShareMountError, match="has the SSH keys of root"):
        ssh_shares.mount(world.machine("far", share))
    assert not is_mounted(share)


def test_an_unknown_host_key_is_not_trusted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    host = world.machine("far", world.share("source"))
    (host.directory / "known_hosts").unlink()
    monkeypatch.setenv("PYMACHINE_BOOT_TIMEOUT", "2")
    with pytest.raises(ShareMountError, match="SSH host key is not pinned"):
        ssh_shares.mount(host)
