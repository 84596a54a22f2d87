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
from pymachine.hosts.host import Hosts
from pymachine.hosts.watched_record import WatchedRecord
from pymachine.ssh.background import wake_on_signals
from pymachine.ssh.local_socket.forwarder import Forwarder
from pymachine.ssh.local_socket.process import KEEPER, LocalSocketError
from pymachine.store.store import Store


def version(record: WatchedRecord) -> tuple[int, ...] | None:
    """Return what differs if the record has changed: None if the machine is gone, or has no local socket any more."""
    machine = record.machine()
    return record.version if machine is not None and machine.record.socket else None


def main(arguments: list[str]) -> int:
    """Run the program, whose arguments are the root of the store and the machine's name."""
    root, name = Path(arguments[0]), arguments[1]
    wake = wake_on_signals()
    hosts = Hosts(Store(root))
    folder = hosts.store.machine_dir(name)
    try:
        with KEEPER.locked(folder):
            log(f"connecting the local socket, as process {os.getpid()}")
            record = WatchedRecord(hosts, name, unpinned=LocalSocketError)
            Forwarder(folder, target=record.target, say=log).run(lambda: version(record), wake=wake)
    except OSError as error:
        log(f"ended by an error: {error!r}")
        return 1
    log("ended")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
