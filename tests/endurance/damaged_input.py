"""Damaged and forged records and exports."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from endurance import invariants
from endurance.campaign import Kind, Try, expect
from endurance.sandbox import BYSTANDER, SECONDS, Sandbox, with_bystander
from pymachine.errors import PymachineError

RECORDS = "support.mutations"
ARCHIVES = "support.archives"
_RECORDS_A_TRY = 30
_ARCHIVES_A_TRY = 10
_FORGED_BYTES = 64 * 2**20


def _records(sandbox: Sandbox, attempt: Try) -> str:
    """Check that commands on damaged records have no internal error and change no file of the user."""
    argv = [sys.executable, "-m", RECORDS, str(_RECORDS_A_TRY), str(attempt.random.randrange(10**6))]
    folders = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]  # the first contains `support`
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, folders))}
    ended = subprocess.run(
        argv, env=environment, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False
    )
    expect(ended.returncode == 0, f"{argv[2:]} ended with {ended.returncode}: {ended.stdout}{ended.stderr}")
    return f"{_RECORDS_A_TRY} records a try"


def _archives(sandbox: Sandbox, attempt: Try) -> str:
    """Check that damaged and forged exports are refused and leave nothing."""
    before = invariants.Before.of(sandbox)
    archives: Any = importlib.import_module(ARCHIVES)
    whole = sandbox.files / "whole"
    if not whole.exists():
        invariants.call(sandbox, "export", "--connection", BYSTANDER, str(whole), code=0)
    damaged = archives.damaged(whole.read_bytes(), rounds=_ARCHIVES_A_TRY, seed=attempt.random.randrange(10**6))
    forged = islice(archives.hostile(_FORGED_BYTES), attempt.number, attempt.number + 1)
    root = sandbox.store / "machines"
    for fault in archives.faults(
        chain(damaged, forged), partial(_take, sandbox), file=sandbox.files / "damaged", root=root
    ):
        expect(condition=False, text=f"an export with {fault.damage}: {fault.reason}")
    invariants.nothing_is_left(sandbox, (), before)
    return f"{_ARCHIVES_A_TRY} exports a try"


def _take(sandbox: Sandbox, file: Path) -> None:
    """Import `file`; raise PymachineError if pymachine refuses it."""
    outcome = invariants.call(sandbox, "import", str(file), "box")
    if outcome.code != 0:
        raise PymachineError(outcome.text)


def kinds() -> list[Kind]:
    """Return the kinds whose modules exist."""
    sandbox = partial(with_bystander, real=False)
    needed = {
        RECORDS: Kind("damaged-records", "commands on damaged and hostile records", 20, sandbox, _records, seconds=4),
        ARCHIVES: Kind("damaged-archives", "`import` of damaged and forged exports", 10, sandbox, _archives, seconds=6),
    }
    return [kind for module, kind in needed.items() if importlib.util.find_spec(module)]
