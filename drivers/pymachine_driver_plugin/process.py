"""A plug-in program as a process: it prints its address on stdout, and logs on stdout and stderr."""

from __future__ import annotations

import logging
import os
import queue
import re
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from typing import IO

from pymachine.driver.errors import DriverNotFoundError
from pymachine.driver.kit.system import os_errors, run
from pymachine_driver_plugin.errors import PluginError
from pymachine_driver_plugin.programs import Program

log = logging.getLogger(__name__)
ADDRESS_SECONDS = 10.0
END_SECONDS = 2.0
_ADDRESS = re.compile(r"(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]):(\d{1,5})")
_LONGEST_LINE = 1 << 16
_LAST_LINES = 20
_SHOWN_CHARACTERS = 200
# The message of docker-machine and its forks if they do not have the driver.
_NO_DRIVER = re.compile(r"(?i)unsupported (plugin )?driver|unknown driver")


class PluginProcess:
    """A running program. Its lines on stdout are messages for the user, and those on stderr are for the log."""

    def __init__(self, program: Program) -> None:
        """Start `program`, in a session of its own, so that it sees no Ctrl-C. Raises `PluginError`.

        A program that is left behind ends when nothing has called it for some seconds.
        """
        self.program = program
        self.on_message: Callable[[str], None] = log.info
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._first: queue.Queue[str | None] = queue.Queue()
        environment = {**os.environ, "MACHINE_PLUGIN_TOKEN": "42", "MACHINE_PLUGIN_DRIVER_NAME": program.driver}
        log.debug("run: %s, for the driver %s", program.path, program.driver)
        try:
            self._process = subprocess.Popen(
                [program.path],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
            )
        except OSError as error:
            raise PluginError(
                f"{program.path} cannot be started: {os_errors.reason(error, said=str(program.path))}",
                hint="Is it a program for this system, and may you run it?",
            ) from error
        assert self._process.stdout is not None and self._process.stderr is not None  # noqa: S101 (they are pipes)
        self._readers = [
            threading.Thread(target=self._read_messages, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_log, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def address(self) -> tuple[str, int]:
        """Wait for the address of its server, and return host and port. Raises `PluginError`."""
        try:
            line = self._first.get(timeout=ADDRESS_SECONDS)
        except queue.Empty:
            raise self._no_plugin(f"printed no address within {ADDRESS_SECONDS:g} seconds") from None
        if line is None:
            raise self._ended_without_address()
        found = _ADDRESS.fullmatch(line)
        if found is None or not 0 < int(found[2]) < 65536:
            raise self._no_plugin(f"printed {line[:_SHOWN_CHARACTERS]!r} instead of an address")
        return found[1].strip("[]"), int(found[2])

    def wait_for_exit_text(self) -> str:
        """Return how the program ended, or an empty text if it still runs after half a second."""
        try:
            code = self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            return ""
        return run.describe_exit(code) if code else "ended with exit code 0"

    def last_lines(self) -> str:
        """Return the last lines that it logged."""
        return "\n".join(self._last)

    def end(self, seconds: float = END_SECONDS) -> None:
        """Wait until the program has ended, and kill it if it has not after `seconds`."""
        try:
            self._process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            self.kill()
        for reader in self._readers:
            # A process that the program has started may keep the pipes open.
            reader.join(0.1)

    def kill(self) -> None:
        """End the program at once."""
        log.debug("killing %s", self.program.label)
        self._process.kill()
        self._process.wait()

    # -- in threads --------------------------------------------------------------------------------------------

    def _read_messages(self, stream: IO[bytes]) -> None:
        lines = _Lines(stream)
        self._first.put(lines.next())
        while (line := lines.next()) is not None:
            if line:
                self.on_message(line)

    def _read_log(self, stream: IO[bytes]) -> None:
        lines = _Lines(stream)
        while (line := lines.next()) is not None:
            self._last.append(line[:_SHOWN_CHARACTERS])
            log.debug("%s: %s", self.program.label, line)

    # -- errors ------------------------------------------------------------------------------------------------

    def _no_plugin(self, what: str) -> PluginError:
        error = PluginError(
            f"{self.program.path} {what}",
            details=self.last_lines(),
            hint="Is it one of docker-machine's plug-in programs?",
        )
        self.kill()
        return error

    def _ended_without_address(self) -> PluginError | DriverNotFoundError:
        self.end()
        how = self.wait_for_exit_text()
        if self.program.has_many_drivers and _NO_DRIVER.search(self.last_lines()):
            return DriverNotFoundError(f'{self.program.path} has no driver "{self.program.driver}"')
        return self._no_plugin(
            f"{how} before it printed its address" if how else "closed its output without an address"
        )


class _Lines:
    """The lines of a stream as text. Longer lines than `_LONGEST_LINE` are several."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def next(self) -> str | None:
        """Return the next line, or None at the end."""
        try:
            line = self._stream.readline(_LONGEST_LINE)
        except (OSError, ValueError) as error:  # ValueError: closed
            log.debug("the output of a program cannot be read: %s", error)
            return None
        return line.decode(errors="replace").rstrip("\r\n") if line else None
