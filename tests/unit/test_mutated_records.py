"""Damaged and hostile records: each command reports the problem, and nothing outside the store is touched."""

from __future__ import annotations

import random

from support import mutations

SEED = 20261126
ROUNDS = 150


def test_no_damaged_record_crashes_pymachine() -> None:
    done = mutations.campaign(ROUNDS, SEED)
    assert done.rounds == ROUNDS
    assert done.commands == ROUNDS * len(mutations.COMMANDS)
    assert not done.faults, "\n\n".join(done.faults)


def test_the_campaign_detects_the_removal_of_the_users_context() -> None:
    with mutations.isolated(random.Random(1)) as calls:
        calls.run(["docker", "context", "rm", "--force", "--", "mine"])
        calls.popen(["ssh", "-oProxyCommand=touch x@127.0.0.1"])
        assert len(list(calls.faults())) == 2


def test_a_campaign_with_the_same_seed_is_the_same() -> None:
    first, second = (mutations.mutated(mutations.record("qemu"), random.Random(5)) for _ in range(2))
    assert repr(first) == repr(second) != repr(mutations.record("qemu"))
