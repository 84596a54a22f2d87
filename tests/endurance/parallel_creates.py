"""Creates at the same time: from two stores on one cache, and several in one store."""

from __future__ import annotations

import json
import subprocess
from functools import partial

from endurance import invariants
from endurance.campaign import Kind, Try, expect
from endurance.kills_of_records import CREATE
from endurance.place import SECONDS, Place, empty, with_bystander
from support.runner import PROGRAM

_RECORDS_AT_ONCE = 6
# Of a machine's record: what no other machine of any store on this host may have.
_OWN = ("MachineID", "IPAddress")


def _start(place: Place, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(PROGRAM), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=place.program.environment(),
        text=True,
        cwd=place.files,
    )


def _all_end_well(started: list[subprocess.Popen[str]]) -> None:
    ended = [(process.communicate(timeout=SECONDS)[0], process.returncode) for process in started]
    failed = [text for text, code in ended if code != 0]
    expect(not failed, f"{len(failed)} of {len(ended)} creates at once failed: {failed[:1]}")


def _records(place: Place, each: Try) -> None:
    """Creates with different names in one store, and two with the same name, of which one wins."""
    before = invariants.Before.of(place)
    names = [f"x{number}" for number in range(_RECORDS_AT_ONCE)]
    twins = [_start(place, *CREATE, "twin") for _ in range(2)]
    _all_end_well([_start(place, *CREATE, name) for name in names])
    codes = sorted(process.wait(SECONDS) for process in twins)
    for process in twins:
        process.communicate()
    expect(codes[0] == 0 and codes[1] != 0, f"two creates of one name at once ended with {codes}")
    invariants.records_are_readable(place)
    invariants.nothing_is_left(place, [*names, "twin"], before)


def _stores(place: Place, each: Try) -> None:
    """Two stores with one cache make two machines each, at the same time; no identity is there twice."""
    before = invariants.Before.of(place)
    with empty() as other:
        _all_end_well([_start(one, "create", name) for one in (place, other) for name in ("box", "copy")])
        records = [_identity(one, name) for one in (place, other) for name in ("box", "copy")]
        for position, what in enumerate((*_OWN, "host key", "SSH key")):
            values = [record[position] for record in records]
            expect(len(set(values)) == len(values), f"machines that were made at once have the same {what}: {values}")
        for name in ("box", "copy"):
            invariants.call(other, "rm", "-y", "-f", name, code=0)
        expect(not other.remaining_processes(()), "rm -f leaves processes in the other store")
    invariants.records_are_readable(place)
    invariants.nothing_is_left(place, ("box", "copy"), before)


def _identity(place: Place, name: str) -> list[str]:
    driver = json.loads(invariants.call(place, "inspect", name, code=0).stdout)["Driver"]
    keys = [(place.folder(name) / file).read_text() for file in ("ssh_host_ed25519_key.pub", "id_rsa.pub")]
    return [*(str(driver[key]) for key in _OWN), *(key.split()[1] for key in keys)]


KINDS = [
    Kind(
        "parallel-records",
        f"{_RECORDS_AT_ONCE + 2} creates at once in one store, driver none",
        10,
        partial(with_bystander, real=False),
        _records,
        seconds=5,
    ),
    Kind(
        "parallel-stores",
        "4 creates at once from two stores on one cache",
        5,
        partial(with_bystander, real=True),
        _stores,
        seconds=12,
    ),
]
