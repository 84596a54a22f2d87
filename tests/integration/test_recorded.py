"""Commands recorded from docker-machine, against the list of the differences that are wanted."""

from __future__ import annotations

import pytest

from support import recorded
from support.recorded import Case, Result


@pytest.fixture(scope="module")
def replayed() -> list[tuple[Case, Result]]:
    return recorded.replay(recorded.cases())


def test_what_differs_is_what_is_wanted(replayed: list[tuple[Case, Result]]) -> None:
    """A difference that is not in the list fails, and so does an entry that no longer differs."""
    wanted = {key: parts for reason in recorded.reasons() for key, parts in reason.cases.items()}
    found = {case.key: parts for case, got in replayed if (parts := case.differs(got))}
    new = {key: parts for key, parts in found.items() if parts != wanted.get(key)}
    gone = sorted(wanted.keys() - found.keys())
    details = [f"{case.key}\n  {case}\n  {got}" for case, got in replayed if case.key in new]
    assert not new, "\n".join(["not in wanted.toml, or with other parts:", *details])
    assert not gone, f"to be taken out of wanted.toml: {gone}"


def test_no_difference_is_listed_twice() -> None:
    keys = [key for reason in recorded.reasons() for key in reason.cases]
    assert len(keys) == len(set(keys))
