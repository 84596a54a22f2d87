"""Kinds of tries, running them in bounded loops, and the table of what came out."""

from __future__ import annotations

import random
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TextIO

from endurance.place import Place

_LONGEST_FAULT = 1000


class FaultError(AssertionError):
    """What must hold did not hold."""


def expect(condition: object, text: str) -> None:
    """Raise `FaultError` unless `condition` is true."""
    if not condition:
        raise FaultError(text)


@dataclass(frozen=True)
class Try:
    """One try of a kind: its number, and its own random numbers, which the seed and the number determine."""

    kind: str
    number: int
    seed: int

    @property
    def random(self) -> random.Random:
        """Random numbers that are the same each time that this try is repeated."""
        return random.Random(f"{self.seed}/{self.kind}/{self.number}")

    @property
    def spread(self) -> float:
        """A number from 0 to 1: those of consecutive tries lie as far apart as can be, so that each step is met."""
        offset = random.Random(f"{self.seed}/{self.kind}").random()
        return (offset + self.number * 0.6180339887498949) % 1.0

    @property
    def repeat(self) -> str:
        """The command that repeats this try alone."""
        return f"make endurance ENDURANCE_OPTIONS='--kind {self.kind} --seed {self.seed} --only {self.number}'"


@dataclass(frozen=True)
class Kind:
    """One row of the table."""

    name: str
    what: str
    """For the table and ``--list``: what is tried, in a few words."""
    rounds: int
    """How many tries there are by default."""
    place: Callable[[], AbstractContextManager[Place]]
    """Makes the store for the tries; after a fault the next try has a new one."""
    attempt: Callable[[Place, Try], str | None]
    """One try. Raises if something does not hold; may return a word on what it measured."""
    slow: bool = False
    """Whether tries take so long that ``--rounds`` above the default does not count for it."""
    seconds: float = 10.0
    """How long a try takes on two processors in software emulation: its share of the time goes by that."""


@dataclass
class Result:
    """What came out of the tries of one kind."""

    kind: Kind
    tries: int = 0
    faults: list[str] = field(default_factory=list)
    measured: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is done."""

    seed: int
    rounds: int | None = None
    """Tries of each kind, instead of its own number; kinds that are slow have no more than their own."""
    only: int | None = None
    """The number of the one try that is made."""
    seconds: float = float("inf")
    """How long all kinds may take together: each has a share by what its tries need, and begins none later."""

    def numbers(self, kind: Kind) -> list[int]:
        """The numbers of the tries of `kind`; the first one disturbs nothing, but measures."""
        if self.only is not None:
            return [0, self.only][: 1 + bool(self.only)]
        rounds = kind.rounds if self.rounds is None else self.rounds
        return list(range(min(rounds, kind.rounds) if kind.slow else rounds))

    def need(self, kind: Kind) -> float:
        """How many seconds the tries of `kind` take."""
        return len(self.numbers(kind)) * kind.seconds


def run(kinds: Sequence[Kind], plan: Plan, *, log: TextIO = sys.stderr) -> list[Result]:
    """Make all tries, and return what came out; what is going on is written to `log`."""
    end = time.monotonic() + plan.seconds
    return [_run_kind(kind, plan, _end_of(kinds[place:], plan, end), log) for place, kind in enumerate(kinds)]


def _end_of(kinds: Sequence[Kind], plan: Plan, end: float) -> float:
    """When the first of `kinds` begins no more tries: what it leaves of its share goes to those after it."""
    now = time.monotonic()
    share = plan.need(kinds[0]) / sum(plan.need(kind) for kind in kinds)
    return now + max(0.0, end - now) * share


def _run_kind(kind: Kind, plan: Plan, end: float, log: TextIO) -> Result:
    result = Result(kind)
    began = time.monotonic()
    left = plan.numbers(kind)
    steps: dict[str, tuple[int, int]] = {}
    while left and (time.monotonic() < end or not result.tries):
        before = len(left)
        try:
            with kind.place() as place:
                place.steps = steps
                _tries(kind, plan, place, left, result, end, log)
        except Exception as error:  # noqa: BLE001 (a store that cannot be made or removed is a fault too)
            _note(result, f"{kind.name}: the store of the tries: {_text(error)}", log)
            if len(left) == before:
                break
    result.seconds = time.monotonic() - began
    log.write(f"{kind.name}: {result.tries} tries, {len(result.faults)} faults, {result.seconds:.0f} s\n")
    log.flush()
    return result


def _tries(kind: Kind, plan: Plan, place: Place, left: list[int], result: Result, end: float, log: TextIO) -> None:
    """Make tries until one has a fault: after that the store may be in any state."""
    while left and (time.monotonic() < end or not result.tries):
        each = Try(kind.name, left.pop(0), plan.seed)
        result.tries += 1
        try:
            result.measured = kind.attempt(place, each) or result.measured
        except Exception as error:  # noqa: BLE001 (whatever went wrong is the result)
            _note(result, f"{kind.name}: {_text(error)}\n    Repeat it: {each.repeat}", log)
            return


def _note(result: Result, text: str, log: TextIO) -> None:
    result.faults.append(text)
    log.write(text + "\n")
    log.flush()


def _text(error: Exception) -> str:
    text = str(error) if isinstance(error, FaultError) else f"{type(error).__name__}: {error}"
    return text[:_LONGEST_FAULT]


def table(results: Sequence[Result]) -> Iterator[str]:
    """The lines of the table, in Markdown."""
    yield "| kind | what | tries | faults | seconds | measured |"
    yield "|---|---|---|---|---|---|"
    for each in results:
        kind = each.kind
        cells = (kind.name, kind.what, each.tries, len(each.faults), f"{each.seconds:.0f}", each.measured)
        yield "| " + " | ".join(map(str, cells)).rstrip() + " |"


def first_faults(results: Sequence[Result]) -> Iterator[str]:
    """The first fault of each kind that has one."""
    for each in results:
        yield from each.faults[:1]


def command(words: Sequence[str]) -> str:
    """The command line as it is shown."""
    return shlex.join(["pymachine", *words])
