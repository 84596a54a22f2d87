"""Damaged and hostile records: each command says what is wrong, and nothing outside of the store is touched."""

from __future__ import annotations

import random

from support import mutations

SEED = 20261126
ROUNDS = 150


def test_no_record_is_a_fault_of_pymachine() -> None:
    done = mutations.campaign(ROUNDS, SEED)
    assert done.rounds == ROUNDS
    assert done.commands == ROUNDS * len(mutations.COMMANDS)
    assert not done.faults, "\n\n".join(done.faults)


def test_the_campaign_would_see_a_context_of_the_users_removed() -> None:
    with mutations.isolated(random.Random(1)) as calls:
        calls.run(["docker", "context", "rm", "--force", "--", "mine"])
        calls.popen(["ssh", "-oProxyCommand=touch x@127.0.0.1"])
        assert len(list(calls.faults())) == 2


def test_a_campaign_is_the_same_for_a_seed() -> None:
    first, second = (mutations.mutated(mutations.record("qemu"), random.Random(5)) for _ in range(2))
    assert repr(first) == repr(second) != repr(mutations.record("qemu"))
