"""The real VBoxManage, in its own Debian (scripts/virtualbox-chroot) and without kernel modules."""

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
# Each call has its own mount namespace, shared with the VBoxSVC that it starts: the mounts end with it.
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
    """A VirtualBox with its own registry and its own VBoxSVC."""

    folder: Path
    program: Path
    environment: dict[str, str]

    def __call__(self, *words: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run VBoxManage and expect exit code `code`, or any if it is None.

        A client may crash if its server is about to end. Listings are then repeated.
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
        """Remove every machine and medium."""
        for line in self("list", "vms").stdout.splitlines():
            uuid = line.rpartition("{")[2].rstrip("}")
            if self("unregistervm", uuid, "--delete", code=None).returncode:
                self("unregistervm", uuid)
        for kind, listing in (("disk", "hdds"), ("dvd", "dvds")):
            self._close_media(kind, listing)

    def _close_media(self, kind: str, listing: str) -> None:
        """Close all media of a kind; retry, since VirtualBox closes those of a removed machine a moment later."""
        for _ in range(20):
            known = [line.split()[1] for line in self("list", listing).stdout.splitlines() if line.startswith("UUID:")]
            if not known:
                return
            errors = [self("closemedium", kind, uuid, code=None).stderr for uuid in known]
            time.sleep(0.1)
        raise AssertionError(f"VirtualBox keeps its {listing}: {errors}")

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        """Start VBoxManage without waiting for its end."""
        return subprocess.Popen(
            [str(self.program), *map(str, words)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @contextmanager
    def holding(self, machine: str) -> Iterator[subprocess.Popen[bytes]]:
        """Lock the machine from another front end, as VirtualBox's settings window does."""
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
        """Return the pids of this registry's VBoxSVC, which starts and ends automatically."""
        wanted = f"VBOX_USER_HOME={self.folder / 'registry'}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            # A process may end at any moment.
            with suppress(OSError):
                ours = wanted in (entry / "environ").read_bytes().split(b"\0")
                if ours and b"VBoxSVC" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
        return found

    def kill_server(self) -> int:
        """Kill VBoxSVC with SIGKILL; return the number of processes."""
        pids = self.servers()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)


@contextmanager
def real(folder: Path, *, wrapper: bool = False) -> Iterator[RealVirtualBox]:
    """Run a VirtualBox whose registry is in `folder`, with its programs on PATH; end its server afterwards.

    With `wrapper` it is called through Debian's script, which prints extra lines on stdout.
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
    """Listen on a port of the loopback and send the first line of an SSH server."""
    import socket
    import threading

    server = socket.create_server(("127.0.0.1", port))
    server.settimeout(0.1)
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            with suppress(TimeoutError, ConnectionError):  # no client, or one that disconnects at once
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"SSH-2.0-test\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        server.close()
