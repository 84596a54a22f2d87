"""Checks of folders that pymachine mounts in a machine over SSH, through containers that mount them."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from pymachine.system.wait import until
from support import open_shells
from support.open_shells import OpenShell
from support.runner import Pymachine

_IMAGE = (
    "b=$(mktemp -d); mkdir -p $b/bin $b/usr/bin; cp /usr/bin/busybox $b/usr/bin; busybox --install -s $b/bin;"
    " tar -c -C $b . | docker import - box"
)
_MADE = (
    "echo made > file; ln -s file link; mkdir folder; chown -R 999:999 .; chmod 4750 file;"
    " mknod zero c 1 5 || mkfifo pipe || echo refused"
)
_ESCAPES = 'ln -s "$1" out; cat out/secret 2> /dev/null || cat ../secret 2> /dev/null || echo none'


_EVENT_SECONDS = 300.0


def make_box(program: Pymachine, name: str) -> None:
    """Make an image `box` with busybox in the machine."""
    program("ssh", name, _IMAGE)


def box(program: Pymachine, name: str, folder: Path | str, script: str, *words: str) -> str:
    """Run a shell script as root in a container that has the guest's `folder` as its working folder."""
    inside = shlex.join(["/bin/sh", "-c", script, "sh", *words])
    return program("ssh", name, f"docker run --rm -v {folder}:/work -w /work box {inside}").stdout


def open_box(program: Pymachine, name: str, folder: Path | str) -> OpenShell:
    """Open a shell of root in a container that has the guest's `folder` as its working folder."""
    return OpenShell(program, ["pymachine", "ssh", name, f"docker run --rm -i -v {folder}:/work -w /work box sh"])


def check_writable(program: Pymachine, name: str, folder: Path) -> None:
    """Check what a container makes in the empty shared `folder`, and that both sides see each other's changes."""
    outside = folder.parent / "secret"
    outside.write_text("secret\n")
    (folder / "host").write_text("from the host\n")
    with open_box(program, name, folder) as inside:
        assert inside(f"cat host; {_MADE}") == "from the host\nrefused\n"
        status = (folder / "file").stat()
        # The user's, and without the set-user-id bit.
        assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
        assert stat.S_IMODE(status.st_mode) == 0o750
        assert (folder / "link").readlink() == Path("file")
        assert {path.name for path in folder.iterdir()} == {"host", "file", "link", "folder"}
        assert inside(f"set -- {shlex.quote(str(folder.parent))}; {_ESCAPES}") == "none\n"
        (folder / "host").write_text("changed\n")
        assert inside("cat host; rm -r file link folder out") == "changed\n"
    assert [path.name for path in folder.iterdir()] == ["host"]


def check_read_only(program: Pymachine, name: str, folder: Path, point: str) -> None:
    """Check that root in the guest cannot change the shared `folder` at `point`, even if it mounts it writable."""
    (folder / "read").write_text("only\n")
    with open_shells.in_machine(program, name) as guest:
        change = f"cd {point}; mount -o remount,rw {point}; echo x > read; rm read; touch new"
        guest(f"sudo sh -c '{change}' || true")
        run = f"docker run --rm -v {point}:/work -w /work box"
        assert guest(f"{run} sh -c 'cat read; echo x > new || echo refused'").startswith("only\n")
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("read", "only\n")]


def check_events(program: Pymachine, name: str, folder: Path) -> None:
    """Check that a change on the host raises an event in the shared `folder` while a container mounts it."""
    with open_shells.in_machine(program, name) as guest, open_box(program, name, folder):
        watcher = guest(f"inotifywait -m -q -e attrib --format %f {folder} > /tmp/events 2>&1 & echo $!").strip()

        def is_noticed() -> bool:
            (folder / "saved").write_text("before" if (folder / "saved").exists() else "after")
            return "saved\n" in guest("cat /tmp/events")

        until(is_noticed, deadline=_EVENT_SECONDS, what="the event ATTRIB for saved", interval=1.0)
        (folder / "saved").unlink()
        guest(f"kill {watcher}")
