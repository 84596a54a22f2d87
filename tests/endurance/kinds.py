"""All kinds of tries, in the order of the table."""

from __future__ import annotations

import importlib.util

from endurance import (
    cycles,
    damaged_input,
    full_disk,
    full_disk_machines,
    hostile_engines,
    kill_builds,
    kill_machine_commands,
    kill_record_commands,
    killed_processes,
    parallel_creates,
)
from endurance.campaign import Kind


def _missing() -> dict[str, str]:
    """Return the kinds whose module in tests/support is missing, with the reason."""
    needed = {
        "hostile engines and mirrors": hostile_engines.MODULE,
        "damaged records": damaged_input.RECORDS,
        "damaged archives": damaged_input.ARCHIVES,
    }
    return {
        kind: f"there is no module {module}" for kind, module in needed.items() if not importlib.util.find_spec(module)
    }


ALL: list[Kind] = [
    *kill_record_commands.KINDS,
    *kill_machine_commands.KINDS,
    *kill_builds.KINDS,
    *killed_processes.KINDS,
    *parallel_creates.KINDS,
    *cycles.KINDS,
    *full_disk.KINDS,
    *full_disk_machines.KINDS,
    *hostile_engines.kinds(),
    *damaged_input.kinds(),
]
LEFT_OUT = _missing()
