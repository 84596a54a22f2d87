"""The programs that run in the background for one machine: their start and their end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from pymachine.driver.kit.port_forwarding import log
from pymachine.hosts.host import Hosts
from pymachine.ssh.background import BackgroundProcess, wake_on_signals
from pymachine.store.store import Store

Work = Callable[[Hosts, str, socket.socket], None]


def run(process: BackgroundProcess, work: Work, arguments: Sequence[str], *, begin: str) -> int:
    """Run `work` as the machine's `process`, and return the exit code.

    `arguments` are the root of the store and the machine's name. `work` gets the hosts, the name, and the socket that
    signals wake. `begin` is the first line of the log.
    """
    root, name = Path(arguments[0]), arguments[1]
    wake = wake_on_signals()
    hosts = Hosts(Store(root))
    try:
        with process.locked(hosts.store.machine_dir(name)):
            log(f"{begin}, as process {os.getpid()}")
            work(hosts, name, wake)
    except OSError as error:
        log(f"ended by an error: {error!r}")
        return 1
    log("ended")
    return 0
