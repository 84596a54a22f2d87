"""Kinds of tries, the loop that runs them within a time limit, and the table of results."""

from __future__ import annotations

import random
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TextIO

from endurance.sandbox import Sandbox

_LONGEST_FAULT = 1000


class FaultError(AssertionError):
    """An invariant does not hold."""


def expect(condition: object, text: str) -> None:
    """Raise `FaultError` unless `condition` is true."""
    if not condition:
        raise FaultError(text)


@dataclass(frozen=True)
class Try:
    """One try of a kind, with random numbers that its number and the seed determine."""

    kind: str
    number: int
    seed: int

    @property
    def random(self) -> random.Random:
        """A random generator that gives the same numbers whenever this try is repeated."""
        return random.Random(f"{self.seed}/{self.kind}/{self.number}")

    @property
    def spread(self) -> float:
        """A number from 0 to 1. Consecutive tries get numbers far apart, so that all steps are covered."""
        offset = random.Random(f"{self.seed}/{self.kind}").random()
        return (offset + self.number * 0.6180339887498949) % 1.0

    @property
    def repeat(self) -> str:
        """The command that repeats only this try."""
        return f"make endurance ENDURANCE_OPTIONS='--kind {self.kind} --seed {self.seed} --only {self.number}'"


@dataclass(frozen=True)
class Kind:
    """A kind of disturbance: one row of the table."""

    name: str
    description: str
    """A short description for the table and ``--list``."""
    rounds: int
    """The default number of tries."""
    sandbox: Callable[[], AbstractContextManager[Sandbox]]
    """Makes the sandbox for the tries; after a fault the next try gets a new one."""
    attempt: Callable[[Sandbox, Try], str | None]
    """Make one try. Raises if an invariant does not hold; may return a text on what it measured."""
    slow: bool = False
    """Whether tries are so slow that ``--rounds`` cannot raise their number above the default."""
    seconds: float = 10.0
    """The duration of a try on two processors in software emulation; determines the share of the time."""


@dataclass
class Result:
    """The result of the tries of one kind."""

    kind: Kind
    tries: int = 0
    faults: list[str] = field(default_factory=list)
    measured: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to run."""

    seed: int
    rounds: int | None = None
    """Tries of each kind, instead of its default; slow kinds have at most their default."""
    only: int | None = None
    """The number of the only try to make."""
    seconds: float = float("inf")
    """The time limit for all kinds. Each has a share in proportion to its needs, and starts no try after it."""

    def numbers(self, kind: Kind) -> list[int]:
        """Return the numbers of the tries of `kind`; the first one only measures and disturbs nothing."""
        if self.only is not None:
            return [0, self.only][: 1 + bool(self.only)]
        rounds = kind.rounds if self.rounds is None else self.rounds
        return list(range(min(rounds, kind.rounds) if kind.slow else rounds))

    def need(self, kind: Kind) -> float:
        """Return how many seconds the tries of `kind` take."""
        return len(self.numbers(kind)) * kind.seconds


def run(kinds: Sequence[Kind], plan: Plan, *, log: TextIO = sys.stderr) -> list[Result]:
    """Make all tries and return the results; write progress to `log`."""
    end = time.monotonic() + plan.seconds
    return [_run_kind(kind, plan, _end_of(kinds[position:], plan, end), log) for position, kind in enumerate(kinds)]


def _end_of(kinds: Sequence[Kind], plan: Plan, end: float) -> float:
    """Return when the first of `kinds` must start no more tries; unused time passes to the kinds after it."""
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
            with kind.sandbox() as sandbox:
                sandbox.steps = steps
                _tries(kind, plan, sandbox, left, result, end, log)
        except Exception as error:  # noqa: BLE001 (failing to make or remove a sandbox is a fault too)
            _note(result, f"{kind.name}: the sandbox of the tries: {_text(error)}", log)
            if len(left) == before:
                break
    result.seconds = time.monotonic() - began
    log.write(f"{kind.name}: {result.tries} tries, {len(result.faults)} faults, {result.seconds:.0f} s\n")
    log.flush()
    return result


def _tries(kind: Kind, plan: Plan, sandbox: Sandbox, left: list[int], result: Result, end: float, log: TextIO) -> None:
    """Make tries until one has a fault, after which the store may be in any state."""
    while left and (time.monotonic() < end or not result.tries):
        attempt = Try(kind.name, left.pop(0), plan.seed)
        result.tries += 1
        try:
            result.measured = kind.attempt(sandbox, attempt) or result.measured
        except Exception as error:  # noqa: BLE001 (every error is a fault to report)
            _note(result, f"{kind.name}: {_text(error)}\n    Repeat it: {attempt.repeat}", log)
            return


def _note(result: Result, text: str, log: TextIO) -> None:
    result.faults.append(text)
    log.write(text + "\n")
    log.flush()


def _text(error: Exception) -> str:
    text = str(error) if isinstance(error, FaultError) else f"{type(error).__name__}: {error}"
    return text[:_LONGEST_FAULT]


def table(results: Sequence[Result]) -> Iterator[str]:
    """Yield the lines of the table, in Markdown."""
    yield "| kind | what | tries | faults | seconds | measured |"
    yield "|---|---|---|---|---|---|"
    for result in results:
        kind = result.kind
        cells = (
            kind.name,
            kind.description,
            result.tries,
            len(result.faults),
            f"{result.seconds:.0f}",
            result.measured,
        )
        yield "| " + " | ".join(map(str, cells)).rstrip() + " |"


def first_faults(results: Sequence[Result]) -> Iterator[str]:
    """Yield the first fault of each kind that has one."""
    for result in results:
        yield from result.faults[:1]


def command(words: Sequence[str]) -> str:
    """Return the command line for display."""
    return shlex.join(["pymachine", *words])
