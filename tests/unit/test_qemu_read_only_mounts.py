"""Read-only shared folders by mounts of the host's kernel, in real namespaces, and QEMU's 9p server with them.

Everything runs as an ordinary user and, if the tests run as root, as root.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pymachine.driver.kit import listen_queues
from pymachine.driver.shares import Share
from pymachine_driver_qemu import boot, process, qmp, read_only_mounts, runtime, shares
from pymachine_driver_qemu.binary import Qemu
from pymachine_driver_qemu.machine_spec import MachineSpec
from pymachine_driver_qemu.read_only_mounts import Mount
from support import ninep
from support.sharing import share
from support.unprivileged import USERS, run_as_user

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has mount namespaces")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root")

LIBC = ctypes.CDLL(None, use_errno=True)
SANDBOX = ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
_PR_SET_DUMPABLE = 4
_CLONE_NEWUSER, _CLONE_NEWNS = 0x10000000, 0x00020000
ANOTHER = 1234


@pytest.fixture(params=USERS)
def user(request: pytest.FixtureRequest) -> int:
    """The user to run as."""
    return int(request.param)


@pytest.fixture
def folder(user: int) -> Iterator[Path]:
    """A folder of `user` with the folders ``shared`` and ``place``; pytest's own folders are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        for path in (Path(made), Path(made, "shared"), Path(made, "shared/inner"), Path(made, "place")):
            path.mkdir(exist_ok=True)
            os.chown(path, user, user)
        file = Path(made, "shared/file")
        file.write_text("content")
        os.chown(file, user, user)
        yield Path(made)


def in_child(user: int, work: Callable[[], None]) -> None:
    """Run `work` in a child process of `user` that may have a user namespace, as a program that the user starts."""

    def run() -> None:
        # A process that has changed its user cannot write to its own files in /proc.
        LIBC.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        work()

    run_as_user(user, run)


def error_of(work: Callable[[], object]) -> int:
    """Return the number of the `OSError` that `work` raises, or 0."""
    try:
        work()
    except OSError as error:
        return error.errno or -1
    return 0


def change_all(place: Path) -> dict[str, int]:
    """Try to change a mounted folder in each way; return the error of each."""
    file, new = place / "file", place / "new"
    return {
        "open": error_of(lambda: file.open("r+").close()),
        "create": error_of(new.touch),
        "mkdir": error_of(new.mkdir),
        "mknod": error_of(lambda: os.mkfifo(new)),
        "symlink": error_of(lambda: new.symlink_to("file")),
        "link": error_of(lambda: new.hardlink_to(file)),
        "rename": error_of(lambda: file.rename(new)),
        "unlink": error_of(file.unlink),
        "rmdir": error_of((place / "inner").rmdir),
        "chmod": error_of(lambda: file.chmod(0o600)),
        "chown": error_of(lambda: os.chown(file, -1, -1)),
        "utime": error_of(lambda: os.utime(file, (1, 1))),
        "truncate": error_of(lambda: os.truncate(file, 0)),
        "setxattr": error_of(lambda: os.setxattr(file, "user.x", b"x")),
    }


# -- the mounts --------------------------------------------------------------------------------------------------


def test_a_mounted_folder_cannot_be_changed_and_the_folder_itself_can(user: int, folder: Path) -> None:
    def work() -> None:
        assert read_only_mounts.mounter([Mount(folder / "shared", folder / "place")])() == 0
        errors = change_all(folder / "place")
        assert set(errors.values()) == {errno.EROFS}, errors
        assert (folder / "place/file").read_text() == "content"
        # A writable share inside of it is exported by its own path.
        (folder / "shared/inner/new").touch()
        assert (folder / "place/inner/new").exists()
        assert os.getuid() == user

    in_child(user, work)
    assert os.listdir(folder / "place") == []  # noqa: PTH208
    assert sorted(os.listdir(folder / "shared")) == ["file", "inner"]  # noqa: PTH208


def test_several_folders_are_mounted_also_through_links(user: int, folder: Path) -> None:
    (folder / "link").symlink_to("shared/inner")
    (folder / "other").mkdir()
    os.chown(folder / "other", user, user)

    def work() -> None:
        mounts = [Mount(folder / "shared", folder / "place"), Mount(folder / "link", folder / "other")]
        assert read_only_mounts.mounter(mounts)() == 0
        (folder / "shared/inner/new").touch()
        assert (folder / "other/new").exists()
        assert error_of((folder / "other/new").unlink) == errno.EROFS

    in_child(user, work)


@needs_root
def test_file_systems_in_a_folder_are_read_only_and_later_ones_do_not_appear(tmp_path: Path) -> None:
    """A file system that appeared in the mounted folder would be writable."""
    shared, place = tmp_path / "shared", tmp_path / "place"
    for each in (shared / "before", shared / "after", place):
        each.mkdir(parents=True)

    def mount_tmpfs(at: Path) -> None:
        assert LIBC.mount(b"tmpfs", bytes(at), b"tmpfs", 0, None) == 0
        (at / "file").touch()

    def work() -> None:
        # Private first, so that nothing reaches the host, and then shared, as on most hosts.
        assert LIBC.unshare(_CLONE_NEWNS) == 0
        for propagation in (1 << 18, 1 << 20):
            assert LIBC.mount(None, b"/", None, ctypes.c_ulong(1 << 14 | propagation), None) == 0
        mount_tmpfs(shared / "before")
        reader, writer = os.pipe()
        ready, go_on = os.pipe()
        inner = os.fork()
        if inner == 0:
            status = 1
            with suppress(BaseException):
                assert read_only_mounts.mounter([Mount(shared, place)])() == 0
                os.write(writer, b"x")
                os.read(ready, 1)
                assert error_of((place / "before/new").touch) == errno.EROFS
                assert os.listdir(place / "after") == []  # noqa: PTH208
                # Later mounts appear elsewhere, as for other programs.
                assert (shared / "after/file").exists()
                status = 0
            os._exit(status)
        os.close(writer)
        assert os.read(reader, 1) == b"x"
        mount_tmpfs(shared / "after")
        os.write(go_on, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) == 0

    run_as_user(0, work)


def test_a_folder_that_vanished_is_an_error(user: int, folder: Path) -> None:
    def work() -> None:
        assert read_only_mounts.mounter([Mount(folder / "gone", folder / "place")])() == errno.ENOENT
        assert read_only_mounts.mounter([Mount(folder / "shared", folder / "gone")])() == errno.ENOENT

    in_child(user, work)


@needs_root
def test_a_kernel_without_namespaces_for_the_user_is_an_error(tmp_path: Path) -> None:
    def work() -> None:
        refuse_namespaces()
        assert read_only_mounts.mounter([Mount(tmp_path, tmp_path)])() == errno.ENOSPC
        with pytest.raises(process.MountError):
            process.launch(
                ["true"], directory=tmp_path, sockets=tmp_path, environment={}, mounts=[Mount(tmp_path, tmp_path)]
            )

    run_as_user(0, work)


def refuse_namespaces() -> None:
    """Let this process and its children have no more mount namespaces."""
    assert LIBC.unshare(_CLONE_NEWUSER) == 0
    Path("/proc/self/uid_map").write_text("0 0 1")
    Path("/proc/sys/user/max_mnt_namespaces").write_text("0")


# -- QEMU with them ----------------------------------------------------------------------------------------------


def serve(folder: Path, work: Callable[[ninep.Client], None], *, is_mounted: bool) -> None:
    """Share the folder ``shared`` by a filtered QEMU with its own sandbox, and do `work` as its guest."""
    exported = folder / ("place" if is_mounted else "shared")
    argv = ["qemu-system-x86_64", *ninep.arguments(folder / "qtest", exported), *SANDBOX]
    argv += ["-qmp", process.monitor_argument(folder / runtime.CONTROL)]
    mounts = [Mount(folder / "shared", exported)] if is_mounted else []
    pid = process.launch(argv, directory=folder, sockets=folder, environment={}, filtered=True, mounts=mounts)
    try:
        with closing(ninep.Client(folder / "qtest")) as client:
            work(client)
    finally:
        process.end(folder)
        process.exit_code(pid)


def test_a_hostile_guest_changes_nothing_in_a_read_only_folder(user: int, folder: Path) -> None:
    def guest(client: ninep.Client) -> None:
        changes: list[Callable[[], None]] = [
            lambda: client.create("new", 0o644),
            lambda: client.mkdir("new", 0o755),
            lambda: client.mknod("new", stat.S_IFREG | 0o644),
            lambda: client.mknod("new", stat.S_IFIFO | 0o644),
            lambda: client.mknod("inner/new", stat.S_IFREG | 0o644),
            lambda: client.write("file", b"of the guest"),
            lambda: client.chmod("file", 0o777),
            lambda: client.chmod("", 0o777),
            lambda: client.truncate("file", 0),
            lambda: client.set_time("file"),
            lambda: client.set_time("file", 1),
            lambda: client.set_attribute("file", "user.x", b"x"),
            lambda: client.symlink("new", "file"),
            lambda: client.link("file", "new"),
            lambda: client.rename("file", "new"),
            lambda: client.remove("file"),
            lambda: client.remove("inner", is_folder=True),
        ]
        assert [error_of(change) for change in changes] == [errno.EROFS] * len(changes)
        # This is what the mounts are for.
        client.chown("file", user, user)
        client.chown("file", ANOTHER, ANOTHER)

    before = {path: path.lstat() for path in (folder / "shared", folder / "shared/file", folder / "shared/inner")}
    in_child(user, lambda: serve(folder, guest, is_mounted=True))
    for path, status in before.items():
        after = path.lstat()
        for name in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_ctime_ns"):
            assert getattr(after, name) == getattr(status, name), (path, name)
    assert (folder / "shared/file").read_text() == "content"
    assert sorted(os.listdir(folder / "shared")) == ["file", "inner"]  # noqa: PTH208
    assert os.listxattr(folder / "shared/file") == []


def test_without_mounts_the_same_requests_change_the_folder(user: int, folder: Path) -> None:
    """This shows that the requests above are what QEMU executes."""

    def guest(client: ninep.Client) -> None:
        client.chmod("file", 0o711)
        client.set_attribute("file", "user.x", b"x")
        client.truncate("file", 3)
        client.set_time("file", 1)
        client.symlink("symbolic", "file")
        client.link("file", "hard")
        client.rename("file", "renamed")
        client.remove("hard")
        client.remove("inner", is_folder=True)

    in_child(user, lambda: serve(folder, guest, is_mounted=False))
    assert sorted(os.listdir(folder / "shared")) == ["renamed", "symbolic"]  # noqa: PTH208
    status = (folder / "shared/renamed").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_size, status.st_mtime) == (0o711, 3, 1)
    assert os.getxattr(folder / "shared/renamed", "user.x") == b"x"


def test_the_listen_queues_of_a_qemu_in_a_namespace_are_lengthened(user: int, folder: Path) -> None:
    """An ordinary user's QEMU is in a user namespace, and still the user's own process."""

    def work() -> None:
        port = "user,id=n,hostfwd=tcp:127.0.0.1:0-:22"
        argv = ["qemu-system-x86_64", "-machine", "none", "-display", "none", "-nodefaults", "-netdev", port]
        argv += ["-qmp", process.monitor_argument(folder / runtime.CONTROL)]
        mounts = [Mount(folder / "shared", folder / "place")]
        pid = process.launch(argv, directory=folder, sockets=folder, environment={}, mounts=mounts)
        try:
            assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")  # noqa: PTH115
            with qmp.Qmp(folder / runtime.CONTROL) as monitor:
                # The process id is that of this namespace, not of QEMU's.
                assert monitor.pid() == pid
            assert listen_queues.lengthen(pid) == 1
        finally:
            process.end(folder)
            process.exit_code(pid)

    in_child(user, work)


def test_without_mounts_qemu_itself_enforces_that_folders_are_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def launch(argv: list[str], *, sockets: Path, mounts: list[Mount] | tuple[()] = (), **_: object) -> int:
        commands.append([word for word in argv if word.startswith("local,id=share0")])
        assert shares.are_read_only_by_kernel(sockets) == bool(mounts)
        if mounts:
            raise process.MountError
        return 1

    monkeypatch.setattr(process, "launch", launch)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    machine, shared = tmp_path / "machine", tmp_path / "shared"
    machine.mkdir()
    shared.mkdir()
    spec = spec_of([share(shared, "/shared", read_only=True)])
    try:
        sockets = boot.launch(spec, "m", machine, listen=None).sockets
        common = "security_model=none,multidevs=remap"
        assert commands == [
            [f"local,id=share0,path={sockets}/read-only/share0,{common}"],
            [f"local,id=share0,path={shared},{common},readonly=on"],
        ]
    finally:
        runtime.remove(machine)


def spec_of(given: list[Share]) -> MachineSpec:
    config = {"MachineID": "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a11"}
    qemu = Qemu(Path("/usr/bin/qemu-system-x86_64"), (7, 2), has_9p=True)
    return MachineSpec(qemu=qemu, accelerator="tcg", architecture="amd64", config=config, shares=given)
