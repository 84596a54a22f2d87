"""Create and remove machines repeatedly, and check that nothing is left or grows."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial

from endurance import invariants, machines
from endurance.campaign import Kind, Try, expect
from endurance.kill_record_commands import CREATE
from endurance.sandbox import Sandbox, with_bystander

_RECORDS_A_TRY = 5


def _cycle(sandbox: Sandbox, words: tuple[str, ...], names: list[str]) -> None:
    for name in names:
        sandbox.program(*words, name)
        sandbox.program("rm", "-y", name)


def _attempt(words: tuple[str, ...], count: int, sandbox: Sandbox, attempt: Try) -> str:
    """Run `count` cycles. The first try may add what is made once (keys, locks, probe caches); later ones nothing."""
    before = invariants.Before.of(sandbox)
    files = _files(sandbox)
    _cycle(sandbox, words, [f"x{attempt.number}-{number}" for number in range(count)])
    invariants.nothing_is_left(sandbox, (), before)
    if attempt.number:
        more = sorted(_files(sandbox) - files)
        expect(not more, f"{count} cycles of create and rm leave: {more}")
    running = sandbox.processes()
    cycles = (attempt.number + 1) * count
    return f"after {cycles} cycles: {len(_files(sandbox))} files, {len(running)} processes, {_memory(running)} KiB"


def _files(sandbox: Sandbox) -> set[str]:
    return {str(path.relative_to(sandbox.base)) for path in sandbox.base.rglob("*")}


def _memory(running: Iterable[int]) -> int:
    """Return the memory of the processes, in KiB."""
    pages = 0
    for pid in running:
        try:
            with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123 (as in /proc's manual)
                pages += int(file.read().split()[1])
        except OSError:  # it has ended
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def _stays_running(sandbox: Sandbox, attempt: Try) -> str:
    """Run cycles while another machine runs, which must not be disturbed."""
    if not attempt.number:
        machines.create(sandbox, "stays")
        return ""
    measured = _attempt(("create",), 1, sandbox, attempt)
    invariants.call(sandbox, "ssh", "stays", "true", code=0)
    return measured


KINDS = [
    Kind(
        "cycle-record",
        f"{_RECORDS_A_TRY} cycles of create and rm, driver none",
        40,
        partial(with_bystander, real=False),
        partial(_attempt, CREATE, _RECORDS_A_TRY),
        seconds=3.5,
    ),
    Kind(
        "cycle-machine",
        "create and rm while another machine runs",
        10,
        partial(with_bystander, real=True),
        _stays_running,
        seconds=4,
    ),
]
