"""Check the values of a driver's options and of `modify`. All checks raise `UsageError`, which names the option."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from pymachine.driver.abilities import HardwareChange
from pymachine.driver.contract import Config, Json
from pymachine.driver.errors import UsageError

ALL_CPUS = -1
"""The value that stands for all CPUs of the host."""


def integer(flag: str, value: Json, *, least: int | None = None, most: int | None = None) -> int:
    """Return `value`, which must be a whole number of MB within the bounds."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"--{flag} is {value!r}, expected a whole number")
    if least is not None and value < least:
        raise UsageError(f"--{flag} is {value}, expected at least {least} MB")
    if most is not None and value > most:
        raise UsageError(f"--{flag} is {value}, expected at most {most} MB")
    return value


def cpu_count(flag: str, value: Json, *, most: int) -> int:
    """Return `value`, which must be a number of CPUs or `ALL_CPUS`."""
    count = integer(flag, value)
    if count != ALL_CPUS and not 1 <= count <= most:
        raise UsageError(f"--{flag} is {count}, expected 1 to {most}, or -1 for all of the host's")
    return count


def cpus_of_host(count: int, *, host: int, default: int, most: int) -> int:
    """Return a machine's number of CPUs on a host with `host` CPUs, for a `count` that `cpu_count` returned."""
    if count == ALL_CPUS:
        return min(host, most)
    # More CPUs than the host has only wait for each other, so the default does not exceed them.
    return min(count, host) if count == default else count


def one_of(flag: str, value: Json, allowed: Sequence[str]) -> str:
    """Return the element of `words` that equals `value`, ignoring case."""
    for name in allowed:
        if str(value).lower() == name.lower():
            return name
    raise UsageError(f"--{flag} is {value!r}, expected one of {', '.join(allowed)}")


def image_source(value: Json) -> str:
    """Return the image's URL, or its path made absolute, since a later command may run in another directory."""
    text = str(value or "")
    return text if not text or "://" in text else os.path.abspath(os.path.expanduser(text))  # noqa: PTH100, PTH111


def changed_hardware(
    config: Mapping[str, Json],
    change: HardwareChange,
    *,
    cpus: Callable[[str, int], int],
    least_memory_mib: int,
    default_disk_mb: int,
    most_memory_mib: int | None = None,
    most_disk_mb: int | None = None,
) -> Config:
    """Return the fields of `config` that `change` changes. `cpus` checks an option's name and its number of CPUs."""
    changed: Config = {}
    if change.cpus is not None:
        changed["CPU"] = cpus("cpus", change.cpus)
    if change.memory_mib is not None:
        changed["Memory"] = integer("memory", change.memory_mib, least=least_memory_mib, most=most_memory_mib)
    if change.disk_mb is not None:
        current_mb = int(config.get("DiskSize") or default_disk_mb)
        if change.disk_mb < current_mb:
            raise UsageError(
                f"--disk-size is {change.disk_mb}, but the disk has {current_mb} MB, and a disk cannot shrink"
            )
        changed["DiskSize"] = integer("disk-size", change.disk_mb, most=most_disk_mb)
    return changed
