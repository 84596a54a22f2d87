"""A machine's record as the processes in the background follow it."""

from __future__ import annotations

from pymachine.driver.kit.port_forwarding import log
from pymachine.errors import MachineNotFoundError, PymachineError
from pymachine.hosts.host import Host, Hosts
from pymachine.ssh.target import Target
from pymachine.store import paths


class WatchedRecord:
    """The record of machine `name`, which is read again when its file has changed."""

    def __init__(self, hosts: Hosts, name: str, *, unpinned: type[PymachineError]) -> None:
        """`unpinned` is the error of `target` if the machine's host key is not pinned."""
        self.version: tuple[int, ...] = ()
        """It differs after each change of the record that `machine` has noticed."""
        self._hosts = hosts
        self._name = name
        self._path = hosts.store.machine_dir(name) / paths.CONFIG
        self._unpinned = unpinned
        self._machine: Host | None = None
        self._problem = ""

    def machine(self) -> Host | None:
        """Return the machine: the same object until its record changes. None if it is gone.

        While the record cannot be read, it is the machine of the last one, or None if there was none.
        """
        try:
            found = self._path.stat()
            current = (found.st_ino, found.st_mtime_ns, found.st_size)
            if self._machine is None or current != self.version:
                self._machine = self._hosts.open(self._name)
                self.version = current
        except (FileNotFoundError, NotADirectoryError, MachineNotFoundError):
            return None
        except (PymachineError, OSError) as error:
            self.report(error)
        return self._machine

    def report(self, error: Exception) -> None:
        """Log why the record cannot be used, unless that was the last reason, too."""
        if str(error) != self._problem:
            self._problem = str(error)
            log(f"the record cannot be read: {error}")

    def target(self) -> Target:
        """Return where to log in. Raises `PymachineError`, also if the host key is not pinned."""
        host = self._hosts.open(self._name)
        target = host.target(host.driver.endpoint())
        if target.known_hosts is None:
            raise self._unpinned(f"its SSH host key is not pinned; run: pymachine provision {self._name}")
        return target
