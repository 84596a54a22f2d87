"""The process that keeps a machine's local socket connected over SSH.

A machine with a local socket has one, ``python -m pymachine.hosts.socket_keeper STORE NAME``. It is started when the
machine is created or started, and ended when that is stopped or removed. It takes a changed address over from the
machine's record. It ends when that is gone, or has no local socket any more. Its log is ``socket.log`` in the machine's
folder.
"""

from __future__ import annotations

import socket
import sys

from pymachine.driver.kit.port_forwarding import log
from pymachine.hosts import background_program
from pymachine.hosts.host import Hosts
from pymachine.hosts.watched_record import WatchedRecord
from pymachine.ssh.local_socket.forwarder import Forwarder
from pymachine.ssh.local_socket.process import KEEPER, LocalSocketError


def version(record: WatchedRecord) -> tuple[int, ...] | None:
    """Return what differs if the record has changed: None if the machine is gone, or has no local socket any more."""
    machine = record.machine()
    return record.version if machine is not None and machine.record.socket else None


def keep(hosts: Hosts, name: str, wake: socket.socket) -> None:
    """Keep the local socket of machine `name` connected, until `wake` ends that or the machine needs it no more."""
    record = WatchedRecord(hosts, name, unpinned=LocalSocketError)
    forwarder = Forwarder(hosts.store.machine_dir(name), target=record.target, say=log)
    forwarder.run(lambda: version(record), wake=wake)


if __name__ == "__main__":
    sys.exit(background_program.run(KEEPER, keep, sys.argv[1:], begin="connecting the local socket"))
