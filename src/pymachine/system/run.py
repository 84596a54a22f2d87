"""Run external commands.

Every command is logged, quoted for a shell. Errors distinguish a missing program, a signal, a non-zero exit code and a
timeout. Never put secrets into argv, which other users can read: pass them on `stdin`.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pymachine.errors import CommandError
from pymachine.system.limits import CHUNK_BYTES
from pymachine.system.signals import deferred
from pymachine.system.wait import Deadline

log = logging.getLogger(__name__)
Sink = Callable[[bytes], None]
# How long a program may clean up after Ctrl-C.
_INTERRUPTED_SECONDS = 0.25
MOST_OUTPUT = 16 * 1024 * 1024
"""In bytes. The limit of stdout and of stderr if they are kept, for commands here and on a host."""


class CommandNotFoundError(CommandError):
    """The program is not on PATH, or not executable."""

    code = "command-not-found"


class CommandFailedError(CommandError):
    """The program ended with a non-zero exit code or by a signal."""

    code = "command-failed"

    def __init__(self, brief: str, *, result: Result) -> None:
        super().__init__(brief, details=(result.stderr or result.stdout).strip())
        self.result = result


class CommandTimeoutError(CommandError):
    """The program was killed at its timeout."""

    code = "command-timeout"


class CommandOutputError(CommandError):
    """The program was killed because it printed more than `MOST_OUTPUT`."""

    code = "command-output"


@dataclass(frozen=True)
class Result:
    """The result of a command. `returncode` is minus the signal if a signal ended it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


def quote(argv: Sequence[str | Path]) -> str:
    """Return `argv` as one line that can be pasted into a POSIX shell."""
    return shlex.join(str(word) for word in argv)


def which(program: str) -> Path | None:
    """Return the path of `program` by PATH, or None."""
    found = shutil.which(program)
    return Path(found) if found else None


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
    check: bool = True,
) -> Result:
    """Run a command to its end and return its output, decoded as UTF-8 with replacement characters.

    `timeout` is in seconds. Raises `CommandNotFoundError`, `CommandTimeoutError` and `CommandOutputError`, and with
    `check` also `CommandFailedError`.
    """
    words = tuple(str(word) for word in argv)
    log.debug("run: %s", quote(words))
    data = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=None if env is None else dict(env),
            cwd=cwd,
        )
    except (FileNotFoundError, PermissionError) as error:
        if cwd is not None and not cwd.is_dir():
            raise CommandError(f"cannot run {words[0]}: no folder {cwd}") from error
        raise CommandNotFoundError(
            f"{words[0]}: command not found, or not executable",
            hint=f"Install {Path(words[0]).name}, or put its folder on PATH.",
        ) from error
    result = _ended(process, words, data, timeout)
    log.debug("run: %s: exit %d", words[0], result.returncode)
    if check and result.returncode != 0:
        raise CommandFailedError(f"{words[0]} {describe_exit(result.returncode)}: {quote(words)}", result=result)
    return result


def _ended(
    process: subprocess.Popen[bytes], words: tuple[str, ...], data: bytes | None, timeout: float | None
) -> Result:
    """Send `data` to a process, collect its output and wait for its end. Kill it if anything else happens."""
    deadline = None if timeout is None else Deadline(timeout)
    try:
        changed = threading.Semaphore(0)
        assert process.stdout is not None  # noqa: S101 (for the type checker)
        assert process.stderr is not None  # noqa: S101
        out, errors = (
            Collector(stream, most=MOST_OUTPUT, done=lambda _: changed.release())
            for stream in (process.stdout, process.stderr)
        )
        if process.stdin is not None:
            threading.Thread(target=send, args=(process.stdin, data or b""), daemon=True).start()
        for _ in (out, errors):
            if not changed.acquire(timeout=deadline.remaining() if deadline else None):
                raise subprocess.TimeoutExpired(words, timeout or 0.0)  # noqa: TRY301
            if out.is_too_much or errors.is_too_much:
                raise CommandOutputError(
                    f"{words[0]} printed more than {MOST_OUTPUT} bytes, and was ended: {quote(words)}",
                    hint="Run it in a terminal, and look at what it prints.",
                )
        code = process.wait(deadline.remaining() if deadline else None)
    except KeyboardInterrupt:
        with suppress(subprocess.TimeoutExpired):  # the terminal interrupted it too
            process.wait(_INTERRUPTED_SECONDS)
        raise
    except subprocess.TimeoutExpired as error:
        raise CommandTimeoutError(f"{words[0]} did not end within {timeout:g} seconds: {quote(words)}") from error
    finally:
        process.kill()
        process.wait()
    return Result(words, code, out.text(), errors.text())


class Collector:
    """Collects the data from a pipe in a thread, up to a limit."""

    def __init__(self, stream: IO[bytes], *, most: int, done: Callable[[Collector], object]) -> None:
        """`most` is in bytes. `done` is called in the thread when nothing more is read."""
        self._stream = stream
        self._done = done
        self._most = most
        self._data = bytearray()
        self.is_too_much = False
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        # Closed here, since a process that outlives the command may keep the pipe open.
        try:
            with self._stream:
                while not self.is_too_much and (data := os.read(self._stream.fileno(), CHUNK_BYTES)):
                    self._data += data
                    self.is_too_much = len(self._data) > self._most
        finally:
            self._done(self)

    def text(self, timeout: float | None = None) -> str:
        """Wait at most `timeout` seconds for the end of the pipe, and return the data decoded."""
        self._thread.join(timeout)
        return bytes(self._data).decode(errors="replace")


def send(stream: IO[bytes], data: bytes) -> None:
    """Write `data` to a pipe and close it. Ignore a reader that has ended, since its exit code tells why."""
    with suppress(OSError), stream:
        stream.write(data)


def foreground(argv: Sequence[str], *, out: Sink | None = None, errors: Sink | None = None) -> int:
    """Run a command on our own terminal and return its exit code as a shell does (128 and more: a signal).

    The command handles an interrupt, since it gets the same signal. `out` and `errors` replace our own stdout and
    stderr: each is called in a thread with the command's output.
    """
    log.debug("run: %s", quote(argv))
    pipes = [None if sink is None else subprocess.PIPE for sink in (out, errors)]
    with (
        deferred() as release,
        subprocess.Popen(argv, stdout=pipes[0], stderr=pipes[1]) as process,
        _handed_on(process.stdout, out),
        _handed_on(process.stderr, errors),
    ):
        while True:
            try:
                release()
                code = process.wait()
                break
            except KeyboardInterrupt:
                continue
            except BaseException:  # SIGTERM reached only us
                process.terminate()
                raise
    return code if code >= 0 else 128 - code


@contextmanager
def _handed_on(stream: IO[bytes] | None, sink: Sink | None) -> Iterator[None]:
    """Call `sink` with the data from `stream` while the block runs."""
    if stream is None or sink is None:
        yield
        return

    def read() -> None:
        while data := os.read(stream.fileno(), CHUNK_BYTES):
            sink(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        reader.join()


def describe_exit(returncode: int) -> str:
    """Return a phrase for a return code of `subprocess`."""
    if returncode >= 0:
        return f"failed with exit code {returncode}"
    try:
        return f"was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was ended by signal {-returncode}"


def process_exists(pid: int) -> bool:
    """Return whether a process of that id exists, ours or not. A zombie counts too."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
