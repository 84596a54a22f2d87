"""A session with a plug-in program: the methods of docker-machine's drivers, called over RPC.

Source: docker-machine's package libmachine/drivers/rpc. One program serves one machine.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from pymachine.driver.contract import Config, State
from pymachine.driver.errors import DriverError
from pymachine_driver_plugin import gojson
from pymachine_driver_plugin.errors import PluginError
from pymachine_driver_plugin.gob.errors import GobError
from pymachine_driver_plugin.gob.types import BYTES, INTERFACE, STRING, Interface, Map, Struct, Type
from pymachine_driver_plugin.process import END_SECONDS, PluginProcess
from pymachine_driver_plugin.programs import Program
from pymachine_driver_plugin.rpc import (
    NO_ARGUMENT,
    Client,
    ConnectionLostError,
    NoAnswerError,
    ServerError,
)

T = TypeVar("T")
PROTOCOL_VERSION = 1
QUERY_SECONDS = 60.0
"""How long a method may take that only asks. A cloud's answer may take some seconds."""
ACTION_SECONDS = 3600.0
"""How long a method may take that changes the machine. Some upload an image."""
_FLAGS = Struct("RPCFlags", (("Values", Map(STRING, INTERFACE)),))
_SERVICES = {
    # Service, and the name of the type of flags, which changed with it.
    "RPCServerDriver": "*rpcdriver.RPCFlags",
    "RpcServerDriver": "*rpcdriver.RpcFlags",  # docker-machine 0.5.0
}
_LARGEST_CONFIG = 1 << 20


class Session:
    """A program that serves one machine, from its start to its end."""

    def __init__(self, program: Program) -> None:
        """Start `program`. Raises `PluginError`, and `DriverNotFoundError` if it lacks the driver."""
        self.program = program
        self.holds_unsaved_state = False
        """Whether the program knows what is not in the machine's configuration, so that another one cannot go on."""
        self._owner = os.getpid()
        self._service = next(iter(_SERVICES))
        self._client: Client | None = None
        self.process = PluginProcess(program)
        _opened(self)
        try:
            self._client = self._connect()
            self._service = self._find_service()
        except BaseException:
            self.kill()
            raise

    @property
    def is_open(self) -> bool:
        """Whether methods can be called. A process that was forked has no part in the sessions of its parent."""
        return self._owner == os.getpid() and self._client is not None and self._client.is_connected

    # -- the driver's methods ----------------------------------------------------------------------------------

    def act(self, method: str, *, seconds: float = ACTION_SECONDS) -> None:
        """Call a method that changes the machine. Raises `DriverError` with its error."""
        self._call(method, seconds=seconds)

    def text(self, method: str) -> str:
        """Call a method that returns text."""
        return self._checked(method, self._call(method), str)

    def number(self, method: str) -> int:
        """Call a method that returns a number."""
        return self._checked(method, self._call(method), int)

    def state(self) -> State:
        """Return the machine's state. Raises `DriverError`."""
        number = self.number("GetState")
        try:
            return State(number)
        except ValueError:
            raise PluginError(f"{self.program.label}: GetState returned {number}, which is no state") from None

    def flags(self) -> Sequence[Any]:
        """Return the flags that the driver adds to `create`, each an `Interface` or None."""
        return self._checked("GetCreateFlags", self._call("GetCreateFlags"), list)

    def config(self) -> Config:
        """Return the machine's configuration. Raises `DriverError`."""
        data = self._checked("GetConfigRaw", self._call("GetConfigRaw"), bytes)
        try:
            config = json.loads(data) if len(data) <= _LARGEST_CONFIG else None
            gojson.encode(config)  # not every text that Python reads is JSON: NaN, half of a surrogate pair
        except (ValueError, RecursionError):
            config = None
        if not isinstance(config, dict):
            raise PluginError(f"{self.program.label}: GetConfigRaw returned {data[:100]!r}, expected a JSON object")
        return config

    def set_config(self, config: Config) -> None:
        """Give the program the machine's configuration, as `config` returned it."""
        self._call("SetConfigRaw", gojson.encode(config), BYTES)

    def set_flags(self, values: Mapping[str, Interface]) -> None:
        """Configure the machine with the values of flags."""
        self._call(
            "SetConfigFromFlags", Interface(_SERVICES[self._service], {"Values": dict(values)}, _FLAGS), INTERFACE
        )

    def close(self) -> None:
        """End the program. Further calls raise `PluginError`."""
        self.ask_to_end()
        self.wait_for_end()

    def ask_to_end(self) -> None:
        """Send the program the request to end. Its answer may be cut off, so nothing waits for it."""
        if self._client is None:
            self.process.kill()
        elif self.is_open:
            with suppress(ConnectionLostError):
                self._client.post(f"{self._service}.Close")

    def wait_for_end(self, seconds: float = END_SECONDS) -> None:
        """Wait until the program has ended, and kill it if it has not after `seconds`."""
        _forget(self)
        if self._owner == os.getpid():
            self.process.end(seconds)
            self._disconnect()

    def kill(self) -> None:
        """End the program at once, whatever it does."""
        _forget(self)
        self.process.kill()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()

    # -- RPC ---------------------------------------------------------------------------------------------------

    def _connect(self) -> Client:
        host, port = self.process.address()
        try:
            return Client(host, port, keep_alive=self._keep_alive, seconds=QUERY_SECONDS)
        except ConnectionLostError as error:
            raise PluginError(f"{self.program.path} is no plug-in program of docker-machine: {error}") from error

    def _keep_alive(self) -> str:
        return f"{self._service}.Heartbeat"

    def _find_service(self) -> str:
        """Return the name of the service. Raises `PluginError` for another version of the protocol."""
        assert self._client is not None  # noqa: S101 (it was connected before)
        problem = ""
        for service in _SERVICES:
            try:
                version = self._client.call(f"{service}.GetVersion", seconds=QUERY_SECONDS)
            except ServerError as error:
                problem = problem or str(error)
                continue
            except (ConnectionLostError, NoAnswerError) as error:
                raise self._broken("GetVersion", error) from error
            if version != PROTOCOL_VERSION:
                raise PluginError(
                    f"{self.program.path} has version {version!r} of the plug-in protocol, expected {PROTOCOL_VERSION}",
                    hint="Install a version of the program that was made for docker-machine.",
                )
            return service
        raise PluginError(f"{self.program.path} is no plug-in program of docker-machine: {problem}")

    def _call(
        self, method: str, argument: Any = None, kind: Type = NO_ARGUMENT, *, seconds: float | None = None
    ) -> Any:
        """Call a method, by default one that only asks."""
        seconds = QUERY_SECONDS if seconds is None else seconds
        if self._client is None:
            raise PluginError(f"{self.program.label} has not been started")
        try:
            return self._client.call(f"{self._service}.{method}", argument, kind, seconds=seconds)
        except ServerError as error:
            raise DriverError(str(error)) from error
        except GobError as error:
            raise PluginError(f"{self.program.label}: {method} cannot be called: {error}") from error
        except (ConnectionLostError, NoAnswerError) as error:
            raise self._broken(method, error) from error

    def _broken(self, method: str, error: Exception) -> PluginError:
        """Return the error for a program that has ended or hangs. It is not used any more."""
        how = self.process.wait_for_exit_text()
        if not how:
            self.process.kill()
        self.process.end()
        what = f"{how} during {method}" if how else f"does not work: {error}"
        return PluginError(
            f"{self.program.label} {what}",
            details=self.process.last_lines(),
            hint="With --debug, everything that the program logs is shown.",
        )

    def _checked(self, method: str, value: Any, kind: type[T]) -> T:
        """Return `value`. Raises `PluginError` unless it has the type `kind`."""
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise PluginError(f"{self.program.label}: {method} returned {str(value)[:100]!r}, not {kind.__name__}")
        return value


# -- the end of the process --------------------------------------------------------------------------------------

_sessions: set[Session] = set()
_lock = threading.Lock()
# The process that `close_all` is registered in. One that was forked from it has no sessions yet.
_registered_in = 0


def _opened(session: Session) -> None:
    """Remember to close a session at the end of this process."""
    global _registered_in  # noqa: PLW0603 (a process has one list of functions to call at its end, too)
    with _lock:
        if _registered_in != os.getpid():
            _registered_in = os.getpid()
            _sessions.clear()
            atexit.register(close_all)
            # In a process that `multiprocessing` has forked, functions of `atexit` do not run.
            if util := sys.modules.get("multiprocessing.util"):
                util.Finalize(None, close_all, exitpriority=0)
        _sessions.add(session)


def _forget(session: Session) -> None:
    with _lock:
        _sessions.discard(session)


def close_all() -> None:
    """Close all sessions of this process."""
    with _lock:
        ending = list(_sessions)
    for session in ending:
        session.ask_to_end()
    end = time.monotonic() + END_SECONDS
    for session in ending:
        session.wait_for_end(end - time.monotonic())
