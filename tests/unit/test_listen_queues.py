"""Longer listen queues for the ports of another process, lengthened as root and as an ordinary user."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from pymachine.cli import doctor
from pymachine.driver.kit import listen_queues
from pymachine_driver_qemu import Driver as QemuDriver, process, qmp, runtime
from support.registry import free_port
from support.unprivileged import USERS, run_as_user

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a facility of Linux")

CLIENTS = 100
# With the queue full, a client's first attempt is dropped, and the next one follows after a second.
ATTEMPT_SECONDS = 0.5


def count_connected(port: int) -> int:
    """Open `CLIENTS` connections at once; return how many connect at the first attempt."""
    with ExitStack() as kept:
        clients = [kept.enter_context(socket.socket()) for _ in range(CLIENTS)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        return sum(is_connected(client) for client in clients)


def is_connected(client: socket.socket) -> bool:
    try:
        client.getpeername()
    except OSError:
        return False
    return True


@contextmanager
def child_listening(backlog_of_child: int) -> Iterator[tuple[int, int]]:
    """Start a child that listens and accepts nothing; yield its pid and the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog_of_child) as server:
        child = subprocess.Popen(["sleep", "600"], pass_fds=[server.fileno()])
        port = int(server.getsockname()[1])
    try:
        yield child.pid, port
    finally:
        child.kill()
        child.wait()


def test_all_clients_of_a_burst_connect_to_a_lengthened_queue() -> None:
    with child_listening(1) as (pid, port):
        assert count_connected(port) < CLIENTS // 2
    with child_listening(1) as (pid, port):
        assert listen_queues.lengthen(pid) == 1
        assert count_connected(port) == CLIENTS


def test_no_queue_is_lengthened_for_a_process_that_has_ended() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert listen_queues.lengthen(child.pid) == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that another user may own: pytest's own folders are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="pm-") as made:
        yield Path(made)


@pytest.mark.parametrize("user", USERS)
def test_every_port_of_qemu_takes_a_burst_of_clients(user: int, folder: Path) -> None:
    """QEMU is stopped by a signal, so it accepts nothing and connections wait in its queues."""
    ports = [free_port(), free_port()]
    later = free_port()
    control = folder / runtime.CONTROL
    os.chown(folder, user, -1)
    forwards = ",".join(f"hostfwd=tcp:127.0.0.1:{port}-:80" for port in ports)
    argv = ["qemu-system-x86_64", "-machine", "none", "-nodefaults", "-display", "none"]
    argv += ["-qmp", process.monitor_argument(control), "-netdev", f"user,id=net,{forwards}"]

    def launch_and_lengthen() -> None:
        process.launch(argv, directory=folder, sockets=folder, environment={})
        with qmp.Qmp(control) as monitor:
            assert listen_queues.lengthen(monitor.pid()) == len(ports)
            assert monitor.human(f"hostfwd_add net tcp:127.0.0.1:{later}-:80") == ""
            assert listen_queues.lengthen(monitor.pid()) == len(ports) + 1

    try:
        run_as_user(user, launch_and_lengthen)
        with qmp.Qmp(control) as monitor:
            pid = monitor.pid()
        os.kill(pid, signal.SIGSTOP)
        assert [count_connected(port) for port in (*ports, later)] == [CLIENTS] * 3
        os.kill(pid, signal.SIGCONT)
    finally:
        process.end(folder)


# -- hosts where queues cannot be lengthened ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "scope", "reason"),
    [
        (38, 0, "no pidfd_getfd"),
        (1, 0, "as is the default in containers"),
        (1, 1, "kernel.yama.ptrace_scope is 1 and another program has started the hypervisor"),
        (1, 2, "kernel.yama.ptrace_scope is 2"),
    ],
)
def test_doctor_says_why_queues_cannot_be_lengthened(
    error: int, scope: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, number: int) -> bool:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(listen_queues, "_lengthen", refuse)
    monkeypatch.setattr(listen_queues, "_yama", lambda: scope)
    notes = [
        found for found in doctor._check_drivers("qemu") if found.verdict == doctor.NOTE and "at once" in found.text
    ]
    assert [note.subject for note in notes] == ["driver qemu"]
    assert reason in notes[0].text


def test_a_python_without_pidfds_raises_backlog_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(listen_queues.BacklogError, match="built without"):
        listen_queues.lengthen(os.getpid())


def test_a_process_of_another_user_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "iterdir", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(listen_queues.BacklogError, match=f"process {os.getpid()} belongs to another user"):
        listen_queues.lengthen(os.getpid())


def test_doctor_has_no_note_where_queues_can_be_lengthened() -> None:
    assert QemuDriver.health().notes == ()
