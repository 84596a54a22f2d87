"""Replay commands recorded from docker-machine, and compare the differences with the list of intended ones."""

from __future__ import annotations

import pytest

from support import recorded
from support.recorded import REPOSITORY, Case, Result

TABLE = REPOSITORY / "docs" / "how-to" / "from-docker-machine.md"
# The largest share of commands in which each part may differ.
HIGHEST = {"code": 0.05, "stdout": 0.05, "stderr": 0.10}


@pytest.fixture(scope="module")
def replayed() -> list[tuple[Case, Result]]:
    return recorded.replay(recorded.cases())


def test_all_differences_are_intended(replayed: list[tuple[Case, Result]]) -> None:
    """An unlisted difference fails, and so does an entry of the list that no longer differs."""
    wanted = {key: parts for reason in recorded.reasons() for key, parts in reason.cases.items()}
    found = {case.key: parts for case, got in replayed if (parts := case.differs(got))}
    new = {key: parts for key, parts in found.items() if parts != wanted.get(key)}
    gone = sorted(wanted.keys() - found.keys())
    details = [f"{case.key}\n  {case}\n  {got}" for case, got in replayed if case.key in new]
    assert not new, "\n".join(["not in wanted.toml, or with other parts:", *details])
    assert not gone, f"remove from wanted.toml: {gone}"


def test_differences_are_few(replayed: list[tuple[Case, Result]]) -> None:
    shares = {part: sum(part in case.differs(got) for case, got in replayed) / len(replayed) for part in recorded.PARTS}
    assert all(shares[part] <= highest for part, highest in HIGHEST.items()), shares


def test_the_documentation_lists_every_reason() -> None:
    rows = {line.split("|")[1].strip() for line in TABLE.read_text().splitlines() if line.startswith("|")}
    assert {reason.row for reason in recorded.reasons()} <= rows


def test_no_difference_is_listed_twice() -> None:
    keys = [key for reason in recorded.reasons() for key in reason.cases]
    assert len(keys) == len(set(keys))
