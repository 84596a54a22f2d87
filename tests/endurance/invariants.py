"""What must hold whatever happened: called after each kill, each full disk, each hostile record."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from endurance import later
from endurance.campaign import FaultError, command, expect
from endurance.place import BYSTANDER, SECONDS, Place
from support.runner import PROGRAM, Outcome

_INTERNAL = ("Traceback (most recent call last)", "internal error")


@dataclass(frozen=True)
class Before:
    """What was in a place before a try."""

    unchanged: dict[str, object]
    entries: set[str]
    sockets: set[str]
    contexts: set[str]
    processes: set[int]

    @classmethod
    def of(cls, place: Place) -> Before:
        """Look at `place` now."""
        return cls(place.unchanged(), place.entries(), place.socket_folders(), place.contexts(), set(place.processes()))


@contextmanager
def after(where: str) -> Iterator[None]:
    """Put in front of what does not hold after what it did not."""
    try:
        yield
    except FaultError as error:
        raise FaultError(f"after {where}: {error}") from error


def call(place: Place, *words: str, code: int | None = None, start: Sequence[str] = (str(PROGRAM),)) -> Outcome:
    """Run a command that may fail, but not by a fault of pymachine; `start` is how pymachine is started."""
    outcome = place.program.run([*start, *words], code=None, timeout=SECONDS)
    for sign in _INTERNAL:
        expect(sign not in outcome.text, f"`{command(words)}` says: {outcome.text}")
    expect(
        code is None or outcome.code == code,
        f"`{command(words)}` ended with {outcome.code} and not {code}: {outcome.text}",
    )
    return outcome


def commands_answer(place: Place, names: Sequence[str]) -> None:
    """The commands that look at machines have no internal error, and `ls` none at all."""
    call(place, "ls", "-t", "5", code=0)
    call(place, "doctor")
    for name in names:
        call(place, "inspect", name)
        call(place, "status", name)


def records_are_readable(place: Place) -> None:
    """Each machine that is listed has a record of its own name; what a kill left beside them is gone after `prune`."""
    call(place, "prune", code=0, start=(sys.executable, later.__file__))
    for name in sorted(place.entries() - {BYSTANDER}):  # whose record is the same byte for byte
        expect(not name.startswith("."), f"machines/{name} is left in the store")
        outcome = call(place, "inspect", name)
        expect(outcome.code == 0, f"the record of {name} cannot be read: {outcome.text}")
        said = json.loads(outcome.stdout)["Driver"].get("MachineName", name)
        expect(said == name, f"the record of {name} is that of {said}")


def nothing_is_left(place: Place, names: Sequence[str], before: Before) -> None:
    """`rm -f` removes the machines altogether, and nothing of another machine or of the user's."""
    for name in names:
        if name in place.entries():
            call(place, "rm", "-y", "-f", name, code=0)
    extra = place.entries() - before.entries
    expect(not extra, f"rm -f leaves in machines/: {sorted(extra)}")
    processes = place.remaining_processes(before.processes)
    expect(not processes, f"rm -f leaves processes: {processes}")
    expect(not place.socket_folders() - before.sockets, f"rm -f leaves socket folders: {place.socket_folders()}")
    expect(not place.contexts() - before.contexts, "rm -f leaves a docker context")
    others_are_the_same(place, before)


def others_are_the_same(place: Place, before: Before) -> None:
    """The untouched machine, the store's keys and all outside of the store are as they were."""
    now = place.unchanged()
    changed = sorted(key for key in now.keys() | before.unchanged.keys() if now.get(key) != before.unchanged.get(key))
    expect(not changed, f"changed although no command named it: {changed}")
