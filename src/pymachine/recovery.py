"""Finish or undo the changes of a machine whose command was killed; see `pymachine.unfinished`.

Each function may itself be killed: called again, it goes on from where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pymachine import fields, paths, unfinished
from pymachine.driver import Capability, Config, Driver, Recoverable, Renamable, RestoreDriver, State, Upgradable
from pymachine.machine import Machine
from pymachine.progress import Reporter
from pymachine.store import Store
from pymachine.unfinished import Change

Settle = Callable[..., None]
"""Drops what was set aside (``keep=True``), or brings it back."""
# What the user did, where the name of a change says something else.
_WORDS = {unfinished.BOOT: "start", unfinished.HOLD: "snapshot or clone"}


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """One machine that has unfinished changes, and what is needed to settle them. Hold the machine's lock."""

    store: Store
    machine: Machine
    driver: Driver
    reporter: Reporter
    answers: Callable[[], bool]
    """Whether the engine answers with the machine's certificate; waits for a moment."""

    @property
    def folder(self) -> Path:
        """The machine's folder."""
        return self.store.machine_dir(self.machine.name)

    def settle(self, change: Change) -> None:
        """Finish or undo `change`, and remove its note. Raises `PymachineError` or OSError; the note stays then."""
        known: dict[str, Callable[[Change], str]] = {
            unfinished.CREATE: self._undo_create,
            unfinished.HOLD: self._release,
            unfinished.BOOT: self._settle_boot,
            unfinished.RESTORE: self._settle_restore,
            unfinished.UPGRADE: self._settle_upgrade,
            unfinished.RENAME: self._finish_rename,
        }
        if change.name not in known:
            return  # a newer version's
        outcome = known[change.name](change)
        unfinished.clear(self.folder, change.name)
        word = _WORDS.get(change.name, change.name)
        self.reporter.warn(f'The last {word} of "{self.machine.name}" was interrupted: {outcome}.')

    def _undo_create(self, change: Change) -> str:  # noqa: ARG002
        self.driver.remove()
        self.store.delete(self.machine.name)
        return "what it had made is removed"

    def _release(self, change: Change) -> str:  # noqa: ARG002
        if isinstance(self.driver, Recoverable):
            self.driver.recover()
        return "the machine goes on"

    def _settle_boot(self, change: Change) -> str:  # noqa: ARG002
        if self.driver.state() is State.STOPPED:
            return "the machine is stopped"
        if self.answers():
            if isinstance(self.driver, Recoverable):
                self.driver.recover()
            return "the machine is up"
        self.driver.kill()
        self.store.save(self.machine)
        return "the machine is switched off"

    def _settle_restore(self, change: Change) -> str:
        if not isinstance(self.driver, RestoreDriver):
            return "the machine is as its hypervisor has it"
        return self._settle_replacement(change, self.driver.settle_restore)

    def _settle_upgrade(self, change: Change) -> str:
        if not isinstance(self.driver, Upgradable):
            return "there is nothing to undo"
        if not change.facts.get("Done") and self.driver.state() is not State.STOPPED:
            self.driver.kill()
        return self._settle_replacement(change, self.driver.settle_image)

    def _settle_replacement(self, change: Change, settle: Settle) -> str:
        if change.facts.get("Done"):
            settle(keep=True)
            self.store.save(self.machine)
            return "it is finished now"
        config = change.facts.get("Config")
        revert(self.store, self.machine, self.driver, settle, config if isinstance(config, dict) else None)
        return "the machine is as it was before"

    def _finish_rename(self, change: Change) -> str:
        before = change.facts.get("Before")
        if isinstance(before, str) and before != self.machine.name:
            follow_name(self.store, self.machine, self.driver, before)
            return "it is finished now"
        return "the machine has its old name"


def revert(store: Store, machine: Machine, driver: Driver, settle: Settle, config: Config | None) -> None:
    """Bring back what was set aside for a replacement, with the configuration that goes with it.

    Raises `RecordError`, before anything is done, for a configuration that the driver cannot have.
    """
    checked = None if config is None else fields.check(type(driver), config, name=machine.name)
    settle(keep=False)
    if checked is not None:
        machine.driver.clear()
        machine.driver.update(checked)
    store.save(machine)


def follow_name(store: Store, machine: Machine, driver: Driver, before: str) -> None:
    """Change everything in the folder that was moved, and at the driver, that has the machine's name in it."""
    from pymachine import identity  # noqa: PLC0415 (cryptography)

    folder = store.machine_dir(machine.name)
    machine.driver["MachineName"] = machine.name
    if isinstance(driver, Renamable):
        driver.renamed(replace(driver.machine, name=before, directory=store.machine_dir(before)))
    if (folder / paths.KNOWN_HOSTS).exists():
        identity.make_keys(folder, name=machine.name)
    # The name is in it; the next start makes one for the new name.
    (folder / paths.SERVER_CERT).unlink(missing_ok=True)
    store.save(machine)


def can_be_booted(driver: Driver) -> bool:
    """Whether a boot that was interrupted may be undone by switching off: not that of a host that exists."""
    return Capability.IDENTITY in driver.info.capabilities
