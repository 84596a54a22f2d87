"""The files of an export, and how large each may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pymachine.driver.abilities import ConfigPortable
from pymachine.driver.contract import Driver
from pymachine.hosts import identity
from pymachine.hosts.archive_format import ExportError, Member
from pymachine.store import paths

KEYS = (paths.SSH_KEY, paths.SSH_HOST_KEY)
# The machine's identity. Without the certificates: their key opens all machines of the store.
OWN_FILES = (*KEYS, identity.MACHINE_ID)
# With the modes that the files have in a machine's folder.
CONNECTION_FILES = ((paths.CA_CERT, 0o644), (paths.CLIENT_CERT, 0o644), (paths.CLIENT_KEY, 0o600))
# For a key, a certificate or an id.
_LARGEST_SMALL = 64 << 10


def check_sizes(driver: Driver, sizes: Mapping[str, int]) -> None:
    """Raise `ExportError` for files that a machine of `driver` does not have, or that are too large."""
    largest = dict.fromkeys(OWN_FILES, _LARGEST_SMALL)
    if isinstance(driver, ConfigPortable):
        largest.update(driver.portable_files())
    for name, size in sizes.items():
        if name in largest and size > largest[name]:
            raise ExportError(
                f"{name} has {size} bytes; by the machine's record it has at most {largest[name]}",
                hint="Bring the record up to date where the machine is: pymachine modify --disk-size.",
            )
        if name not in largest and isinstance(driver, ConfigPortable):
            raise ExportError(f"the export has {name!r}, which no {driver.info.name} machine has")


def check_small(members: Sequence[Member]) -> None:
    """Raise `ExportError` for a file that is larger than any key or certificate."""
    for member in members:
        if member.size > _LARGEST_SMALL:
            raise ExportError(f"{member.name} in the export has {member.size} bytes, more than {_LARGEST_SMALL}")
