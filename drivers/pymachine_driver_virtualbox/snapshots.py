"""Snapshots of a machine, which VirtualBox keeps: a snapshot's folder in the store only records its UUID.

The core removes a snapshot by deleting its folder. VirtualBox's part is deleted when the next snapshot is taken.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pymachine.driver.contract import BootRequest, Json, State
from pymachine.driver.errors import DriverError
from pymachine_driver_virtualbox import boot, machine, output, power, shared_folders
from pymachine_driver_virtualbox.errors import VirtualBoxError

if TYPE_CHECKING:
    from pymachine_driver_virtualbox.base import VirtualBoxMachine
    from pymachine_driver_virtualbox.vboxmanage import VBoxManage

# The names of pymachine's snapshots in VirtualBox begin with this.
PREFIX = "pymachine-"
FACT = "VirtualBoxSnapshot"
# The shared folders at that time: their paths by name.
FOLDERS = "VirtualBoxSharedFolders"
MANIFESTS = "snapshots/*/snapshot.json"
_SECONDS = 600.0
_WITH_MEMORY = (State.RUNNING, State.PAUSED, State.SAVED)


def save(driver: VirtualBoxMachine, vbox: VBoxManage) -> Mapping[str, Json]:
    """Take a snapshot of the machine, and delete VirtualBox's part of removed ones."""
    prune(driver, vbox)
    info = vbox.info(driver.vm)
    state = output.state(info)
    if state not in (*_WITH_MEMORY, State.STOPPED):
        raise DriverError(f"no snapshot can be taken of a machine that is {state.word.lower()}")
    name = f"{PREFIX}{secrets.token_hex(4)}"
    printed = vbox("snapshot", driver.vm, "take", name, timeout=_SECONDS)
    uuid = output.uuid(printed)
    if not uuid:
        raise VirtualBoxError(f"VirtualBox took a snapshot, but did not print its UUID: {printed.strip()}")
    return {FACT: uuid, FOLDERS: shared_folders.existing(info), "Memory": state in _WITH_MEMORY}


def restore(driver: VirtualBoxMachine, vbox: VBoxManage, facts: Mapping[str, Json], request: BootRequest) -> None:
    """Restore a snapshot, and resume the machine if the snapshot has its memory."""
    uuid = str(facts.get(FACT, ""))
    if uuid not in known(vbox, driver.vm).values():
        raise DriverError(
            "VirtualBox does not have this snapshot any more", hint="It was removed with another front end."
        )
    if facts.get("Memory"):
        # VirtualBox also restores the folders of that time, and cannot change those of a machine with saved memory.
        folders = facts.get(FOLDERS)
        shared_folders.check_resumable(
            driver.machine.name,
            folders if isinstance(folders, dict) else {},
            request.shares,
            what="the snapshot",
            hint=f"To share them again: pymachine modify --share PATH {driver.machine.name}",
            reporter=driver.reporter,
        )
    power.off(vbox, driver.vm)
    vbox("snapshot", driver.vm, "restore", uuid, timeout=_SECONDS)
    # The snapshot may hold an older identity: have the current one sent when the guest runs.
    driver.config["IdentityDigest"] = ""
    if facts.get("Memory"):
        boot.start_machine(driver, vbox, request, saved=True)
    else:
        # The snapshot of a running machine has its memory even if only the disk was wanted.
        power.off(vbox, driver.vm)
        vbox("modifyvm", driver.vm, *machine.size_options(driver.config))


def prune(driver: VirtualBoxMachine, vbox: VBoxManage) -> None:
    """Delete those of pymachine's snapshots that have no folder in the store any more."""
    wanted = set()
    for path in driver.machine.directory.glob(MANIFESTS):
        wanted.add(_uuid_in(path))
    for name, uuid in known(vbox, driver.vm).items():
        if name.startswith(PREFIX) and uuid not in wanted:
            vbox("snapshot", driver.vm, "delete", uuid, timeout=_SECONDS)


def known(vbox: VBoxManage, vm: str) -> dict[str, str]:
    """Return the UUIDs of the machine's snapshots by name."""
    info = vbox.info(vm)
    return {
        value: info[key.replace("Name", "UUID", 1)]
        for key, value in info.items()
        if key.startswith("SnapshotName") and key.replace("Name", "UUID", 1) in info
    }


def _uuid_in(path: Path) -> str:
    try:
        return str(json.loads(path.read_bytes())["facts"][FACT])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # the core ignores a snapshot that it cannot read, too
