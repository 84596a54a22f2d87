"""VirtualBox for tests: the real VBoxManage in its own Debian (scripts/virtualbox-chroot), without kernel modules."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.runner import cache_folder

ROOT = cache_folder() / "virtualbox" / "root"
VERSION = (7, 2, 22)
# The mounts are in a namespace of this call's own (and of the VBoxSVC that it starts): they end with it.
WRAPPER = """\
#!/bin/sh
exec unshare {user} --mount --propagation private sh -c '
root=$1 && shift
for folder in /tmp /proc /dev; do mount --rbind "$folder" "$root$folder" || exit 97; done
[ -z "$TEST_SMALL_DISK" ] || mount -t tmpfs -o size=192k small "$root$TEST_SMALL_DISK" || exit 97
exec chroot "$root" ${{TEST_PROGRAM:-{program}}} "$@"' sh {root} "$@"
"""
# VirtualBox's own bindings for Python, as its other front ends use them.
HOLD = """
import sys
from vboxapi import VirtualBoxManager
manager = VirtualBoxManager()
session = manager.getSessionObject()
manager.getVirtualBox().findMachine(sys.argv[1]).lockMachine(session, manager.constants.LockType_Write)
print("held", flush=True)
sys.stdin.read()
session.unlockMachine()
"""


@dataclass
class RealVirtualBox:
    """One VirtualBox: its own registry, its own VBoxSVC."""

    folder: Path
    program: Path
    environment: dict[str, str]

    def __call__(self, *words: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run VBoxManage and expect exit code `code` (None: any).

        A client that meets a server that is just going away may crash: then a listing is asked for again.
        """
        for _ in range(10):
            done = subprocess.run(
                [str(self.program), *map(str, words)],
                env=self.environment,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=120,
                check=False,
            )
            if done.returncode >= 0 or words[0] != "list":
                break
            time.sleep(0.5)
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def empty(self) -> None:
        """Take out every machine and medium."""
        for line in self("list", "vms").stdout.splitlines():
            uuid = line.rpartition("{")[2].rstrip("}")
            if self("unregistervm", uuid, "--delete", code=None).returncode:
                self("unregistervm", uuid)
        for kind, listing in (("disk", "hdds"), ("dvd", "dvds")):
            self._close_media(kind, listing)

    def _close_media(self, kind: str, listing: str) -> None:
        """Have VirtualBox forget its media of a kind; of those that went with a machine it does so a moment later."""
        for _ in range(20):
            known = [line.split()[1] for line in self("list", listing).stdout.splitlines() if line.startswith("UUID:")]
            if not known:
                return
            said = [self("closemedium", kind, uuid, code=None).stderr for uuid in known]
            time.sleep(0.1)
        raise AssertionError(f"VirtualBox keeps its {listing}: {said}")

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        """Start VBoxManage and leave it running."""
        return subprocess.Popen(
            [str(self.program), *map(str, words)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @contextmanager
    def holding(self, machine: str) -> Iterator[subprocess.Popen[bytes]]:
        """Another front end has the machine locked, as the settings window of VirtualBox's own has."""
        environment = {
            **self.environment,
            "TEST_PROGRAM": "/usr/bin/python3",
            "VBOX_PROGRAM_PATH": "/usr/lib/virtualbox",
            "PYTHONPATH": "/usr/lib/virtualbox:/usr/lib/virtualbox/sdk/bindings/xpcom/python",
        }
        holder = subprocess.Popen(
            [str(self.program), "-c", HOLD, machine],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert holder.stdout
            assert holder.stdout.readline() == b"held\n"
            yield holder
        finally:
            if holder.stdin and not holder.stdin.closed:
                holder.stdin.close()
            assert holder.wait(30) == 0

    def servers(self) -> list[int]:
        """The pids of this registry's VBoxSVC; it comes and goes by itself."""
        wanted = f"VBOX_USER_HOME={self.folder / 'registry'}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            # Processes end while they are looked at.
            with suppress(OSError):
                ours = wanted in (entry / "environ").read_bytes().split(b"\0")
                if ours and b"VBoxSVC" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def kill_server(self) -> int:
        """SIGKILL to VBoxSVC; how many there were."""
        pids = self.servers()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)


@contextmanager
def real(folder: Path, *, wrapper: bool = False) -> Iterator[RealVirtualBox]:
    """A VirtualBox whose registry is in `folder`, found on PATH while this lasts; its server is ended afterwards.

    `wrapper` takes Debian's script in front of it, which says things on stdout that nobody asked for.
    """
    assert ROOT.is_dir(), f"no VirtualBox in {ROOT}; scripts/setup --tests puts it there"
    programs = folder / "bin"
    programs.mkdir()
    inside = "/usr/bin/VBoxManage" if wrapper else "/usr/lib/virtualbox/VBoxManage"
    program = programs / "VBoxManage"
    user = "" if os.geteuid() == 0 else "--map-root-user"
    program.write_text(WRAPPER.format(user=user, root=shlex.quote(str(ROOT)), program=inside))
    program.chmod(0o755)
    own = {
        "VBOX_USER_HOME": str(folder / "registry"),
        "VBOX_IPC_SOCKETID": f"pm{secrets.token_hex(4)}",
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }
    box = RealVirtualBox(folder, program, {**os.environ, **own})
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        try:
            yield box
        finally:
            deadline = time.monotonic() + 10
            while box.kill_server() and time.monotonic() < deadline:
                time.sleep(0.05)


@contextmanager
def ssh_banner(port: int) -> Iterator[None]:
    """Something that says what an SSH server says first, at a port of the loopback."""
    import socket
    import threading

    server = socket.create_server(("127.0.0.1", port))
    server.settimeout(0.1)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            with suppress(TimeoutError):
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"SSH-2.0-test\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        server.close()
