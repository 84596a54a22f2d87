"""Note a change in the machine's folder while it is under way, so that it can be undone if we are killed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pymachine.driver.contract import Json
from pymachine.driver.kit import transactions
from pymachine.errors import StoreError
from pymachine.hosts import recovery
from pymachine.hosts.host import Host
from pymachine.system import os_errors


def begin(host: Host, change: str, facts: Mapping[str, Json] | None = None, *, durable: bool = False) -> None:
    """Note that `change` is under way; with `durable` the note survives a power cut. Raises `StoreError`."""
    with _writing(host.directory):
        transactions.note(host.directory, change, facts, durable=durable)


def end(host: Host, change: str) -> None:
    """Remove the note of `change`. Raises `StoreError`."""
    with _writing(host.directory):
        transactions.clear(host.directory, change)


@contextmanager
def noted(host: Host, change: str) -> Iterator[None]:
    """Note `change` for the block, whose own code undoes it if it fails."""
    begin(host, change)
    try:
        yield
    finally:
        end(host, change)


@contextmanager
def replacing(host: Host, change: str, finish: recovery.Finish) -> Iterator[None]:
    """Replace a part of the machine in the block; `finish` drops what the block set aside, or brings it back.

    If the block fails or its process is killed, the old part is brought back, with the configuration from before.
    """
    before = copy.deepcopy(host.record.driver)
    begin(host, change, {"Config": before}, durable=True)
    try:
        yield
        begin(host, change, {"Done": True}, durable=True)
    except BaseException:
        recovery.revert(host, finish, before)
        end(host, change)
        raise
    finish(keep=True)
    host.save()
    end(host, change)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raise `StoreError` for an OSError in the block, which writes in a machine's folder."""
    try:
        yield
    except OSError as error:
        raise os_errors.wrapped(StoreError, f"cannot write in {folder}", error) from error
