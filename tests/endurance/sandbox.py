"""A sandbox for tries: a store with its own home, runtime folder and temporary folder, and views of what is in it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.runner import Pymachine, cache_folder

SECONDS = 600.0
# Larger files are compared only by size, time and inode.
_MOST_HASHED = 64 * 2**20
BYSTANDER = "bystander"
NONE = ("create", "--driver", "none", "--url", "tcp://127.0.0.1:1")


@dataclass
class Sandbox:
    """A store and the program on it."""

    base: Path
    program: Pymachine
    steps: dict[str, tuple[int, int]] = field(default_factory=dict)
    """For each measured command: the number of its steps and of the lines it prints."""

    @property
    def store(self) -> Path:
        """The store's root."""
        return self.program.store

    @property
    def sockets(self) -> Path:
        """The folder with the sockets of running machines."""
        return self.base / "run" / "pymachine"

    @property
    def files(self) -> Path:
        """The folder for files outside the store: exports."""
        return self.base / "files"

    def folder(self, name: str) -> Path:
        """Return the folder of machine `name`."""
        return self.store / "machines" / name

    def entries(self) -> set[str]:
        """Return all names in the machines' folder, hidden ones too."""
        return _names(self.store / "machines")

    def socket_folders(self) -> set[str]:
        """Return the socket folders of running machines, without the probe caches next to them."""
        return {name for name in _names(self.sockets) if (self.sockets / name).is_dir()}

    def contexts(self) -> set[str]:
        """Return the docker contexts, from their files, which is faster than calling docker."""
        return _names(self.program.home / ".docker" / "contexts" / "meta")

    def processes(self) -> dict[int, str]:
        """Return the running processes with this sandbox in command line or environment, as pid -> command."""
        return _processes_of(self.base)

    def remaining_processes(self, before: Collection[int]) -> dict[int, str]:
        """Wait up to 30 seconds for processes that are not in `before` to end; return those that did not."""
        deadline = time.monotonic() + 30
        while True:
            found = {pid: text for pid, text in self.processes().items() if pid not in before}
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.1)

    def unchanged(self) -> dict[str, object]:
        """Fingerprint what no command on another machine may change: the bystander, user files, the store's keys."""
        seen = {f"bystander {path}": facts for path, facts in fingerprint(self.folder(BYSTANDER)).items()}
        seen |= {f"certs {path}": facts for path, facts in fingerprint(self.store / "certs").items()}
        seen |= {f"outside {path}": facts for path, facts in fingerprint(self.base / "outside").items()}
        home = fingerprint(self.program.home)
        return seen | {f"home {path}": facts for path, facts in home.items() if not path.startswith(".docker")}


def _processes_of(base: Path) -> dict[int, str]:
    """Return the processes that name the folder `base` in their command line or environment."""
    mark = f"{base}/".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
            ours = mark in line or mark in (entry / "environ").read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if ours and line:
            found[int(entry.name)] = line.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def _names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()  # noqa: PTH208 (hidden ones too)


def fingerprint(folder: Path) -> dict[str, object]:
    """Return the kind, mode and content of each file below `folder`; of sparse files only allocated content."""
    return {str(path.relative_to(folder)): _facts(path) for path in sorted(folder.rglob("*"))}


def _facts(path: Path) -> object:
    status = path.lstat()
    mode = stat.filemode(status.st_mode)
    if path.is_symlink():
        return mode, str(path.readlink())
    if not path.is_file():
        return (mode,)
    if status.st_blocks * 512 > _MOST_HASHED:
        return mode, status.st_size, status.st_mtime_ns, status.st_ino
    return mode, status.st_size, _digest(path, status.st_size)


def _digest(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        at = 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
                end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            except OSError:  # a hole up to the end
                break
            os.lseek(file.fileno(), at, os.SEEK_SET)
            digest.update(os.read(file.fileno(), end - at))
            at = end
    return digest.hexdigest()


@contextmanager
def empty(*, cache: Path | None = None) -> Iterator[Sandbox]:
    """Make a sandbox with an empty store; afterwards end all its processes and remove it."""
    # Always in /tmp: the path of a socket has at most 107 bytes.
    base = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    for name in ("home", "run", "tmp", "files", "outside"):
        (base / name).mkdir(mode=0o700)
    (base / "outside" / "precious").write_text("not a file of pymachine\n")
    variables = {
        "XDG_RUNTIME_DIR": str(base / "run"),
        "TMPDIR": str(base / "tmp"),
        "PYMACHINE_CACHE": str(cache or cache_folder()),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    program = Pymachine(base / "store", base / "home", variables)
    try:
        yield Sandbox(base, program)
    finally:
        program.remove_all()
        for pid in _processes_of(base):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(base, ignore_errors=True)


@contextmanager
def with_bystander(*, real: bool) -> Iterator[Sandbox]:
    """Make a sandbox with one machine that no try may change: a `real` stopped one, or one of the driver none."""
    with empty() as sandbox:
        if real:
            sandbox.program("create", BYSTANDER)
            sandbox.program("kill", BYSTANDER)
        else:
            sandbox.program(*NONE, BYSTANDER)
        yield sandbox


@contextmanager
def own_cache(*names: str) -> Iterator[Sandbox]:
    """Make a sandbox with a bystander and its own cache, which has the folders `names` of the shared cache."""
    base = Path(tempfile.mkdtemp(prefix="pm-cache-", dir=cache_folder()))
    try:
        for name in names:
            _linked(cache_folder() / name, base / name)
        with empty(cache=base) as sandbox:
            sandbox.program(*NONE, BYSTANDER)
            yield sandbox
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _linked(source: Path, target: Path) -> None:
    """Copy a folder with hard links, without unfinished files."""
    shutil.copytree(source, target, copy_function=os.link, ignore=shutil.ignore_patterns(".tmp-*", ".*.lock"))
