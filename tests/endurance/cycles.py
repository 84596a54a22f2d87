"""Create and remove over and over: what is left after each cycle, and whether it grows."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial

from endurance import invariants, machines
from endurance.campaign import Kind, Try, expect
from endurance.kills_of_records import CREATE
from endurance.place import Place, with_bystander

_RECORDS_A_TRY = 5


def _cycle(place: Place, words: tuple[str, ...], names: list[str]) -> None:
    for name in names:
        place.program(*words, name)
        place.program("rm", "-y", name)


def _attempt(words: tuple[str, ...], count: int, place: Place, each: Try) -> str:
    """The first try makes what is made once (keys, locks, what is known of this host); the next ones add nothing."""
    before = invariants.Before.of(place)
    files = _files(place)
    _cycle(place, words, [f"x{each.number}-{number}" for number in range(count)])
    invariants.nothing_is_left(place, (), before)
    if each.number:
        more = sorted(_files(place) - files)
        expect(not more, f"{count} cycles of create and rm leave: {more}")
    running = place.processes()
    cycles = (each.number + 1) * count
    return f"after {cycles} cycles: {len(_files(place))} files, {len(running)} processes, {_memory(running)} KiB"


def _files(place: Place) -> set[str]:
    return {str(path.relative_to(place.base)) for path in place.base.rglob("*")}


def _memory(running: Iterable[int]) -> int:
    """How much memory the processes have, in KiB."""
    pages = 0
    for pid in running:
        try:
            with open(f"/proc/{pid}/statm") as file:  # noqa: PTH123 (as in /proc's manual)
                pages += int(file.read().split()[1])
        except OSError:  # it has ended
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def _stays_running(place: Place, each: Try) -> str:
    """Cycles beside a machine that runs: it is not disturbed."""
    if not each.number:
        machines.create(place, "stays")
        return ""
    said = _attempt(("create",), 1, place, each)
    invariants.call(place, "ssh", "stays", "true", code=0)
    return said


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
        "create and rm beside a machine that runs",
        10,
        partial(with_bystander, real=True),
        _stays_running,
        seconds=4,
    ),
]
