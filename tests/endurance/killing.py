"""Run a command and kill it at a step, shortly after one, or when it prints a line."""

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
from endurance.sandbox import SECONDS, Sandbox

_LONGEST_DELAY = 0.4


@dataclass(frozen=True)
class Ended:
    """The end of a disturbed command."""

    killed: bool
    where: str
    """A description of the command and the point of the disturbance."""
    text: str
    code: int = 0
    """The exit code, if the command was not killed."""


def run(sandbox: Sandbox, words: Sequence[str], attempt: Try) -> Ended:
    """Run ``pymachine WORDS`` and kill it at a point that `attempt` determines; only measure a command's first run."""
    key = " ".join(words)
    if key not in sandbox.steps:
        ended, sandbox.steps[key] = _measure(sandbox, words)
        return ended
    steps, lines = sandbox.steps[key]
    chosen = attempt.random
    manner = chosen.choice(("step", "step", "moment", "line") if lines else ("step", "step", "moment"))
    if manner == "line":
        return _at_line(sandbox, words, 1 + int(attempt.spread * lines), chosen.uniform(0, _LONGEST_DELAY))
    stop = str(1 + int(attempt.spread * steps))
    if manner == "moment":
        stop += f"+{chosen.uniform(0.001, _LONGEST_DELAY):.3f}"
    return _at_step(sandbox, words, stop)


def run_on_filling_disk(sandbox: Sandbox, words: Sequence[str], attempt: Try, *, left: int) -> Ended:
    """Run the command, and at a step fill the store's disk up to `left` bytes; only measure the first run."""
    key = " ".join(words)
    if key not in sandbox.steps:
        ended, sandbox.steps[key] = _measure(sandbox, words)
        return ended
    step = 1 + int(attempt.spread * sandbox.steps[key][0])
    return _at_step(sandbox, words, f"{step}={left}:{sandbox.store}")


def _measure(sandbox: Sandbox, words: Sequence[str]) -> tuple[Ended, tuple[int, int]]:
    """Run the command to its end; also return the number of its steps and of the lines it prints."""
    ended = _at_step(sandbox, words, "never")
    steps = len((sandbox.base / "steps").read_text().splitlines())
    return ended, (steps, len(ended.text.splitlines()))


def _at_step(sandbox: Sandbox, words: Sequence[str], stop: str) -> Ended:
    log = sandbox.base / "steps"
    argv = [sys.executable, str(Path(stepper.__file__)), stop, str(log), *words]
    process = _started(sandbox, argv)
    text = _output(process)
    code = process.returncode
    if stop == "never":
        if code != 0:
            raise FaultError(f"{command(words)}, undisturbed, ended with {code}: {text}")
        return Ended(killed=False, where=f"`{command(words)}`, not killed", text=text)
    lines = log.read_text(errors="replace").splitlines()
    if "=" in stop:
        step, _, rest = stop.partition("=")
        at = " ".join(lines[int(step) - 1 : int(step)])
        where = f"`{command(words)}` with {rest.partition(':')[0]} bytes free from step {at}, which ended with {code}"
        return Ended(killed=False, where=where, text=text, code=code)
    return Ended(killed=code < 0, where=f"`{command(words)}` killed at {stop} ({' '.join(lines[-1:])})", text=text)


def _at_line(sandbox: Sandbox, words: Sequence[str], number: int, delay: float) -> Ended:
    process = _started(sandbox, [sys.executable, "-m", "pymachine", *words])
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


def _output(process: subprocess.Popen[str], on_line: Callable[[str], None] = lambda _: None) -> str:
    """Call `on_line` with each line of a program's output, and return the whole output.

    A child of the program may keep the output open: it is read for at most 10 seconds after the program's end.
    """
    pieces: list[str] = []

    def read() -> None:
        for line in process.stdout or ():
            pieces.append(line)
            on_line(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        process.wait(SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    reader.join(10)
    return "".join(pieces)


def _started(sandbox: Sandbox, argv: Sequence[str]) -> subprocess.Popen[str]:
    """Start a program whose children survive when it is killed, as when a user kills it."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=sandbox.program.environment(),
        text=True,
        errors="replace",
        cwd=sandbox.files,
        start_new_session=True,
    )
