"""The port watcher: makes the ports that containers publish appear on the machine's address.

One small process a machine, started with it and ending with its QEMU: ``python -m pymachine_driver_qemu.ports
MACHINE_FOLDER``. It follows the engine's events over mutual TLS, as any Docker client could, and tells QEMU through a
monitor of its own which ports to forward. What it does is logged in ``ports.log`` in the machine's folder.
"""

from __future__ import annotations

import json
import selectors
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pymachine import backlog
from pymachine.published import TIMEOUT_SECONDS, Engine, EngineGoneError, Forwards, Target
from pymachine_driver_qemu import qmp, runtime

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
_GUEST_RESTARTS = frozenset({"RESET", "SHUTDOWN"})


def watch(folder: Path, target: Target, *, netdev: str, say: Callable[[str], None]) -> None:
    """Follow the machine in `folder` until its QEMU ends. Raises `qmp.QmpError` if there is none."""
    sockets = runtime.find(folder)
    if sockets is None:
        raise qmp.QmpGoneError("the machine does not run")
    with qmp.Qmp(sockets / runtime.PORTS, timeout=TIMEOUT_SECONDS) as monitor:
        forwards = Forwards(
            monitor.human, netdev=netdev, address=target.address, say=say, added=lambda: _lengthen(monitor.pid(), say)
        )
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
        target = Target(str(fields["address"]), int(fields["docker_port"]))
        watch(folder, target, netdev=str(fields["netdev"]), say=_log)
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


def _lengthen(pid: int, say: Callable[[str], None]) -> None:
    try:
        backlog.lengthen(pid)
    except backlog.BacklogError as error:
        say(f"cannot lengthen the queues of the ports: {error}")


def _log(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
