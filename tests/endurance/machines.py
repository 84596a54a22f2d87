"""What the tries do to a real machine, and what they expect of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from endurance import invariants
from endurance.campaign import expect
from endurance.place import Place

# A container of the busybox that is in the machine, with a port of it on the machine's address.
_SERVE = """set -e; mkdir -p /tmp/box/bin; cp /usr/bin/busybox /tmp/box/bin/; ln -sf busybox /tmp/box/bin/sh
tar -c -C /tmp/box . | docker import - box:1 > /dev/null
docker run -d --restart always -p 8088:80 box:1 /bin/busybox nc -ll -p 80 -e /bin/busybox true > /dev/null"""
SERVED_PORT = 8088
_MARK = "/var/lib/docker/endurance"
_TEMPORARY = (".old", ".new", ".tmp", ".part", ".partial")


def create(place: Place, name: str = "box", *flags: str) -> None:
    """Make a running machine."""
    invariants.call(place, "create", *flags, name, code=0)


def create_stopped(place: Place, name: str = "box", *flags: str) -> None:
    """Make a machine and switch it off."""
    create(place, name, *flags)
    invariants.call(place, "kill", name, code=0)


def mark(place: Place, name: str, text: str) -> None:
    """Write a mark onto the data disk of a running machine."""
    invariants.call(place, "ssh", name, f"sudo sh -c 'echo {text} > {_MARK}; sync'", code=0)


def has_mark(place: Place, name: str, text: str) -> None:
    """The data disk of a running machine has that mark."""
    outcome = invariants.call(place, "ssh", name, f"sudo cat {_MARK}")
    said = outcome.stdout.strip()
    expect(said == text, f"the disk of {name} has the mark {said!r} and not {text!r}: {outcome.stderr}")


def runs(place: Place, name: str = "box") -> None:
    """`start` has the machine run, whatever it was before; SSH and the engine answer with the right keys."""
    outcome = invariants.call(place, "start", name)
    # As docker-machine, `start` has the exit code 1 for a machine that runs already.
    expect(outcome.code == 0 or "is already running" in outcome.text, f"`start {name}` fails: {outcome.text}")
    invariants.call(place, "ssh", name, "true", code=0)
    invariants.call(place, "version", name, code=0)
    said = invariants.call(place, "status", name, code=0).stdout.strip()
    expect(said == "Running", f"after `start` the machine is {said}")


def is_stopped(place: Place, name: str = "box") -> None:
    """The machine is stopped and has no process."""
    said = invariants.call(place, "status", name, code=0).stdout.strip()
    expect(said == "Stopped", f"the machine is {said} and not stopped")
    folder = str(place.folder(name))
    left = {pid: text for pid, text in place.processes().items() if folder in text}
    expect(not left, f"a stopped machine has processes: {left}")


def serve(place: Place, name: str = "box") -> None:
    """Have a container of the machine publish a port."""
    invariants.call(place, "ssh", name, _SERVE, code=0)


def forwards(place: Place, name: str = "box") -> None:
    """The port of the container is forwarded, and by a process that runs."""

    def listed() -> bool:
        rows = json.loads(invariants.call(place, "ports", "--json", name).stdout or "[]")
        return any(row.get("Port") == SERVED_PORT and not row.get("Problem") for row in rows)

    def has_forwarder() -> bool:
        folder = str(place.folder(name))
        return any("pymachine_driver_qemu.ports" in text and folder in text for text in place.processes().values())

    expect(comes_true(has_forwarder), "the machine has no port forwarder")
    expect(comes_true(listed), f"port {SERVED_PORT} of the machine is not forwarded")


def comes_true(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether `condition` is true now, or is so within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def record(place: Place, name: str = "box") -> dict[str, object]:
    """What `inspect` shows of the driver's part."""
    driver: dict[str, object] = json.loads(invariants.call(place, "inspect", name, code=0).stdout)["Driver"]
    return driver


def nothing_half_made(place: Place, name: str = "box") -> None:
    """There is no temporary file in the machine's folder."""
    folder = place.folder(name)
    left = [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name.startswith(".") or path.name.endswith(_TEMPORARY)
    ]
    expect(not left, f"left in the folder of {name}: {left}")
