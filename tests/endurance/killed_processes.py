"""Kill a process of a running machine: QEMU or the port forwarder."""

from __future__ import annotations

import os
import signal
from functools import partial

from endurance import invariants, machines
from endurance.campaign import Kind, Try, expect
from endurance.sandbox import Sandbox, with_bystander

_FORWARDER = "pymachine_driver_qemu.ports"


def _processes(sandbox: Sandbox) -> tuple[dict[int, str], dict[int, str]]:
    """Return the machine's QEMU, and its port forwarder with the shell that waits for the first container."""
    folder = str(sandbox.folder("box"))
    own = {pid: text for pid, text in sandbox.processes().items() if folder in text}
    forwarders = {pid: text for pid, text in own.items() if _FORWARDER in text}
    return {pid: text for pid, text in own.items() if pid not in forwarders}, forwarders


def _kill(found: dict[int, str], name: str) -> None:
    expect(found, f"the machine has no {name}")
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def _qemu(sandbox: Sandbox, attempt: Try) -> None:
    """Check that a machine whose QEMU was killed is stopped, starts again, and can be removed."""
    before = invariants.Before.of(sandbox)
    machines.create(sandbox, "box", "--docker-context")
    _kill(_processes(sandbox)[0], "QEMU")
    with invariants.after("QEMU was killed"):
        invariants.commands_answer(sandbox, ("box",))
        expect(machines.becomes_true(lambda: not any(_processes(sandbox))), "the forwarder outlives its QEMU")
        machines.is_stopped(sandbox)
        if attempt.number % 4 == 0:  # the guest boots from power-on
            machines.runs(sandbox)
        invariants.records_are_readable(sandbox)
        invariants.nothing_is_left(sandbox, ("box",), before)


def _forwarder(sandbox: Sandbox, attempt: Try) -> None:
    """Check that `start` restarts a killed port forwarder."""
    before = invariants.Before.of(sandbox)
    machines.create(sandbox)
    machines.serve(sandbox)
    machines.forwards(sandbox)
    _kill(_processes(sandbox)[1], "port forwarder")
    with invariants.after("the port forwarder was killed"):
        invariants.commands_answer(sandbox, ("box",))
        machines.runs(sandbox)
        machines.forwards(sandbox)
        invariants.nothing_is_left(sandbox, ("box",), before)


KINDS = [
    Kind("killed-qemu", "QEMU killed under a running machine", 9, partial(with_bystander, real=True), _qemu, seconds=9),
    Kind(
        "killed-forwarder",
        "port forwarder killed under a running machine",
        6,
        partial(with_bystander, real=True),
        _forwarder,
        seconds=10,
    ),
]
