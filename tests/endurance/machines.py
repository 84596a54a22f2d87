"""Actions on a real machine, and checks of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from endurance import invariants
from endurance.campaign import expect
from endurance.sandbox import Sandbox

# Starts a container with the machine's busybox, and publishes a port of it.
_SERVE = """set -e; mkdir -p /tmp/box/bin; cp /usr/bin/busybox /tmp/box/bin/; ln -sf busybox /tmp/box/bin/sh
tar -c -C /tmp/box . | docker import - box:1 > /dev/null
docker run -d --restart always -p 8088:80 box:1 /bin/busybox nc -ll -p 80 -e /bin/busybox true > /dev/null"""
SERVED_PORT = 8088
_MARK = "/var/lib/docker/endurance"
_TEMPORARY = (".old", ".new", ".tmp", ".part", ".partial")


def create(sandbox: Sandbox, name: str = "box", *flags: str) -> None:
    """Create a running machine."""
    invariants.call(sandbox, "create", *flags, name, code=0)


def create_stopped(sandbox: Sandbox, name: str = "box", *flags: str) -> None:
    """Create a machine and switch it off."""
    create(sandbox, name, *flags)
    invariants.call(sandbox, "kill", name, code=0)


def mark(sandbox: Sandbox, name: str, text: str) -> None:
    """Write a mark to the data disk of a running machine."""
    invariants.call(sandbox, "ssh", name, f"sudo sh -c 'echo {text} > {_MARK}; sync'", code=0)


def has_mark(sandbox: Sandbox, name: str, text: str) -> None:
    """Check that the data disk of a running machine has that mark."""
    outcome = invariants.call(sandbox, "ssh", name, f"sudo cat {_MARK}")
    found = outcome.stdout.strip()
    expect(found == text, f"the disk of {name} has the mark {found!r} and not {text!r}: {outcome.stderr}")


def runs(sandbox: Sandbox, name: str = "box") -> None:
    """Start the machine if it is not running; check that SSH and the engine answer with the right keys."""
    outcome = invariants.call(sandbox, "start", name)
    # As in docker-machine, `start` has exit code 1 for a machine that already runs.
    expect(outcome.code == 0 or "is already running" in outcome.text, f"`start {name}` fails: {outcome.text}")
    invariants.call(sandbox, "ssh", name, "true", code=0)
    invariants.call(sandbox, "version", name, code=0)
    state = invariants.call(sandbox, "status", name, code=0).stdout.strip()
    expect(state == "Running", f"after `start` the machine is {state}")


def is_stopped(sandbox: Sandbox, name: str = "box") -> None:
    """Check that the machine is stopped and has no process."""
    state = invariants.call(sandbox, "status", name, code=0).stdout.strip()
    expect(state == "Stopped", f"the machine is {state} and not stopped")
    folder = str(sandbox.folder(name))
    left = {pid: text for pid, text in sandbox.processes().items() if folder in text}
    expect(not left, f"a stopped machine has processes: {left}")


def serve(sandbox: Sandbox, name: str = "box") -> None:
    """Start a container in the machine that publishes a port."""
    invariants.call(sandbox, "ssh", name, _SERVE, code=0)


def forwards(sandbox: Sandbox, name: str = "box") -> None:
    """Check that the port of the container is forwarded and the forwarder runs."""

    def listed() -> bool:
        rows = json.loads(invariants.call(sandbox, "ports", "--json", name).stdout or "[]")
        return any(row.get("Port") == SERVED_PORT and not row.get("Problem") for row in rows)

    def has_forwarder() -> bool:
        folder = str(sandbox.folder(name))
        return any("pymachine_driver_qemu.ports" in text and folder in text for text in sandbox.processes().values())

    expect(becomes_true(has_forwarder), "the machine has no port forwarder")
    expect(becomes_true(listed), f"port {SERVED_PORT} of the machine is not forwarded")


def becomes_true(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Wait up to `seconds` for `condition`; return whether it became true."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def record(sandbox: Sandbox, name: str = "box") -> dict[str, object]:
    """Return the driver's part of `inspect`."""
    driver: dict[str, object] = json.loads(invariants.call(sandbox, "inspect", name, code=0).stdout)["Driver"]
    return driver


def has_no_temporary_files(sandbox: Sandbox, name: str = "box") -> None:
    """Check that the machine's folder has no temporary files."""
    folder = sandbox.folder(name)
    left = [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.name.startswith(".") or path.name.endswith(_TEMPORARY)
    ]
    expect(not left, f"left in the folder of {name}: {left}")
