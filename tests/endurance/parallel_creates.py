"""Run several `create` at once: in one store, and from two stores with one cache."""

from __future__ import annotations

import json
import subprocess
from functools import partial

from endurance import invariants
from endurance.campaign import Kind, Try, expect
from endurance.kill_record_commands import CREATE
from endurance.sandbox import SECONDS, Sandbox, empty, with_bystander
from support.runner import PROGRAM

_RECORDS_AT_ONCE = 6
# Fields of the record that must be unique among all machines of all stores on this host.
_UNIQUE_FIELDS = ("MachineID", "IPAddress")


def _start(sandbox: Sandbox, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(PROGRAM), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=sandbox.program.environment(),
        text=True,
        cwd=sandbox.files,
    )


def _all_succeed(started: list[subprocess.Popen[str]]) -> None:
    ended = [(process.communicate(timeout=SECONDS)[0], process.returncode) for process in started]
    failed = [text for text, code in ended if code != 0]
    expect(not failed, f"{len(failed)} of {len(ended)} creates at once failed: {failed[:1]}")


def _records(sandbox: Sandbox, attempt: Try) -> None:
    """Create machines with different names in one store, and two with the same name, of which one succeeds."""
    before = invariants.Before.of(sandbox)
    names = [f"x{number}" for number in range(_RECORDS_AT_ONCE)]
    twins = [_start(sandbox, *CREATE, "twin") for _ in range(2)]
    _all_succeed([_start(sandbox, *CREATE, name) for name in names])
    codes = sorted(process.wait(SECONDS) for process in twins)
    for process in twins:
        process.communicate()
    expect(codes[0] == 0 and codes[1] != 0, f"two creates of one name at once ended with {codes}")
    invariants.records_are_readable(sandbox)
    invariants.nothing_is_left(sandbox, [*names, "twin"], before)


def _stores(sandbox: Sandbox, attempt: Try) -> None:
    """Create two machines each in two stores with one cache, at once; check that all identities differ."""
    before = invariants.Before.of(sandbox)
    with empty() as other:
        _all_succeed([_start(one, "create", name) for one in (sandbox, other) for name in ("box", "copy")])
        records = [_identity(one, name) for one in (sandbox, other) for name in ("box", "copy")]
        for position, field in enumerate((*_UNIQUE_FIELDS, "host key", "SSH key")):
            values = [record[position] for record in records]
            expect(len(set(values)) == len(values), f"machines that were made at once have the same {field}: {values}")
        for name in ("box", "copy"):
            invariants.call(other, "rm", "-y", "-f", name, code=0)
        expect(not other.remaining_processes(()), "rm -f leaves processes in the other store")
    invariants.records_are_readable(sandbox)
    invariants.nothing_is_left(sandbox, ("box", "copy"), before)


def _identity(sandbox: Sandbox, name: str) -> list[str]:
    driver = json.loads(invariants.call(sandbox, "inspect", name, code=0).stdout)["Driver"]
    keys = [(sandbox.folder(name) / file).read_text() for file in ("ssh_host_ed25519_key.pub", "id_rsa.pub")]
    return [*(str(driver[key]) for key in _UNIQUE_FIELDS), *(key.split()[1] for key in keys)]


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
