"""All kinds of tries, in the order of the table."""

from __future__ import annotations

import importlib.util

from endurance import (
    cycles,
    damaged_input,
    full_disk,
    full_disk_of_machines,
    hostile_engines,
    killed_helpers,
    kills_of_builds,
    kills_of_machines,
    kills_of_records,
    parallel_creates,
)
from endurance.campaign import Kind


def _missing() -> dict[str, str]:
    """The kinds that stand on a module of tests/support which is not there, with the reason."""
    needed = {
        "hostile engines and mirrors": hostile_engines.MODULE,
        "damaged records": damaged_input.RECORDS,
        "damaged archives": damaged_input.ARCHIVES,
    }
    return {
        kind: f"there is no module {module}" for kind, module in needed.items() if not importlib.util.find_spec(module)
    }


ALL: list[Kind] = [
    *kills_of_records.KINDS,
    *kills_of_machines.KINDS,
    *kills_of_builds.KINDS,
    *killed_helpers.KINDS,
    *parallel_creates.KINDS,
    *cycles.KINDS,
    *full_disk.KINDS,
    *full_disk_of_machines.KINDS,
    *hostile_engines.kinds(),
    *damaged_input.kinds(),
]
LEFT_OUT = _missing()
