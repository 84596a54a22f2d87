"""The SFTP server with OpenSSH's sftp, and with sshfs in passive mode, as in a guest."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shlex
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from pymachine.system.wait import until
from support import processes, unprivileged

PROGRAM = """
import sys
from pathlib import Path
from pymachine.driver.kit.sftp_server import serve
serve(Path(sys.argv[1]), read_only=sys.argv[2] == "ro", incoming=0, outgoing=1)
"""
NAMES = ["a b", "a,b", "käse", "日本語", "new\nline", "caf\udce9", "'\"\\$x", "-r"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def server(tmp_path: Path, root: Path) -> list[str]:
    """The command line of a server, to which "ro" or "rw" is added."""
    program = tmp_path / "server.py"
    program.write_text(PROGRAM)
    return [sys.executable, str(program), str(root)]


class TestOpenSSH:
    """``sftp -D`` runs a server program in place of ssh."""

    @pytest.fixture(autouse=True)
    def prepare(self, server: list[str], root: Path, tmp_path: Path) -> None:
        self.server, self.root, self.local = server, root, tmp_path / "local"
        self.local.mkdir()

    def sftp(self, *commands: str, access: str = "rw", code: int = 0) -> str:
        """Run commands; return the output, or the messages about the command that failed."""
        argv = ["sftp", "-q", "-b", "-", "-D", shlex.join([*self.server, access])]
        lines = "".join(f"{command}\n" for command in commands)
        done = subprocess.run(argv, cwd=self.local, input=lines, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (code == 0), done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def test_files_are_copied_both_ways(self) -> None:
        content = os.urandom(20_000_000)
        (self.local / "up").write_bytes(content)
        self.sftp("put up", "put -f up again", "get again down", "put -p up kept")
        assert [(self.root / name).read_bytes() == content for name in ("up", "again", "kept")] == [True] * 3
        assert (self.local / "down").read_bytes() == content

    def test_interrupted_copies_are_continued(self) -> None:
        (self.local / "up").write_bytes(b"0123456789")
        (self.root / "up").write_bytes(b"0123")
        (self.local / "down").write_bytes(b"012")
        self.sftp("reput up up", "reget up down")
        assert (self.root / "up").read_bytes() == (self.local / "down").read_bytes() == b"0123456789"

    def test_folders_are_copied_both_ways(self) -> None:
        (self.local / "tree/inner").mkdir(parents=True)
        for number in range(300):
            (self.local / f"tree/inner/{number}").write_text(str(number))
        self.sftp("put -R tree", "get -R tree copy")
        for place in (self.root / "tree", self.local / "copy"):
            assert {path.name: path.read_text() for path in (place / "inner").iterdir()} == {
                str(number): str(number) for number in range(300)
            }

    def test_names_and_links(self) -> None:
        (self.root / "a").write_text("a")
        self.sftp("rename a 'b c'", "ln 'b c' hard", "ln -s 'b c' soft", "mkdir d", "cd d", "rename ../hard ./moved")
        assert (self.root / "d/moved").samefile(self.root / "b c")
        assert (self.root / "soft").readlink() == Path("b c")
        self.sftp("rm soft", "rm d/moved", "rmdir d")
        assert [path.name for path in self.root.iterdir()] == ["b c"]

    def test_many_files_are_listed(self) -> None:
        for number in range(3000):
            (self.root / f"file {number}").touch()
        assert self.sftp("ls -1").count("file ") == 3000
        lines = [line for line in self.sftp("ls -la").splitlines() if not line.startswith("sftp>")]
        assert len(lines) == 3002
        assert all(line.startswith(("-rw", "drwx")) for line in lines)

    def test_attributes(self) -> None:
        (self.root / "file").write_text("x")
        (self.root / "link").symlink_to("/nowhere")
        self.sftp("chmod 4750 file", "chown 1 file", "chgrp 1 file", "chown -h 1 link")
        state = (self.root / "file").stat()
        assert (stat.S_IMODE(state.st_mode), state.st_uid, state.st_gid) == (0o750, os.getuid(), os.getgid())

    def test_the_size_of_the_file_system(self) -> None:
        assert f"{os.statvfs(self.root).f_blocks * os.statvfs(self.root).f_frsize // 1024}" in self.sftp("df")

    def test_the_folder_is_the_clients_root(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("secret")
        (self.root / "link").symlink_to("../secret")
        assert "Remote working directory: /" in self.sftp("cd ../..", "pwd")
        for command in (f"get {tmp_path}/secret", "get ../secret", "get link", f"put secret {tmp_path}/new"):
            self.sftp(command, code=1)
        assert [path.name for path in self.local.iterdir()] == []
        assert not (tmp_path / "new").exists()

    def test_a_read_only_folder(self) -> None:
        (self.root / "file").write_text("x")
        (self.local / "file").write_text("y")
        self.sftp("get file got", "ls -l", access="ro")
        for command in ("put file", "rm file", "rename file other", "ln file other", "chmod 777 file", "mkdir d"):
            assert "Permission denied" in self.sftp(command, access="ro", code=1)
        assert [(path.name, path.read_text()) for path in self.root.iterdir()] == [("file", "x")]

    def test_the_mode_of_a_file_that_its_owner_cannot_read(self) -> None:
        (self.root / "sealed").touch()
        (self.root / "sealed").chmod(0)
        self.server = unprivileged.command(self.server)
        assert "Permission denied" in self.sftp("get sealed", code=1)
        self.sftp("chmod 640 sealed", "get sealed")


def all_links() -> str:
    """Return the option to show links that are absolute or have "..". Debian's sshfs hides them by default."""
    help_text = subprocess.run(["sshfs", "--help"], capture_output=True, text=True, check=True).stdout
    return ",no_contain_symlinks" if "no_contain_symlinks" in help_text else ""


class TestSshfs:
    """A folder that is mounted with ``sshfs -o passive``."""

    @pytest.fixture(autouse=True)
    def mount(self, server: list[str], root: Path, tmp_path: Path) -> Iterator[None]:
        self.server, self.root, self.point = server, root, tmp_path / "point"
        self.point.mkdir()
        with self.mounted():
            yield

    @contextmanager
    def mounted(self, access: str = "rw", point: str = "point") -> Iterator[Path]:
        place = self.point.with_name(point)
        place.mkdir(exist_ok=True)
        ours, theirs = socket.socketpair()
        argv = ["sshfs", "-f", "-o", f"passive,dcache_timeout=1{all_links()}", ":/", str(place)]
        with (
            processes.started([*self.server, access], stdin=ours, stdout=ours) as server,
            processes.started(argv, stdin=theirs, stdout=theirs) as sshfs,
        ):
            ours.close()
            theirs.close()
            try:
                until(
                    lambda: sshfs.poll() is not None or place.is_mount(),
                    deadline=300,
                    what="sshfs to mount the folder",
                )
                assert sshfs.poll() is None
                yield place
            finally:
                subprocess.run(["fusermount3", "-u", "-z", place], check=True)
            assert sshfs.wait() == 0
            assert server.wait() == 0

    def test_reads_and_writes(self) -> None:
        content = os.urandom(5_000_000)
        (self.point / "file").write_bytes(content)
        assert (self.root / "file").read_bytes() == content
        (self.root / "host").write_bytes(content[::-1])
        assert (self.point / "host").read_bytes() == content[::-1]
        with (self.point / "file").open("r+b") as file:
            file.seek(1_000_000)
            file.write(b"changed")
            file.flush()
            os.fsync(file.fileno())
            assert (self.root / "file").read_bytes() == content[:1_000_000] + b"changed" + content[1_000_007:]

    def test_a_file_that_is_replaced_or_removed_stays_open(self) -> None:
        (self.point / "file").write_text("old")
        (self.point / "new").write_text("new")
        with (self.point / "file").open() as replaced:
            (self.point / "new").rename(self.point / "file")
            assert replaced.read() == "old"
        with (self.point / "file").open("r+") as removed:
            (self.point / "file").unlink()
            removed.write("NEW")
            removed.seek(0)
            assert removed.read() == "NEW"
        # sshfs renames the open file, and removes it some time after it is closed.
        until(lambda: not list(self.root.iterdir()), deadline=300, what="sshfs to remove the file")

    def test_sparse_files(self) -> None:
        with (self.point / "sparse").open("wb") as file:
            file.truncate(10 * 1024**3)
            file.seek(5 * 1024**3)
            file.write(b"x")
        state = (self.root / "sparse").stat()
        assert state.st_size == (self.point / "sparse").stat().st_size == 10 * 1024**3
        assert state.st_blocks * 512 < 1024**2
        os.truncate(self.point / "sparse", 3)
        assert (self.root / "sparse").read_bytes() == bytes(3)

    def test_memory_maps(self) -> None:
        (self.point / "file").write_bytes(bytes(100_000))
        with (self.point / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            memory[50_000:50_005] = b"hello"
            memory.flush()
            assert (self.root / "file").read_bytes()[49_999:50_006] == b"\0hello\0"

    @pytest.mark.parametrize("name", NAMES)
    def test_names(self, name: str) -> None:
        (self.point / name).mkdir()
        (self.point / name / name).write_text(name, errors="surrogateescape")
        (self.point / name / name).rename(self.point / name / f"{name}2")
        assert (self.root / name / f"{name}2").read_text(errors="surrogateescape") == name
        assert [path.name for path in (self.point / name).iterdir()] == [f"{name}2"]

    def test_five_thousand_files(self) -> None:
        for number in range(5000):
            (self.point / str(number)).write_text(str(number))
        expected = {str(number): str(number) for number in range(5000)}
        assert {path.name: path.read_text() for path in self.root.iterdir()} == expected
        assert {path.name: path.read_text() for path in self.point.iterdir()} == expected
        for path in self.point.iterdir():
            path.unlink()
        assert list(self.root.iterdir()) == []

    def test_a_tree_is_packed_and_unpacked(self) -> None:
        archive = self.root.with_name("archive.tar")
        source = self.root.with_name("source")
        for number in range(200):
            (source / f"{number % 10}").mkdir(parents=True, exist_ok=True)
            (source / f"{number % 10}/{number}").write_text("x" * number)
        subprocess.run(["tar", "-cf", archive, "-C", source, "."], check=True)
        subprocess.run(["tar", "-xf", archive, "-C", self.point], check=True)
        subprocess.run(["diff", "-r", source, self.root], check=True)
        subprocess.run(["tar", "-df", archive, "-C", self.point], check=True)

    def test_attributes(self) -> None:
        file = self.point / "file"
        file.touch()
        file.chmod(0o6751)
        os.chown(file, 12345, 12345)
        os.utime(file, (1_000_000, 2_000_000))
        for state in ((self.root / "file").stat(), file.stat()):
            assert (state.st_mode & 0o7777, state.st_uid, state.st_gid) == (0o751, os.getuid(), os.getgid())
            assert state.st_mtime == 2_000_000

    def test_links(self) -> None:
        (self.point / "file").write_text("x")
        (self.point / "hard").hardlink_to(self.point / "file")
        (self.point / "soft").symlink_to("file")
        assert (self.root / "hard").samefile(self.root / "file")
        assert (self.root / "soft").readlink() == Path("file")
        assert (self.point / "soft").read_text() == "x"
        with pytest.raises(FileExistsError):
            (self.point / "soft").symlink_to("other")
        for number, target in enumerate(("/no/such/file", "../file", "käse", "x" * 1000)):
            (self.point / f"link{number}").symlink_to(target)
            assert (self.root / f"link{number}").readlink() == Path(target)
            assert (self.point / f"link{number}").readlink() == Path(target)

    def test_files_are_created_once_and_appended_to(self) -> None:
        with (self.point / "log").open("x") as file:
            file.write("one\n")
        with pytest.raises(FileExistsError):
            (self.point / "log").open("x")
        with (self.point / "log").open("a") as first, (self.point / "log").open("a") as second:
            for number in range(3):
                for file in (first, second):
                    file.write(f"{number}\n")
                    file.flush()
        assert (self.root / "log").read_text() == "one\n0\n0\n1\n1\n2\n2\n"

    def test_locks(self) -> None:
        with (self.point / "lock").open("w") as first, (self.point / "lock").open("w") as second:
            fcntl.flock(first, fcntl.LOCK_EX)
            with pytest.raises(BlockingIOError):
                fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def test_changes_on_the_host_are_seen(self) -> None:
        (self.root / "file").write_text("one")
        assert (self.point / "file").read_text() == "one"
        (self.root / "file").write_text("three")
        (self.root / "another").touch()

        def is_seen() -> bool:
            return (self.point / "file").read_text() == "three" and (self.point / "another").exists()

        until(is_seen, deadline=300, what="the mount to show the change")

    def test_missing_files_and_full_names(self) -> None:
        with pytest.raises(FileNotFoundError):
            (self.point / "missing").read_text()
        with pytest.raises(FileNotFoundError):
            (self.point / "missing/file").write_text("x")
        (self.point / "folder").mkdir()
        with pytest.raises(FileExistsError):
            (self.point / "folder").mkdir()
        assert os.statvfs(self.point).f_blocks * os.statvfs(self.point).f_frsize == (
            os.statvfs(self.root).f_blocks * os.statvfs(self.root).f_frsize
        )

    def test_a_read_only_folder(self) -> None:
        (self.root / "file").write_text("x")
        before = sorted(self.root.iterdir())
        with self.mounted("ro", "second") as point:
            assert (point / "file").read_text() == "x"
            assert (point / "file").stat().st_size == 1
            file, new = point / "file", point / "new"
            for change in (
                partial(file.write_text, "y"),
                partial(file.rename, new),
                partial(file.chmod, 0o777),
                partial(os.truncate, file, 0),
                partial(new.symlink_to, "file"),
                partial(new.hardlink_to, file),
                file.unlink,
                new.touch,
                new.mkdir,
            ):
                with pytest.raises(PermissionError) as caught:
                    change()
                assert caught.value.errno == errno.EACCES
        assert sorted(self.root.iterdir()) == before
        assert (self.root / "file").read_text() == "x"
