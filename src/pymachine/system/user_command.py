"""Run a command of the user on pymachine's own streams, and end it when pymachine is to end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pymachine.system import signals

# Time for the command to end after SIGTERM.
GRACE_SECONDS = 10.0


def call(
    words: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
) -> int:
    """Run a command, and return its exit code as a shell has it.

    It runs in `folder`, with the file handles `stdin` and `stdout`; without them, with pymachine's own. Raises OSError
    if it cannot be run.
    """
    with (
        signals.deferred() as release,
        subprocess.Popen(words, env=environment, cwd=folder, stdin=stdin, stdout=stdout) as process,
    ):
        try:
            code = _wait(process, release)
        except signals.Terminated:
            _end(process)
            raise
    return code if code >= 0 else 128 - code


def _wait(process: subprocess.Popen[bytes], release: Callable[[], None]) -> int:
    """Wait for the command to end. It handles a first Ctrl-C itself; the second one ends it.

    `release` delivers the signals that were deferred while it started.
    """
    try:
        release()
        return process.wait()
    except KeyboardInterrupt:
        if not os.isatty(0):  # the process did not receive it
            process.send_signal(signal.SIGINT)
    try:
        return process.wait()
    except KeyboardInterrupt:
        return _end(process)


def _end(process: subprocess.Popen[bytes]) -> int:
    with signals.ignored():
        process.terminate()
        try:
            return process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
