"""The port forwarder: forwards the guest's open ports to the machine's address.

Each machine has one small process, which starts with the guest's first container and ends with QEMU: ``python -m
pymachine_driver_qemu.ports MACHINE_FOLDER``. Its standard input is the connection to the guest's port
`identity_channel.CONTAINERS_PORT`. It changes the forwarded ports through a QEMU monitor of its own. Its log is
``ports.log`` in the machine's folder; the forwarded and refused ports are in ``forwards.json``.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from pymachine.driver.kit import forwarded_ports, listen_queues
from pymachine.driver.kit.port_forwarding import RETRY_SECONDS, Forwarder, Target, log
from pymachine_driver_qemu import background, qmp, runtime

_GUEST_RESTARTS = frozenset({"RESET", "SHUTDOWN"})
_PAUSE_SECONDS = 0.02
_CHUNK = 65536
# In emulation, a busy guest may keep QEMU busy.
_MONITOR_SECONDS = 60.0


def follow(guest: socket.socket, monitor: qmp.Qmp, forwarder: Forwarder) -> NoReturn:
    """Follow the guest until QEMU ends, and raise `qmp.QmpGoneError` then."""
    forwarder.adopt()
    with selectors.DefaultSelector() as selector:
        selector.register(monitor, selectors.EVENT_READ)
        selector.register(guest, selectors.EVENT_READ)
        while True:
            ready = selector.select(RETRY_SECONDS if forwarder.wants_retry else None)
            if _GUEST_RESTARTS & set(monitor.events()):
                forwarder.clear()
            if any(key.fileobj is guest for key, _ in ready):
                data = guest.recv(_CHUNK)
                if not data:
                    raise qmp.QmpGoneError("QEMU has ended")
                forwarder.hear(data)
                # A guest that reports without end must not occupy a CPU of the host.
                time.sleep(_PAUSE_SECONDS)
            forwarder.retry()


def _target(folder: Path) -> Target:
    """Read the machine's settings. Raises OSError, ValueError, KeyError."""
    settings = json.loads((folder / background.PORTS.settings).read_text(encoding="utf-8"))
    return Target(
        address=str(settings["address"]),
        docker_port=int(settings["docker_port"]),
        ssh_port=int(settings["ssh_port"]),
        netdev=str(settings["netdev"]),
        ipv6=bool(settings.get("ipv6")),
    )


def _monitor(folder: Path) -> Path:
    sockets = runtime.find(folder)
    if sockets is None:
        raise qmp.QmpGoneError("the machine does not run")
    return sockets / runtime.PORTS


def main(arguments: list[str]) -> int:
    """Run the program, whose argument is the machine's folder."""
    folder = Path(arguments[0])
    try:
        with (
            socket.socket(fileno=os.dup(sys.stdin.fileno())) as guest,
            qmp.Qmp(_monitor(folder), timeout=_MONITOR_SECONDS) as monitor,
        ):
            log("following the guest")
            forwarder = Forwarder(
                folder,
                _target(folder),
                monitor=monitor.human,
                lengthen=lambda: listen_queues.lengthen(monitor.pid()),
                say=log,
            )
            follow(guest, monitor, forwarder)
    except qmp.QmpGoneError:
        (folder / forwarded_ports.FILE).unlink(missing_ok=True)
        log("the machine has ended")
        return 0
    except (qmp.QmpError, OSError, ValueError, KeyError) as error:
        log(f"ended by an error: {error!r}")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
