"""Invariants, checked after each kill, full disk and hostile input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from endurance import without_grace_period
from endurance.campaign import FaultError, command, expect
from endurance.sandbox import BYSTANDER, SECONDS, Sandbox
from support.runner import PROGRAM, Outcome

_INTERNAL = ("Traceback (most recent call last)", "internal error")


@dataclass(frozen=True)
class Before:
    """The state of a sandbox before a try."""

    unchanged: dict[str, object]
    entries: set[str]
    sockets: set[str]
    contexts: set[str]
    processes: set[int]

    @classmethod
    def of(cls, sandbox: Sandbox) -> Before:
        """Take the current state of `sandbox`."""
        return cls(
            sandbox.unchanged(),
            sandbox.entries(),
            sandbox.socket_folders(),
            sandbox.contexts(),
            set(sandbox.processes()),
        )


@contextmanager
def after(where: str) -> Iterator[None]:
    """Prefix the text of a fault with the disturbance that it came after."""
    try:
        yield
    except FaultError as error:
        raise FaultError(f"after {where}: {error}") from error


def call(sandbox: Sandbox, *words: str, code: int | None = None, start: Sequence[str] = (str(PROGRAM),)) -> Outcome:
    """Run a command that may fail, but not with an internal error; `start` is the command that starts pymachine."""
    outcome = sandbox.program.run([*start, *words], code=None, timeout=SECONDS)
    for sign in _INTERNAL:
        expect(sign not in outcome.text, f"`{command(words)}` says: {outcome.text}")
    expect(
        code is None or outcome.code == code,
        f"`{command(words)}` ended with {outcome.code} and not {code}: {outcome.text}",
    )
    return outcome


def commands_answer(sandbox: Sandbox, names: Sequence[str]) -> None:
    """Check that commands that read machines have no internal error, and that `ls` succeeds."""
    call(sandbox, "ls", "-t", "5", code=0)
    call(sandbox, "doctor")
    for name in names:
        call(sandbox, "inspect", name)
        call(sandbox, "status", name)


def records_are_readable(sandbox: Sandbox) -> None:
    """Check that each machine has a record with its name, and that `prune` removes what a kill left."""
    call(sandbox, "prune", code=0, start=(sys.executable, without_grace_period.__file__))
    for name in sorted(sandbox.entries() - {BYSTANDER}):  # the bystander's record is compared byte for byte
        expect(not name.startswith("."), f"machines/{name} is left in the store")
        outcome = call(sandbox, "inspect", name)
        expect(outcome.code == 0, f"the record of {name} cannot be read: {outcome.text}")
        recorded = json.loads(outcome.stdout)["Driver"].get("MachineName", name)
        expect(recorded == name, f"the record of {name} is that of {recorded}")


def nothing_is_left(sandbox: Sandbox, names: Sequence[str], before: Before) -> None:
    """Check that `rm -f` removes the machines completely, and nothing of another machine or the user."""
    for name in names:
        if name in sandbox.entries():
            call(sandbox, "rm", "-y", "-f", name, code=0)
    extra = sandbox.entries() - before.entries
    expect(not extra, f"rm -f leaves in machines/: {sorted(extra)}")
    processes = sandbox.remaining_processes(before.processes)
    expect(not processes, f"rm -f leaves processes: {processes}")
    expect(not sandbox.socket_folders() - before.sockets, f"rm -f leaves socket folders: {sandbox.socket_folders()}")
    expect(not sandbox.contexts() - before.contexts, "rm -f leaves a docker context")
    others_are_the_same(sandbox, before)


def others_are_the_same(sandbox: Sandbox, before: Before) -> None:
    """Check that the bystander, the store's keys and everything outside the store are unchanged."""
    now = sandbox.unchanged()
    changed = sorted(key for key in now.keys() | before.unchanged.keys() if now.get(key) != before.unchanged.get(key))
    expect(not changed, f"changed although no command named it: {changed}")
