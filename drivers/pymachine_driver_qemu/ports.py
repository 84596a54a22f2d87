"""The port watcher: makes the ports that containers publish appear on the machine's address.

One small process a machine, started with it and ending with its QEMU: ``python -m pymachine_driver_qemu.ports
MACHINE_FOLDER``. It follows the engine's events over mutual TLS, as any Docker client could, and tells QEMU through a
monitor of its own which ports to forward. What it does is logged in ``ports.log`` in the machine's folder.
"""

from __future__ import annotations

import http.client
import json
import selectors
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pymachine_driver_qemu import qmp, runtime
from pymachine_driver_qemu.command_line import NETDEV

TLS_FILES = ("ca.pem", "cert.pem", "key.pem")
# A start that a client waits for may take long in an emulated guest.
_TIMEOUT = 60.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
_EVENTS = ("start", "die", "destroy", "pause", "unpause", "update", "rename", "connect", "disconnect")
_WATCHED = quote(json.dumps({"type": ["container", "network"], "event": list(_EVENTS)}))
# Addresses in the guest that mean all of its addresses.
_EVERYWHERE = frozenset({"", "0.0.0.0", "::"})  # noqa: S104
_GUEST_RESTARTS = frozenset({"RESET", "SHUTDOWN"})


@dataclass(frozen=True, order=True)
class Published:
    """A port of the guest that a container published."""

    protocol: str
    port: int

    def __str__(self) -> str:
        return f"{self.port}/{self.protocol}"


@dataclass(frozen=True)
class Target:
    """The machine that is watched; `ports.json` in its folder has these fields."""

    address: str
    docker_port: int


class EngineGoneError(Exception):
    """The connection to the engine ended, or could not be made."""


def published(containers: Iterable[Any]) -> set[Published]:
    """The ports in an answer to ``GET /containers/json``; those bound to one address of the guest are its own."""
    found = set()
    for container in containers:
        for port in container.get("Ports") or ():
            protocol, number = port.get("Type"), port.get("PublicPort")
            if number and protocol in ("tcp", "udp") and port.get("IP", "") in _EVERYWHERE:
                found.add(Published(protocol, int(number)))
    return found


class Forwards:
    """The forwards in QEMU, kept equal to what is published."""

    def __init__(self, monitor: qmp.Qmp, address: str, *, say: Callable[[str], None]) -> None:
        """`say` takes one line of news at a time."""
        self._monitor = monitor
        self._address = address
        self._say = say
        self._active: set[Published] = set()
        self._refused: set[Published] = set()

    def follow(self, wanted: set[Published]) -> None:
        """Add and remove what is needed. What cannot be had (taken, below 1024) is said once, and tried again only
        after its container stopped.
        """
        self._refused &= wanted
        for port in sorted(self._active - wanted):
            self._remove(port)
        for port in sorted(wanted - self._active - self._refused):
            self._add(port)

    def _add(self, port: Published) -> None:
        said = self._monitor.human(f"hostfwd_add {NETDEV} {port.protocol}:{self._address}:{port.port}-:{port.port}")
        if said:
            self._refused.add(port)
            self._say(f"cannot forward {self._address}:{port}: {said}; taken, or below 1024 and not allowed to users?")
        else:
            self._active.add(port)
            self._say(f"forwarding {self._address}:{port}")

    def _remove(self, port: Published) -> None:
        said = self._monitor.human(f"hostfwd_remove {NETDEV} {port.protocol}:{self._address}:{port.port}")
        self._active.discard(port)
        self._say(f"no longer forwarding {self._address}:{port} ({said})")


class Engine:
    """The machine's engine: its events as they come, its containers when asked."""

    def __init__(self, folder: Path, target: Target) -> None:
        """Connect twice, with the certificates that are in `folder` now. Raises `EngineGoneError`."""
        self._target = target
        try:
            self._context = _tls_context(folder)
            self._events = self._subscribe()
            self._queries = self._connection()
        except (OSError, http.client.HTTPException) as error:
            raise EngineGoneError(str(error)) from error

    def close(self) -> None:
        """End both connections."""
        self._events.close()
        self._queries.close()

    def fileno(self) -> int:
        """The socket that becomes readable when something may have happened."""
        return self._events.fileno()

    def something_happened(self) -> bool:
        """Take what has come from the event stream; whether it was anything. Raises `EngineGoneError` at its end."""
        happened = False
        while True:
            try:
                data = self._events.recv(65536)
            except ssl.SSLWantReadError:
                return happened
            except OSError as error:
                raise EngineGoneError(str(error)) from error
            if not data:
                raise EngineGoneError("the event stream ended")
            happened = True

    def ports(self) -> set[Published]:
        """What is published now. Raises `EngineGoneError`."""
        try:
            self._queries.request("GET", "/containers/json")
            answer = self._queries.getresponse()
            body = answer.read()
            if answer.status != http.client.OK:
                raise EngineGoneError(f"the engine answers {answer.status}")
            return published(json.loads(body))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EngineGoneError(str(error)) from error

    def _connection(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            self._target.address, self._target.docker_port, timeout=_TIMEOUT, context=self._context
        )

    def _subscribe(self) -> ssl.SSLSocket:
        """A socket on which bytes arrive whenever a container's state changes.

        In HTTP/1.0 the answer has no chunks, and what it says matters less than that it says something.
        """
        plain = socket.create_connection((self._target.address, self._target.docker_port), timeout=_TIMEOUT)
        try:
            secure = self._context.wrap_socket(plain, server_hostname=self._target.address)
            secure.sendall(f"GET /events?filters={_WATCHED} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            status = secure.recv(65536)
        except BaseException:
            plain.close()
            raise
        if b" 200 " not in status.split(b"\r\n", 1)[0]:
            secure.close()
            raise EngineGoneError(f"the engine refuses its events: {status[:80]!r}")
        secure.settimeout(0)
        return secure


def watch(folder: Path, target: Target, *, say: Callable[[str], None]) -> None:
    """Follow the machine in `folder` until its QEMU ends. Raises `qmp.QmpError` if there is none."""
    sockets = runtime.find(folder)
    if sockets is None:
        raise qmp.QmpGoneError("the machine does not run")
    with qmp.Qmp(sockets / runtime.PORTS, timeout=_TIMEOUT) as monitor:
        forwards = Forwards(monitor, target.address, say=say)
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                engine = Engine(folder, target)
                say("following the engine")
                _follow(engine, monitor, forwards)
            except EngineGoneError as error:
                say(f"engine: {error}")
            # One that answered for a while is probably back soon.
            pause = _FIRST_PAUSE if time.monotonic() - began > _LONGEST_PAUSE else min(pause * 2, _LONGEST_PAUSE)
            _sleep(monitor, pause)


def main(arguments: list[str]) -> int:
    """The program: one argument, the machine's folder."""
    folder = Path(arguments[0])
    try:
        fields = json.loads((folder / "ports.json").read_text(encoding="utf-8"))
        watch(folder, Target(str(fields["address"]), int(fields["docker_port"])), say=_log)
    except qmp.QmpGoneError:
        _log("the machine has ended")
        return 0
    except (qmp.QmpError, OSError, ValueError, KeyError) as error:
        _log(f"ended by an error: {error!r}")
        return 1
    return 0


def _follow(engine: Engine, monitor: qmp.Qmp, forwards: Forwards) -> None:
    """Keep the forwards right until the engine's connection ends, by itself or with the guest's."""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(monitor, selectors.EVENT_READ)
            selector.register(engine, selectors.EVENT_READ)
            # After subscribing, so that nothing falls between.
            forwards.follow(engine.ports())
            while True:
                selector.select()
                if _GUEST_RESTARTS & set(monitor.events()):
                    # The user network in QEMU would keep a dead guest's connections open for good.
                    raise EngineGoneError("the guest restarts")
                if engine.something_happened():
                    forwards.follow(engine.ports())
    finally:
        engine.close()


def _sleep(monitor: qmp.Qmp, seconds: float) -> None:
    """Wait, but notice the end of QEMU at once. Raises `qmp.QmpGoneError` then."""
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(monitor, selectors.EVENT_READ)
        while (left := end - time.monotonic()) > 0:
            if selector.select(left):
                monitor.events()


def _tls_context(folder: Path) -> ssl.SSLContext:
    ca, cert, key = (folder / name for name in TLS_FILES)
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(cert, key)
    return context


def _log(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
