"""The process that keeps a machine's local socket connected over SSH.

A machine with a local socket has one, ``python -m pymachine.hosts.socket_keeper STORE NAME``. It is started when the
machine is created or started, and ended when that is stopped or removed. It takes a changed address over from the
machine's record. It ends when that is gone, or has no local socket any more. Its log is ``socket.log`` in the machine's
folder.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pymachine.driver.kit.port_forwarding import log
from pymachine.errors import MachineNotFoundError, PymachineError
from pymachine.hosts.host import Hosts
from pymachine.ssh.background import wake_on_signals
from pymachine.ssh.local_socket.forwarder import Forwarder
from pymachine.ssh.local_socket.process import KEEPER, LocalSocketError
from pymachine.ssh.target import Target
from pymachine.store import paths
from pymachine.store.store import Store


class _Record:
    """The machine's record, which is read again when it has changed."""

    def __init__(self, hosts: Hosts, name: str) -> None:
        self._hosts = hosts
        self._name = name
        self._path = hosts.store.machine_dir(name) / paths.CONFIG
        self._version: tuple[int, ...] = ()
        self._wanted = True

    def version(self) -> tuple[int, ...] | None:
        """Return what differs if the record has changed: None if the machine is gone, or needs no socket.

        While the record cannot be read, it is the last result.
        """
        try:
            found = self._path.stat()
            current = (found.st_ino, found.st_mtime_ns, found.st_size)
            if current != self._version:
                self._wanted = self._hosts.store.load(self._name).socket
                self._version = current
        except (FileNotFoundError, NotADirectoryError, MachineNotFoundError):
            return None
        except (PymachineError, OSError) as error:
            log(f"the record cannot be read: {error}")
        return self._version if self._wanted else None

    def target(self) -> Target:
        """Return where to log in. Raises `PymachineError`, also if the host key is not pinned."""
        host = self._hosts.open(self._name)
        target = host.target(host.driver.endpoint())
        if target.known_hosts is None:
            raise LocalSocketError(f"its SSH host key is not pinned; run: pymachine provision {self._name}")
        return target


def main(arguments: list[str]) -> int:
    """Run the program, whose arguments are the root of the store and the machine's name."""
    root, name = Path(arguments[0]), arguments[1]
    wake = wake_on_signals()
    hosts = Hosts(Store(root))
    folder = hosts.store.machine_dir(name)
    try:
        with KEEPER.locked(folder):
            log(f"connecting the local socket, as process {os.getpid()}")
            record = _Record(hosts, name)
            Forwarder(folder, target=record.target, say=log).run(record.version, wake=wake)
    except OSError as error:
        log(f"ended by an error: {error!r}")
        return 1
    log("ended")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
