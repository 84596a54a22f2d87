"""Kill the processes of a running machine: QEMU, and the port forwarder."""

from __future__ import annotations

import os
import signal
from functools import partial

from endurance import invariants, machines
from endurance.campaign import Kind, Try, expect
from endurance.place import Place, with_bystander

_FORWARDER = "pymachine_driver_qemu.ports"


def _processes(place: Place) -> tuple[dict[int, str], dict[int, str]]:
    """The machine's QEMU; and its port forwarder, with the shell that waits for the first container."""
    folder = str(place.folder("box"))
    own = {pid: text for pid, text in place.processes().items() if folder in text}
    forwarders = {pid: text for pid, text in own.items() if _FORWARDER in text}
    return {pid: text for pid, text in own.items() if pid not in forwarders}, forwarders


def _kill(found: dict[int, str], what: str) -> None:
    expect(found, f"the machine has no {what}")
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def _qemu(place: Place, each: Try) -> None:
    """A machine without QEMU is stopped, and starts; nothing of it is left."""
    before = invariants.Before.of(place)
    machines.create(place, "box", "--docker-context")
    _kill(_processes(place)[0], "QEMU")
    with invariants.after("QEMU was killed"):
        invariants.commands_answer(place, ("box",))
        expect(machines.comes_true(lambda: not any(_processes(place))), "the forwarder outlives its QEMU")
        machines.is_stopped(place)
        if each.number % 4 == 0:  # the guest boots from power-on
            machines.runs(place)
        invariants.records_are_readable(place)
        invariants.nothing_is_left(place, ("box",), before)


def _forwarder(place: Place, each: Try) -> None:
    """A machine whose port forwarder was killed has one again after `start`."""
    before = invariants.Before.of(place)
    machines.create(place)
    machines.serve(place)
    machines.forwards(place)
    _kill(_processes(place)[1], "port forwarder")
    with invariants.after("the port forwarder was killed"):
        invariants.commands_answer(place, ("box",))
        machines.runs(place)
        machines.forwards(place)
        invariants.nothing_is_left(place, ("box",), before)


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
