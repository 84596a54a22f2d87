"""The same long step for several machines at once, each in a process of its own, with one display.

Processes and not threads, since an interrupt must reach each of them in whatever it is waiting for, so that it undoes
what it has half done.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

from pymachine.cli.errors import known
from pymachine.driver.contract import Json
from pymachine.errors import PymachineError
from pymachine.system import signals
from pymachine.system.progress import Reporter, Task

Message = tuple[Any, ...]
_AGAIN_SECONDS = 0.5
# What is known of the error of a process that ended without a word.
_UNSAID = {"details": "", "hint": "", "has_lines": False, "exit_code": 1, "code": "remote"}


class RemoteError(PymachineError):
    """An error that was raised in another process; the code is that of the original."""

    code = "remote"

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told["brief"], details=told["details"], hint=told["hint"], exit_code=told["exit_code"])
        self.__dict__["code"] = told["code"]
        self.has_lines = told["has_lines"]


def at_once(
    names: Sequence[str], act: Callable[[str, Reporter], Json], *, reporter: Reporter
) -> tuple[list[Json], list[PymachineError]]:
    """Call `act` with each name and a reporter, side by side; what it returned, and what went wrong, by order of names.

    An interrupt ends all of them, and is raised once each has undone what it did.
    """
    sys.stdout.flush()
    workers: dict[Connection, _Worker] = {}
    try:
        for name in names:
            with signals.deferred(), signals.blocked():
                end, process = _begin(name, act)
                workers[end] = _Worker(process, reporter.prefixed(f"({name}) "))
        _listen(workers)
    except BaseException:
        with signals.ignored():
            _listen(workers, ending=True)
        raise
    ended = list(workers.values())
    return [one.result for one in ended if one.error is None], [one.error for one in ended if one.error is not None]


class _Worker:
    """One of the processes, as we see it."""

    def __init__(self, process: ForkProcess, reporter: Reporter) -> None:
        self.process = process
        self.reporter = reporter
        self.result: Json = None
        self.error: PymachineError | None = None
        self.done = False
        self._tasks: dict[int, tuple[Any, Task]] = {}

    def take(self, message: Message) -> None:
        """Do what it asks for, or note what it ends with."""
        kind, *rest = message
        if kind in ("info", "warn"):
            getattr(self.reporter, kind)(rest[0])
        elif kind == "begin":
            number, title, total, unit = rest
            manager = self.reporter.task(title, total=total, unit=unit)
            self._tasks[number] = (manager, manager.__enter__())
        elif kind == "advance":
            self._tasks[rest[0]][1].advance(rest[1])
        elif kind == "note":
            self._tasks[rest[0]][1].note(rest[1])
        elif kind == "end":
            self._tasks.pop(rest[0])[0].__exit__(None, None, None)
        elif kind == "result":
            self.result, self.done = rest[0], True
        else:
            self.error, self.done = RemoteError(rest[0]), True

    def ended(self) -> None:
        """It says no more."""
        for manager, _ in self._tasks.values():
            manager.__exit__(None, None, None)
        self._tasks.clear()
        self.process.join()
        if not self.done:
            what = f"{self.process.name}: its process ended with exit code {self.process.exitcode}"
            self.error = RemoteError({**_UNSAID, "brief": what})


def _listen(workers: dict[Connection, _Worker], *, ending: bool = False) -> None:
    """Take what all of them say until the last one has ended; an interrupt comes between two messages, never in one.

    `ending`: have them end.
    """
    while open_ends := [end for end in workers if not end.closed]:
        if ending:
            for each in open_ends:
                workers[each].process.terminate()
        # They are told again and again: Python notices a signal that comes just before it waits only after that.
        ready = wait(open_ends, _AGAIN_SECONDS if ending else None)
        with signals.deferred():
            for end in ready:
                assert isinstance(end, Connection)  # noqa: S101 (for the types' sake: we gave it no other)
                try:
                    message = end.recv()
                except (EOFError, OSError):  # OSError: it was killed in the middle of a message
                    end.close()
                    workers[end].ended()
                else:
                    workers[end].take(message)


def _begin(name: str, act: Callable[[str, Reporter], Json]) -> tuple[Connection, ForkProcess]:
    """A process that does `act`, and our end of the pipe through which it tells of it."""
    # Forked, so that nothing has to be imported again; nothing but a display's clock runs beside us.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, name, act), name=name)
    process.start()
    theirs.close()
    return ours, process


def _work(end: Connection, name: str, act: Callable[[str, Reporter], Json]) -> None:
    """What a process does: `act`, telling of everything through `end`, once it can be told to end."""
    try:
        signals.exit_only_on_sigterm()
        signals.unblock()
        result = act(name, _Relay(end))
    except signals.Terminated:
        return
    except Exception as problem:  # noqa: BLE001 (it is told to the process that turns errors into exit codes)
        error = known(problem)
        told = {"brief": error.brief, "details": error.details, "hint": error.hint, "has_lines": error.has_lines}
        end.send(("error", {**told, "exit_code": error.exit_code, "code": error.code}))
    else:
        end.send(("result", result))


class _Relay:
    """A reporter whose news are told by another process."""

    def __init__(self, end: Connection, prefix: str = "") -> None:
        self._end = end
        self._prefix = prefix

    def info(self, text: str) -> None:
        self._end.send(("info", self._prefix + text))

    def warn(self, text: str) -> None:
        self._end.send(("warn", self._prefix + text))

    def prefixed(self, prefix: str) -> Reporter:
        return _Relay(self._end, self._prefix + prefix)

    @contextmanager
    def task(self, title: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        task = _RelayTask(self._end)
        self._end.send(("begin", id(task), self._prefix + title, total, unit))
        try:
            yield task
        finally:
            self._end.send(("end", id(task)))


class _RelayTask:
    def __init__(self, end: Connection) -> None:
        self._end = end

    def advance(self, amount: int = 1) -> None:
        self._end.send(("advance", id(self), amount))

    def note(self, text: str) -> None:
        self._end.send(("note", id(self), text))
