"""The port forwarder of the driver ``libvirt``, with a stand-in for libvirt."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pymachine.driver.kit import forwarded_ports, identity_channel, port_forwarding
from pymachine.system.wait import until
from pymachine_driver_libvirt import connection as libvirts, guest, ports

USERNET = "TCP[HOST_FORWARD] 1 * 8080 10.0.2.15 8080 0 0"
MACHINE_ID = "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10"


class FakeError(Exception):
    """A stand-in for ``libvirt.libvirtError``."""

    def get_error_code(self) -> int:
        return 0


class FakeStream:
    """A libvirt stream: `recv` returns what `send` was given; each `send` calls the event callback once."""

    def __init__(self) -> None:
        self.pieces: list[bytes | FakeError] = []
        self.events = 0
        self.callback: Callable[[Any, int, Any], None] | None = None

    def send(self, piece: bytes | FakeError) -> None:
        self.pieces.append(piece)
        self.fire_event()

    def fire_event(self) -> None:
        if self.callback is not None and self.events and self.pieces:
            self.callback(self, self.events, None)

    def recv(self, size: int) -> bytes | int:
        if not self.pieces:
            return -2
        piece = self.pieces.pop(0)
        if isinstance(piece, FakeError):
            raise piece
        return piece

    def eventAddCallback(self, events: int, callback: Callable[[Any, int, Any], None], opaque: Any) -> None:  # noqa: N802
        self.events, self.callback = events, callback
        self.fire_event()

    def eventUpdateCallback(self, events: int) -> None:  # noqa: N802
        self.events = events
        self.fire_event()

    def eventRemoveCallback(self) -> None:  # noqa: N802
        self.callback = None

    def abort(self) -> None:
        self.pieces.clear()


class FakeLibvirt:
    """The module with one connection at a time and one domain."""

    VIR_STREAM_NONBLOCK = 1
    VIR_STREAM_EVENT_READABLE, VIR_STREAM_EVENT_ERROR, VIR_STREAM_EVENT_HANGUP = 1, 4, 8
    VIR_DOMAIN_CHANNEL_FORCE = 1
    VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_CRASHED = 5, 8
    VIR_DOMAIN_EVENT_ID_LIFECYCLE, VIR_DOMAIN_EVENT_ID_REBOOT = 0, 1
    libvirtError = FakeError  # noqa: N815

    def __init__(self) -> None:
        self.domain = SimpleNamespace(ID=lambda: 7, isActive=lambda: True, openChannel=self.open_channel)
        self.connection = self.connect()
        self.stream = FakeStream()
        self.opened: list[str] = []
        self.has_port = True
        self.callbacks: dict[int, Callable[..., None]] = {}
        self.closed: Callable[..., None]
        self.commands: list[str] = []
        self.usernet = ""

    def connect(self) -> Any:
        self.connection = SimpleNamespace(
            newStream=lambda _: self.new_stream(),
            domainEventRegisterAny=lambda _, kind, callback, __: self.callbacks.update({kind: callback}),
            registerCloseCallback=lambda callback, _: setattr(self, "closed", callback),
        )
        return self.connection

    def new_stream(self) -> FakeStream:
        self.stream = FakeStream()
        return self.stream

    def open_channel(self, name: str, stream: FakeStream, flags: int) -> None:
        if not self.has_port:
            raise FakeError("cannot find character device")
        self.opened.append(name)

    def monitor(self, domain: Any, line: str, flags: int) -> str:
        if line == "info usernet":
            return self.usernet
        self.commands.append(line)
        return ""

    def report(self, *numbers: int) -> None:
        words = " ".join(["listening", *(f"tcp/00000000:{number:04X}" for number in numbers)])
        self.stream.send(f"{words}\n".encode())

    def restart(self) -> None:
        self.callbacks[self.VIR_DOMAIN_EVENT_ID_REBOOT](None, None, None)

    def end(self) -> None:
        self.callbacks[self.VIR_DOMAIN_EVENT_ID_LIFECYCLE](None, None, self.VIR_DOMAIN_EVENT_STOPPED, 0, None)


@pytest.fixture
def libvirt(monkeypatch: pytest.MonkeyPatch) -> FakeLibvirt:
    fake = FakeLibvirt()
    extra = SimpleNamespace(qemuMonitorCommand=fake.monitor, VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP=1)
    monkeypatch.setitem(sys.modules, "libvirt_qemu", extra)
    monkeypatch.setattr(libvirts, "library", lambda: fake)
    monkeypatch.setattr(libvirts, "connect", lambda uri: fake.connection)
    monkeypatch.setattr(ports.state, "find", lambda connection, machine_id: fake.domain)
    monkeypatch.setattr(ports, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(ports, "_LONGEST_PAUSE", 0.02)
    return fake


@contextmanager
def running_forwarder(folder: Path, libvirt: FakeLibvirt) -> Iterator[list[int]]:
    """Run the forwarder in a thread until the block ends; yield a list that receives its exit code."""
    fields = {"uri": "qemu:///session", "machine_id": MACHINE_ID, "address": "", "docker_port": 2376, "ssh_port": 22022}
    (folder / ports.SETTINGS).write_text(json.dumps(fields))
    code: list[int] = []
    thread = threading.Thread(target=lambda: code.append(ports.main([str(folder)])), daemon=True)
    thread.start()
    until(lambda: libvirt.opened, deadline=10, what="the channel")
    yield code
    libvirt.end()
    thread.join(10)
    assert code == [0]


def wait_for(check: Callable[[], bool]) -> None:
    until(check, deadline=10, what="the forwarder")


def test_reported_ports_are_forwarded_until_the_domain_ends(
    tmp_path: Path, libvirt: FakeLibvirt, capfd: pytest.CaptureFixture[str]
) -> None:
    with running_forwarder(tmp_path, libvirt):
        libvirt.report(8080)
        libvirt.report(8080, 8081)
        wait_for(lambda: len(libvirt.commands) == 2)
        assert libvirt.opened == [identity_channel.CONTAINERS_PORT]
        libvirt.report()
        wait_for(lambda: len(libvirt.commands) == 4)
    assert libvirt.commands == [
        "hostfwd_add pymachine tcp::8080-:8080",
        "hostfwd_add pymachine tcp::8081-:8081",
        "hostfwd_remove pymachine tcp::8080",
        "hostfwd_remove pymachine tcp::8081",
    ]
    assert forwarded_ports.load(tmp_path) == []
    lines = [line.split(" ", 1)[1] for line in capfd.readouterr().out.splitlines()]
    assert (lines[0], lines[-1]) == ("following the guest", "the machine has ended")


def test_a_restart_of_the_guest_removes_its_forwards(tmp_path: Path, libvirt: FakeLibvirt) -> None:
    with running_forwarder(tmp_path, libvirt):
        libvirt.report(8080)
        wait_for(lambda: len(libvirt.commands) == 1)
        libvirt.restart()
        wait_for(lambda: len(libvirt.commands) == 2)
        libvirt.report(8080)
        wait_for(lambda: len(libvirt.commands) == 3)
    assert [line.split()[0] for line in libvirt.commands] == ["hostfwd_add", "hostfwd_remove", "hostfwd_add"]


@pytest.mark.parametrize("how", ["connection", "end", "error", "flood"])
def test_after_a_lost_connection_it_reconnects_and_forwards_stay(
    tmp_path: Path, libvirt: FakeLibvirt, how: str
) -> None:
    with running_forwarder(tmp_path, libvirt):
        libvirt.report(8080)
        wait_for(lambda: len(libvirt.commands) == 1)
        libvirt.usernet = USERNET
        if how == "connection":
            libvirt.connect()
            libvirt.closed(None, 0, None)
        elif how == "flood":
            libvirt.stream.send(b"x" * (ports._MOST_BYTES + 1))
        else:
            libvirt.stream.send(FakeError("gone") if how == "error" else b"")
        wait_for(lambda: len(libvirt.opened) == 2)
        libvirt.report(8080, 8081)
        wait_for(lambda: len(libvirt.commands) == 2)
    assert libvirt.commands == ["hostfwd_add pymachine tcp::8080-:8080", "hostfwd_add pymachine tcp::8081-:8081"]


def test_forwards_of_a_guest_that_stays_silent_are_removed(
    tmp_path: Path, libvirt: FakeLibvirt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_forwarding, "_SILENCE_SECONDS", 0.1)
    monkeypatch.setattr(ports, "RETRY_SECONDS", 0.05)
    libvirt.usernet = USERNET
    with running_forwarder(tmp_path, libvirt):
        wait_for(lambda: libvirt.commands == ["hostfwd_remove pymachine tcp::8080"])


def test_a_domain_without_the_channel_is_reported_once(
    tmp_path: Path, libvirt: FakeLibvirt, capfd: pytest.CaptureFixture[str]
) -> None:
    libvirt.has_port = False
    threading.Timer(0.3, lambda: setattr(libvirt, "has_port", True)).start()
    with running_forwarder(tmp_path, libvirt):
        libvirt.report(8080)
        wait_for(lambda: len(libvirt.commands) == 1)
    assert capfd.readouterr().out.count("libvirt: cannot find character device") == 1


def test_a_forwarder_ends_when_its_domain_was_started_again(tmp_path: Path, libvirt: FakeLibvirt) -> None:
    watched = ports.Watched("qemu:///session", MACHINE_ID)
    with watched.reports():
        pass
    libvirt.domain.ID = lambda: 8
    with pytest.raises(ports.MachineEndedError), watched.reports():
        pass


def test_events_are_kept_until_they_are_read() -> None:
    events = ports.EventQueue()
    for _ in range(10000):  # more than a socket holds
        events.wake()
    events.restart()
    assert (events.check(), events.check()) == (True, False)
    events.end(ports.LibvirtGoneError("gone"))
    events.end(ports.MachineEndedError())
    with pytest.raises(ports.MachineEndedError):
        events.check()
    assert not events.check()


def test_a_stream_signals_once_until_it_is_read(libvirt: FakeLibvirt) -> None:
    rings: list[int] = []
    with guest.opened(libvirt.connection, lambda: rings.append(1)) as stream:
        stream.listen()
        libvirt.stream.send(b"a")
        libvirt.stream.send(b"b")
        assert rings == [1]
        assert [stream.read(), stream.read(), stream.read()] == [b"a", b"b", None]
        libvirt.stream.send(b"c")
        assert rings == [1, 1]
    assert libvirt.stream.callback is None
