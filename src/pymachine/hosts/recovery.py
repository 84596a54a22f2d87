"""Finish or undo the changes of a machine whose command was killed; see `pymachine.driver.kit.transactions`.

Each function may itself be killed: called again, it goes on from where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pymachine.driver import fields
from pymachine.driver.abilities import Recoverable, Renamable, Restorable, Upgradable
from pymachine.driver.contract import Capability, Config, Driver, State
from pymachine.driver.kit import transactions
from pymachine.driver.kit.transactions import Change
from pymachine.store import paths
from pymachine.store.record import Machine
from pymachine.store.store import Store
from pymachine.system.progress import Reporter

Settle = Callable[..., None]
"""Drops what was set aside (``keep=True``), or brings it back."""
# A boot with an older note may be of a machine that has been used since.
YOUNG_SECONDS = 600.0
STOP_SECONDS = 60.0
# What the user did, where the name of a change says something else.
_WORDS = {transactions.BOOT: "start", transactions.HOLD: "snapshot or clone"}


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """One machine that has unfinished changes, and what is needed to settle them. Hold the machine's lock."""

    store: Store
    machine: Machine
    driver: Driver
    reporter: Reporter
    answers: Callable[[], bool]
    """Whether the engine answers with the machine's certificate; waits for a moment."""
    finish_boot: Callable[[], bool]
    """Finishes the boot of the machine, and returns whether its engine answers; False if the command cannot wait."""
    drop_context: Callable[[], None]
    """Removes the machine's docker context."""
    rename_context: Callable[[str], None]
    """Has the machine's docker context follow its name, given the name of before."""

    @property
    def folder(self) -> Path:
        """The machine's folder."""
        return self.store.machine_dir(self.machine.name)

    def settle(self, change: Change) -> None:
        """Finish or undo `change`, and remove its note. Raises `PymachineError` or OSError; the note stays then."""
        known: dict[str, Callable[[Change], str]] = {
            transactions.CREATE: self._undo_create,
            transactions.HOLD: self._release,
            transactions.BOOT: self._settle_boot,
            transactions.RESTORE: self._settle_restore,
            transactions.UPGRADE: self._settle_upgrade,
            transactions.RENAME: self._finish_rename,
        }
        if change.name not in known:
            return  # a newer version's
        outcome = known[change.name](change)
        transactions.clear(self.folder, change.name)
        word = _WORDS.get(change.name, change.name)
        self.reporter.warn(f'The last {word} of "{self.machine.name}" was interrupted: {outcome}.')

    def _undo_create(self, change: Change) -> str:
        if self._is_up():
            return "the machine is complete, and stays"
        if not change.is_of_this_boot:  # after a power cut the note of a good machine may be back
            return "the machine may lack parts: remove it if it does not start"
        self.driver.remove()
        self.drop_context()
        self.store.delete(self.machine.name)
        return "what it had made is removed"

    def _release(self, change: Change) -> str:  # noqa: ARG002
        self._recover_driver()
        return "the machine goes on"

    def _settle_boot(self, change: Change) -> str:
        state = self.driver.state()
        if state in (State.STOPPED, State.PAUSED, State.SAVED):
            return f"the machine is {state.word.lower()}"
        if self._is_up() or (state is State.RUNNING and self._finish_boot()):
            return "the machine is up"
        if state is State.STARTING or (state is State.RUNNING and change.age < YOUNG_SECONDS):
            self.driver.kill()
        else:  # it may have been in use since
            self.driver.stop(STOP_SECONDS)
        self.store.save(self.machine)
        return "the machine is switched off"

    def _recover_driver(self) -> None:
        """Let a paused guest go on, and start the port forwarder if it is missing."""
        if isinstance(self.driver, Recoverable):
            self.driver.recover()

    def _finish_boot(self) -> bool:
        """Finish the boot of a running machine, and return whether the machine is up then.

        Docker 26.1 does not restart a container with a published port if the power went away while it started it:
        "port is already allocated". So a boot is finished instead of ended, if the command has time for that.
        """
        if not self.finish_boot():
            return False
        self._recover_driver()
        return True

    def _is_up(self) -> bool:
        """Whether the machine runs and its engine answers. Then its port forwarder runs, too."""
        if self.driver.state() is not State.RUNNING or not self.answers():
            return False
        self._recover_driver()
        return True

    def _settle_restore(self, change: Change) -> str:
        if not isinstance(self.driver, Restorable):
            return "the machine is as its hypervisor has it"
        return self._settle_replacement(change, settle_restore(self.driver))

    def _settle_upgrade(self, change: Change) -> str:
        if not isinstance(self.driver, Upgradable):
            return "there is nothing to undo"
        return self._settle_replacement(change, settle_upgrade(self.driver))

    def _settle_replacement(self, change: Change, settle: Settle) -> str:
        """Finish the replacement if the machine is up with it, since it may have been used; undo it otherwise."""
        if change.facts.get("Done") or self._is_up():
            settle(keep=True)
            self.store.save(self.machine)
            return "it is finished now"
        config = change.facts.get("Config")
        before = config if isinstance(config, dict) else None
        revert(self.store, self.machine, self.driver, settle, before)
        return "the machine is as it was before"

    def _finish_rename(self, change: Change) -> str:
        before = change.facts.get("Before")
        if isinstance(before, str) and before != self.machine.name:
            follow_name(self.store, self.machine, self.driver, before)
            self.rename_context(before)
            return "it is finished now"
        return "the machine has its old name"


def settle_upgrade(driver: Driver) -> Settle:
    """Return what settles an upgrade; a machine that gets its old image back is switched off for that."""

    def settle(*, keep: bool) -> None:
        assert isinstance(driver, Upgradable)  # noqa: S101 (callers have looked)
        if keep:
            driver.commit_image()
            return
        if driver.state() is not State.STOPPED:
            driver.kill()
        driver.rollback_image()

    return settle


def settle_restore(driver: Restorable) -> Settle:
    """Return what settles a restore."""

    def settle(*, keep: bool) -> None:
        if keep:
            driver.commit_restore()
        else:
            driver.rollback_restore()

    return settle


def revert(store: Store, machine: Machine, driver: Driver, settle: Settle, config: Config | None) -> None:
    """Bring back what was set aside for a replacement, and the configuration of that time.

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
    from pymachine.hosts import identity  # noqa: PLC0415 (cryptography)

    folder = store.machine_dir(machine.name)
    machine.driver["MachineName"] = machine.name
    if isinstance(driver, Renamable):
        driver.renamed(replace(driver.machine, name=before, directory=store.machine_dir(before)))
    if (folder / paths.KNOWN_HOSTS).exists():
        identity.make_keys(folder, name=machine.name)
    # The name is in it; the next start makes one for the new name.
    (folder / paths.SERVER_CERT).unlink(missing_ok=True)
    store.save(machine)


def may_switch_off(driver: Driver) -> bool:
    """Whether an interrupted boot may be undone by switching the machine off: not that of an existing host."""
    return Capability.IDENTITY in driver.info.capabilities
