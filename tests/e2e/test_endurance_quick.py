"""A few tries of each quick kind of the endurance campaign (`make endurance`), with a fixed seed."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from endurance import campaign, kinds
from endurance.sandbox import Sandbox
from support.runner import Pymachine

SEED = 1
# The first try of a kind disturbs nothing and measures the number of steps.
TRIES = {
    "kill-create-record": 3,
    "kill-rm-record": 3,
    "kill-import-record": 3,
    "kill-modify": 2,
    "killed-qemu": 1,
    "parallel-records": 1,
    "cycle-record": 2,
    "full-disk-create": 2,
    "full-disk-rm": 1,
    "full-disk-qemu-create": 2,
    "hostile-engine": 1,
    "damaged-records": 1,
    "damaged-archives": 1,
}
BY_NAME = {kind.name: kind for kind in kinds.ALL}


@pytest.mark.parametrize("name", [name for name in TRIES if name in BY_NAME])
def test_nothing_is_lost_and_nothing_is_left(name: str) -> None:
    (result,) = campaign.run([BY_NAME[name]], campaign.Plan(seed=SEED, rounds=TRIES[name]), log=io.StringIO())
    assert result.faults == []
    assert result.tries == TRIES[name]


def test_a_kind_that_finds_a_fault_reports_it_with_its_seed() -> None:
    def fails(sandbox: object, attempt: campaign.Try) -> None:
        campaign.expect(attempt.number == 0, "it is lost")

    kind = campaign.Kind("broken", "a kind with a fault", 3, BY_NAME["cycle-record"].sandbox, fails)
    (result,) = campaign.run([kind], campaign.Plan(seed=7), log=io.StringIO())
    assert (result.tries, len(result.faults)) == (3, 2)
    assert "it is lost" in result.faults[0]
    assert "--kind broken --seed 7 --only 1" in result.faults[0]
    assert "| broken | a kind with a fault | 3 | 2 |" in "\n".join(campaign.table([result]))


def test_each_kind_gets_its_share_of_a_limited_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def takes(seconds: float) -> Callable[[object, campaign.Try], None]:
        def advance_clock(sandbox: object, attempt: campaign.Try) -> None:
            clock[0] += seconds

        return advance_clock

    def sandbox() -> contextlib.nullcontext[Sandbox]:
        return contextlib.nullcontext(Sandbox(tmp_path, Pymachine(tmp_path, tmp_path)))

    made = [
        campaign.Kind("late", "takes twice as long as was measured", 100, sandbox, takes(2), seconds=1),
        campaign.Kind("long", "takes longer than its share", 1, sandbox, takes(500), seconds=10),
        campaign.Kind("last", "as measured", 100, sandbox, takes(1), seconds=1),
    ]
    results = campaign.run(made, campaign.Plan(seed=7, seconds=105), log=io.StringIO())
    assert [result.tries for result in results] == [25, 1, 1]
    clock[0] = 0.0
    results = campaign.run([made[0], made[2]], campaign.Plan(seed=7, seconds=100), log=io.StringIO())
    assert [result.tries for result in results] == [25, 50]


def test_every_kind_has_a_unique_name() -> None:
    assert len(BY_NAME) == len(kinds.ALL)
    assert len(TRIES.keys() - BY_NAME.keys()) <= len(kinds.LEFT_OUT)
