"""Run a long operation on several machines in parallel, each in its own process, with one progress display.

Processes instead of threads, since an interrupt must reach each operation wherever it waits, so that it can undo its
unfinished changes.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from pymachine.cli.errors import known
from pymachine.driver.contract import Json
from pymachine.errors import PymachineError, UnsupportedError
from pymachine.system import signals
from pymachine.system.progress import Reporter, Row, RowReporter, Task

Message = tuple[Any, ...]
_REPEAT_SECONDS = 0.5
# The error of a process that ended without reporting one.
_UNREPORTED = {"details": "", "hint": "", "has_lines": False, "exit_code": 1, "code": "remote"}


class RemoteError(PymachineError):
    """An error that was raised in another process. It has the code of the original error."""

    code = "remote"

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields["brief"], details=fields["details"], hint=fields["hint"], exit_code=fields["exit_code"])
        self.__dict__["code"] = fields["code"]
        self.has_lines = fields["has_lines"]


def run_in_processes(
    names: Sequence[str], act: Callable[[str, Reporter], Json], *, reporter: Reporter, success: str = "Done"
) -> tuple[list[Json], list[PymachineError]]:
    """Call `act` with each name and a reporter, in parallel processes. Return results and errors, in order of names.

    `success` is shown for each that succeeds, in the table that a reporter on a terminal shows.
    An interrupt terminates all processes. It is raised when each has undone its changes.
    """
    sys.stdout.flush()
    workers: dict[Connection, _Worker] = {}
    try:
        for name in names:
            with signals.deferred(), signals.blocked():
                end, process = _start(name, act)
                workers[end] = _Worker(process, _row(name, reporter), success=success)
        _handle_messages(workers)
    except BaseException:
        with signals.ignored():
            _handle_messages(workers, terminate=True)
        raise
    ended = list(workers.values())
    return [one.result for one in ended if one.error is None], [one.error for one in ended if one.error is not None]


class _Worker:
    """A process, seen from the parent."""

    def __init__(self, process: BaseProcess, reporter: Reporter, *, success: str) -> None:
        self.process = process
        self._success = success
        self.reporter = reporter
        self.result: Json = None
        self.error: PymachineError | None = None
        self.done = False
        self._tasks: dict[int, tuple[Any, Task]] = {}

    def handle(self, message: Message) -> None:
        """Show a message of the process, or keep its result or error."""
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

    def close(self) -> None:
        """End the display of its tasks, and wait for the process."""
        for manager, _ in self._tasks.values():
            manager.__exit__(None, None, None)
        self._tasks.clear()
        self.process.join()
        if not self.done:
            brief = f"{self.process.name}: its process ended with exit code {self.process.exitcode}"
            self.error = RemoteError({**_UNREPORTED, "brief": brief})
        if isinstance(self.reporter, Row):
            self.reporter.end(None if self.error else self._success)


def _row(name: str, reporter: Reporter) -> Reporter:
    return reporter.row(name) if isinstance(reporter, RowReporter) else reporter.prefixed(f"({name}) ")


def _handle_messages(workers: dict[Connection, _Worker], *, terminate: bool = False) -> None:
    """Handle the messages of all processes until the last one has ended. With `terminate`, ask them to end.

    An interrupt is raised between two messages, never within one.
    """
    while open_ends := [end for end in workers if not end.closed]:
        if terminate:
            for each in open_ends:
                workers[each].process.terminate()
        # Repeat the signal: if it arrives just before Python waits, it is noticed only after the wait.
        ready = wait(open_ends, _REPEAT_SECONDS if terminate else None)
        with signals.deferred():
            for end in ready:
                assert isinstance(end, Connection)  # noqa: S101 (for the type checker)
                try:
                    message = end.recv()
                except (EOFError, OSError):  # OSError: killed in the middle of a message
                    end.close()
                    workers[end].close()
                else:
                    workers[end].handle(message)


def _start(name: str, act: Callable[[str, Reporter], Json]) -> tuple[Connection, BaseProcess]:
    """Start a process that calls `act`. Return the parent's end of the pipe for its messages, and the process."""
    if sys.platform == "win32":
        raise UnsupportedError("Windows cannot act on several machines at once", hint="Name one machine at a time.")
    # Fork, so that nothing has to be imported again. The only other thread may be the one that redraws lines.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run_child, args=(theirs, name, act), name=name)
    process.start()
    theirs.close()
    return ours, process


def _run_child(end: Connection, name: str, act: Callable[[str, Reporter], Json]) -> None:
    """Run in the child: handle SIGTERM, call `act`, and send messages, result and error through `end`."""
    try:
        signals.exit_only_on_sigterm()
        signals.unblock()
        result = act(name, _PipeReporter(end))
    except signals.Terminated:
        return
    except Exception as problem:  # noqa: BLE001 (the parent turns errors into exit codes)
        error = known(problem)
        fields = {"brief": error.brief, "details": error.details, "hint": error.hint, "has_lines": error.has_lines}
        end.send(("error", {**fields, "exit_code": error.exit_code, "code": error.code}))
    else:
        end.send(("result", result))


class _PipeReporter:
    """A reporter that sends its messages to the parent process."""

    def __init__(self, end: Connection, prefix: str = "") -> None:
        self._end = end
        self._prefix = prefix

    def info(self, text: str) -> None:
        self._end.send(("info", self._prefix + text))

    def warn(self, text: str) -> None:
        self._end.send(("warn", self._prefix + text))

    def prefixed(self, prefix: str) -> Reporter:
        return _PipeReporter(self._end, self._prefix + prefix)

    @contextmanager
    def task(self, title: str, *, total: int | None = None, unit: str = "") -> Iterator[Task]:
        task = _PipeTask(self._end)
        self._end.send(("begin", id(task), self._prefix + title, total, unit))
        try:
            yield task
        finally:
            self._end.send(("end", id(task)))


class _PipeTask:
    def __init__(self, end: Connection) -> None:
        self._end = end

    def advance(self, amount: int = 1) -> None:
        self._end.send(("advance", id(self), amount))

    def note(self, text: str) -> None:
        self._end.send(("note", id(self), text))
