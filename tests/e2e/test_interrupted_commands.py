"""Kill commands while they change a real machine, and check that the next command recovers."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pymachine.driver.kit import transactions
from pymachine.system import files
from pymachine.system.wait import until
from pymachine_driver_qemu import background
from support import processes
from support.runner import Pymachine, private_store

NAME = "box"


@pytest.fixture(scope="module")
def program() -> Iterator[Pymachine]:
    with private_store() as made:
        made("create", NAME)
        made("ssh", NAME, "echo today | sudo tee /mnt/sda1/day && sync")
        made("snapshot", "create", NAME, "before")
        yield made


def folder(program: Pymachine) -> Path:
    return program.store / "machines" / NAME


def kill_when(program: Pymachine, condition: Callable[[], bool], *words: str) -> str:
    """Start a command, kill it as soon as `condition` is true, and return its output until then."""
    command = program.start(*words)
    deadline = time.monotonic() + 600
    while not condition():
        assert command.poll() is None, f"{words} ended before it could be killed: {command.communicate()[0]}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(command.pid, signal.SIGKILL)
    return command.communicate()[0]


def state(program: Pymachine) -> str:
    return program("status", NAME).stdout.strip()


def forwarders(program: Pymachine) -> list[int]:
    """Return the pids of the machine's port forwarders, without child processes that they have just started."""
    found = [pid for pid, command in program.processes().items() if background.PORTS.module in command]
    return [pid for pid in found if processes.parent(pid) not in found]


def engine_starts(console: Path) -> int:
    """Count the starts of the machine's engine in the console log."""
    return console.read_text(errors="replace").count("STAGE engine")


def check_it_is_up(program: Pymachine) -> None:
    assert program("ssh", NAME, "cat /mnt/sda1/day").stdout == "today\n"
    assert len(forwarders(program)) == 1
    check_nothing_is_left(program)


def check_nothing_is_left(program: Pymachine) -> None:
    """Check that nothing is left but temporary files, which commands remove once they are a minute old."""
    assert [name for name in leftovers(program) if not files.TEMPORARY_NAME.match(name)] == []

    def is_swept() -> bool:
        if leftovers(program):
            program("start", NAME, code=1)
        return leftovers(program) == []

    until(is_swept, deadline=120, what="the temporary files to be removed", longest=10)


def leftovers(program: Pymachine) -> list[str]:
    found = [path.name for path in folder(program).iterdir()]
    return [name for name in found if name.startswith(".") or name.endswith((".aside", ".new", ".old"))]


def test_start_recovers_from_a_killed_snapshot(program: Pymachine) -> None:
    snapshots = folder(program) / "snapshots"  # the memory is written while the machine is paused
    kill_when(program, lambda: any(snapshots.glob(".tmp-*/state")), "snapshot", "create", NAME, "second")
    assert state(program) == "Paused"
    assert "The last snapshot" in program("start", NAME).text
    assert state(program) == "Running"
    assert program("ssh", NAME, "cat /mnt/sda1/day").stdout == "today\n"
    assert "second" not in program("snapshot", "ls", NAME).stdout
    check_nothing_is_left(program)


def test_start_recovers_the_disk_from_a_killed_restore_and_can_be_killed_itself(program: Pymachine) -> None:
    """`start` is killed once QEMU runs, and again after the engine started. The later ones find a running guest."""
    program("ssh", NAME, "echo tomorrow | sudo tee /mnt/sda1/day && sync")
    aside = folder(program) / "disk.raw.aside"
    kill_when(program, aside.exists, "snapshot", "restore", NAME, "before")
    console = folder(program) / "console.log"
    boots = engine_starts(console)
    assert "The last restore" in kill_when(program, lambda: state(program) == "Running", "start", NAME)
    kill_when(program, lambda: engine_starts(console) > boots, "start", NAME)
    # On a busy host the kill may come after all work is done, just before the exit.
    was_complete = not list(folder(program).glob(f"{transactions.PREFIX}*"))
    again = program("start", NAME, code=1 if was_complete else 0)
    assert ("is already running" in again.text) == was_complete
    assert program("ssh", NAME, "cat /mnt/sda1/day").stdout == "tomorrow\n"
    check_nothing_is_left(program)
    program("snapshot", "restore", NAME, "before")
    check_it_is_up(program)


def test_ssh_answers_as_soon_as_the_machine_has_an_identity(program: Pymachine) -> None:
    """The guest's sshd starts itself again for the identity's keys, and refuses connections until it listens."""
    slow = '#!/bin/sh\nsleep 5\nexec /usr/sbin/sshd.real "$@"\n'
    replace = "sudo mv /usr/sbin/sshd /usr/sbin/sshd.real && sudo tee /usr/sbin/sshd && sudo chmod +x /usr/sbin/sshd"
    program("ssh", NAME, replace, stdin=slow)
    program("modify", "--engine-label", "a=b", NAME)
    output = program("ssh", NAME, "cat /mnt/sda1/day && sudo mv /usr/sbin/sshd.real /usr/sbin/sshd").stdout
    assert output == "today\n"


def test_start_restarts_a_killed_port_forwarder(program: Pymachine) -> None:
    (forwarder,) = forwarders(program)
    subprocess.run(["kill", "-9", str(forwarder)], check=True)
    assert "already running" in program("start", NAME, code=1).text
    assert len(forwarders(program)) == 1


def test_a_machine_that_shuts_down_has_the_state_stopping(program: Pymachine) -> None:
    stopping = program.start("stop", NAME)
    seen = set()
    while stopping.poll() is None:
        seen.add(state(program))
    assert stopping.wait() == 0
    assert seen <= {"Running", "Stopping", "Stopped"}
    assert "Stopping" in seen
    assert state(program) == "Stopped"
    assert program.remaining_processes() == {}


def test_a_killed_create_can_be_repeated(program: Pymachine) -> None:
    created = folder(program).with_name("second") / "config.json"  # exists before the machine runs
    kill_when(program, created.exists, "create", "second")
    assert "The last create" in program("create", "second").text
    assert program("status", "second").stdout == "Running\n"
    program("rm", "-y", "second")
    assert not (program.store / "locks" / "second.lock").exists()
