"""Run a command and kill it: at a step, a moment after one, or when it prints a line."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from endurance import stepper
from endurance.campaign import FaultError, Try, command
from endurance.place import SECONDS, Place

_LONGEST_DELAY = 0.4


@dataclass(frozen=True)
class Ended:
    """How a command that was to be killed ended."""

    killed: bool
    where: str
    """For people: the command, and where it was killed."""
    text: str
    code: int = 0
    """The exit code of a command that was not killed."""


def run(place: Place, words: Sequence[str], each: Try) -> Ended:
    """Run ``pymachine WORDS`` and kill it where `each` says; the first run of a place is not killed, but measured."""
    key = " ".join(words)
    if key not in place.steps:
        ended, place.steps[key] = _measure(place, words)
        return ended
    steps, lines = place.steps[key]
    chosen = each.random
    manner = chosen.choice(("step", "step", "moment", "line") if lines else ("step", "step", "moment"))
    if manner == "line":
        return _at_line(place, words, 1 + int(each.spread * lines), chosen.uniform(0, _LONGEST_DELAY))
    stop = str(1 + int(each.spread * steps))
    if manner == "moment":
        stop += f"+{chosen.uniform(0.001, _LONGEST_DELAY):.3f}"
    return _at_step(place, words, stop)


def run_on_filling_disk(place: Place, words: Sequence[str], each: Try, *, left: int) -> Ended:
    """Run the command, and fill the disk of the store but for `left` bytes at a step; the first run is measured."""
    key = " ".join(words)
    if key not in place.steps:
        ended, place.steps[key] = _measure(place, words)
        return ended
    step = 1 + int(each.spread * place.steps[key][0])
    return _at_step(place, words, f"{step}={left}:{place.store}")


def _measure(place: Place, words: Sequence[str]) -> tuple[Ended, tuple[int, int]]:
    """Run the command to its end; return how many steps it has, and how many lines it prints."""
    ended = _at_step(place, words, "never")
    steps = len((place.base / "steps").read_text().splitlines())
    return ended, (steps, len(ended.text.splitlines()))


def _at_step(place: Place, words: Sequence[str], stop: str) -> Ended:
    log = place.base / "steps"
    argv = [sys.executable, str(Path(stepper.__file__)), stop, str(log), *words]
    process = _started(place, argv)
    text = _output(process)
    code = process.returncode
    if stop == "never":
        if code != 0:
            raise FaultError(f"{command(words)}, which nothing disturbed, ended with {code}: {text}")
        return Ended(killed=False, where=f"`{command(words)}`, not killed", text=text)
    lines = log.read_text(errors="replace").splitlines()
    if "=" in stop:
        step, _, rest = stop.partition("=")
        at = " ".join(lines[int(step) - 1 : int(step)])
        where = f"`{command(words)}` with {rest.partition(':')[0]} bytes free from step {at}, which ended with {code}"
        return Ended(killed=False, where=where, text=text, code=code)
    return Ended(killed=code < 0, where=f"`{command(words)}` killed at {stop} ({' '.join(lines[-1:])})", text=text)


def _at_line(place: Place, words: Sequence[str], number: int, delay: float) -> Ended:
    process = _started(place, [sys.executable, "-m", "pymachine", *words])
    lines: list[str] = []

    def count(line: str) -> None:
        lines.append(line)
        if len(lines) == number:
            time.sleep(delay)
            process.kill()

    text = _output(process, count)
    line = lines[number - 1].strip() if len(lines) >= number else "its end"
    where = f"`{command(words)}` killed {delay:.3f} s after the line {line!r}"
    return Ended(killed=process.returncode < 0, where=where, text=text)


def _output(process: subprocess.Popen[str], hear: Callable[[str], None] = lambda _: None) -> str:
    """Call `hear` with each line that a program prints until it ends, and return all of them.

    What the program started may keep its output open: that is read for 10 seconds more, and no longer.
    """
    pieces: list[str] = []

    def read() -> None:
        for line in process.stdout or ():
            pieces.append(line)
            hear(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    reader.join(10)
    return "".join(pieces)


def _started(place: Place, argv: Sequence[str]) -> subprocess.Popen[str]:
    """Start a program whose children are left alone when it is killed, as those of a program that a user kills."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=place.program.environment(),
        text=True,
        errors="replace",
        cwd=place.files,
        start_new_session=True,
    )
