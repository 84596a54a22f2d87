"""Local sockets of machines without processes: which ones are connected."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from pymachine.hosts import local_socket
from pymachine.hosts.host import Host
from pymachine.ssh.local_socket import place
from pymachine.ssh.local_socket.process import LocalSocketError


class Sockets:
    """Which sockets are connected, instead of processes."""

    connected: ClassVar[set[str]] = set()
    fault: ClassVar[str] = ""
    events: ClassVar[list[str]] = []

    @classmethod
    def connect(cls, host: Host) -> Path:
        assert host.store.load(host.name).socket  # the process reads it there
        if cls.fault:
            raise LocalSocketError(cls.fault)
        cls.connected.add(host.name)
        cls.events.append(f"connect {host.name}")
        return place.path(host.directory)

    @classmethod
    def end(cls, folder: Path) -> bool:
        ran = folder.name in cls.connected
        cls.connected.discard(folder.name)
        return ran

    @classmethod
    def find(cls, host: Host) -> Path | None:
        return place.path(host.directory) if host.name in cls.connected else None


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the processes of `local_socket` by `Sockets`."""
    Sockets.connected.clear()
    Sockets.events.clear()
    monkeypatch.setattr(Sockets, "fault", "")
    for name in ("connect", "end", "find"):
        monkeypatch.setattr(local_socket, name, getattr(Sockets, name))
