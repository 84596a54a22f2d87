"""Make, grow and flatten disks with a QEMU that runs no machine, so that no other program is needed.

A disk in QEMU's format qcow2 is a file of changes to another file, its base. See `disk.OVERLAY`.
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymachine.driver.contract import refuse_links
from pymachine.driver.errors import TimeoutExpiredError
from pymachine.driver.kit.system import Deadline, os_errors, tied_processes, until
from pymachine_driver_qemu import command_line, qmp
from pymachine_driver_qemu.binary import Qemu
from pymachine_driver_qemu.disk import DiskError

_START_SECONDS = 20.0
_END_SECONDS = 5.0
# A disk of many gigabytes may be copied on a busy host.
_JOB_SECONDS = 3600.0
_JOBS = itertools.count()
_DISK, _BASE, _TARGET = "disk", "base", "target"


def make_overlay(qemu: Qemu, path: Path, *, base: Path) -> None:
    """Make a disk without changes to the raw disk `base`. Raises `DiskError`."""
    with _idle(qemu) as monitor:
        _job(monitor, "blockdev-create", options={"driver": "file", "filename": str(path), "size": 0})
        monitor.execute("blockdev-add", **_file(path, node=_TARGET))
        # All commands that open the disk name its base. This name is only for people who look at the file.
        made = {"driver": "qcow2", "file": _TARGET, "size": base.stat().st_size}
        _job(monitor, "blockdev-create", options={**made, "backing-file": base.name, "backing-fmt": "raw"})
    path.chmod(0o600)


def grow(qemu: Qemu, path: Path, *, base: Path, size: int) -> None:
    """Grow a disk to `size` bytes, unless it is larger. Raises `DiskError`."""
    refuse_links(path.parent, (path.name, base.name))
    with _idle(qemu) as monitor:
        if _open(monitor, path, base=base, read_only=False) < size:
            monitor.execute("block_resize", node_name=_DISK, size=size)


def flatten(qemu: Qemu, path: Path, target: Path, *, base: Path) -> None:
    """Write the whole disk to `target`, as a sparse raw disk. Raises `DiskError`."""
    with _idle(qemu) as monitor:
        size = _open(monitor, path, base=base, read_only=True)
        try:
            with target.open("wb") as raw:
                target.chmod(0o600)
                raw.truncate(size)
        except OSError as error:
            raise os_errors.wrapped(DiskError, f"cannot write {target}", error) from error
        file = {"driver": "file", "filename": str(target)}
        monitor.execute(
            "blockdev-add", driver="raw", node_name=_TARGET, file=file, discard="unmap", detect_zeroes="unmap"
        )
        # Not a backup, which would write the zeros.
        _job(monitor, "blockdev-mirror", device=_DISK, target=_TARGET, sync="full", auto_dismiss=False)


def _file(path: Path, *, node: str) -> dict[str, Any]:
    return {"driver": "file", "filename": str(path), "node_name": node}


def _open(monitor: qmp.Qmp, path: Path, *, base: Path, read_only: bool) -> int:
    """Open the disk as the node `_DISK`, and return its size in bytes."""
    backing = {"driver": "raw", "read-only": True, "file": {"driver": "file", "filename": str(base)}}
    file = {"driver": "file", "filename": str(path)}
    monitor.execute("blockdev-add", driver="qcow2", node_name=_DISK, file=file, backing=backing, read_only=read_only)
    nodes = monitor.execute("query-named-block-nodes")
    return next(int(node["image"]["virtual-size"]) for node in nodes if node["node-name"] == _DISK)


def _job(monitor: qmp.Qmp, command: str, **arguments: Any) -> None:
    """Run a command that is a job, and wait for the job's end. Raises `DiskError` if it fails."""
    name = f"job{next(_JOBS)}"
    monitor.execute(command, job_id=name, **arguments)
    is_cancelled = False

    def ended() -> dict[str, Any] | None:
        nonlocal is_cancelled
        job: dict[str, Any] = next(each for each in monitor.execute("query-jobs") if each["id"] == name)
        if job["status"] == "ready" and not is_cancelled:  # a mirror that has copied everything, and would go on
            is_cancelled = True
            monitor.execute("block-job-cancel", device=name)
        return job if job["status"] == "concluded" else None

    try:
        done = until(ended, deadline=Deadline(_JOB_SECONDS), what=f"QEMU's {command}", interval=0.002, longest=0.2)
    except TimeoutExpiredError as error:
        raise DiskError(error.brief) from error
    monitor.execute("job-dismiss", id=name)
    if "error" in done:
        raise DiskError(f"QEMU's {command} failed: {done['error']}")


@contextmanager
def _idle(qemu: Qemu) -> Iterator[qmp.Qmp]:
    """Run a QEMU without a machine during the block. Raises `DiskError` if it does not start, or refuses a command."""
    ours, theirs = socket.socketpair()
    with theirs:
        argv = [
            *(str(qemu.path), *qemu.arguments, "-machine", "none", "-nodefaults", "-no-user-config"),
            *("-display", "none", "-chardev", f"socket,id=monitor,fd={theirs.fileno()}"),
            *("-mon", "chardev=monitor,mode=control", *(command_line.SANDBOX if qemu.sandbox else ())),
        ]
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, **qemu.environment},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                umask=0o077,
                # It ends with this process, and no longer holds the lock on the disk.
                preexec_fn=tied_processes.tie(),  # noqa: PLW1509 (see there)
            )
        except OSError as error:
            ours.close()
            raise os_errors.wrapped(DiskError, f"cannot run {qemu.path}", error) from error
    try:
        with qmp.Qmp(ours, timeout=_START_SECONDS) as monitor:
            yield monitor
            monitor.execute("quit")
    except qmp.QmpError as error:
        raise DiskError(f"QEMU cannot work on the disk: {error.brief}", details=_end(child)) from error
    finally:
        _end(child)


def _end(child: subprocess.Popen[bytes]) -> str:
    """End the process, if it has not ended yet, and return its output."""
    child.terminate()
    try:
        _, printed = child.communicate(timeout=_END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        _, printed = child.communicate()
    except ValueError:  # it has ended, and its output was read
        return ""
    return printed.decode(errors="replace").strip()
