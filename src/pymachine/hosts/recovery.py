"""Finish or undo the changes of a machine whose command was killed; see `pymachine.driver.kit.transactions`.

Each function may itself be killed. Called again, it continues from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pymachine.driver import fields
from pymachine.driver.abilities import IdentityUpdatable, Recoverable, Renamable, Restorable, Upgradable
from pymachine.driver.contract import Config, Driver, State, Trait
from pymachine.driver.kit import transactions
from pymachine.driver.kit.transactions import Change
from pymachine.errors import PymachineError, StoreError
from pymachine.hosts import client_settings
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.timeouts import ANSWER_SECONDS, STOP_SECONDS, boot_timeout
from pymachine.store import paths
from pymachine.system import os_errors

Finish = Callable[..., None]
"""Drops what was set aside (``keep=True``), or brings it back."""
# A boot with an older note may be of a machine that has been used since.
YOUNG_SECONDS = 600.0
# The user's word for a change, where it differs from the name of the change.
_WORDS = {transactions.BOOT: "start", transactions.HOLD: "snapshot or clone"}


def recover(hosts: Hosts, name: str, *, only: str = "", finish_boot: bool = False) -> list[str]:
    """Finish or undo the interrupted changes of machine `name`, and return their names. Hold the machine's lock.

    `only` limits this to changes of that name, and to machines without a record. With `finish_boot` an interrupted
    boot is finished, which may take minutes, instead of ended.
    """
    folder = hosts.store.machine_dir(name)
    if not transactions.has_leftovers(folder):
        return []
    changes = transactions.changes(folder)
    if not (folder / paths.CONFIG).exists() and any(change.name == transactions.CREATE for change in changes):
        hosts.store.delete(name)  # an import that was interrupted before it had a record
        return [transactions.CREATE]
    changes = [change for change in changes if only in ("", change.name)]
    if only and not changes:
        return []
    host = hosts.open(name)
    recovery = Recovery(host, waits=finish_boot)
    transactions.sweep_files(folder)
    for change in changes:
        _end(recovery, change)
        if not hosts.store.exists(name):
            break
    return [change.name for change in changes if not (folder / (transactions.PREFIX + change.name)).exists()]


def _end(recovery: Recovery, change: Change) -> None:
    """Finish or undo one change. The error says how to leave it unfinished."""
    host = recovery.host
    try:
        recovery.end(change)
    except OSError as error:
        brief = f'cannot finish or undo the interrupted {change.name} of "{host.name}"'
        raise os_errors.wrapped(StoreError, brief, error) from error
    except PymachineError as error:
        note = host.directory / (transactions.PREFIX + change.name)
        error.hint = f"{error.hint}\nA {change.name} of the machine was interrupted. To leave the machine as it is "
        error.hint += f"now, remove the note: {note}"
        raise


class Recovery:
    """Finish or undo the interrupted changes of one machine. Hold the machine's lock."""

    def __init__(self, host: Host, *, waits: bool) -> None:
        """With `waits` the command has the time to finish an interrupted boot."""
        self.host = host
        self.driver = host.driver
        self.waits = waits

    def end(self, change: Change) -> None:
        """Finish or undo `change`, and remove its note. Raises `PymachineError` or OSError; then the note stays."""
        known: dict[str, Callable[[Change], str]] = {
            transactions.CREATE: self._undo_create,
            transactions.HOLD: self._release,
            transactions.BOOT: self._end_boot,
            transactions.RESTORE: self._end_restore,
            transactions.UPGRADE: self._end_upgrade,
            transactions.RENAME: self._finish_rename,
        }
        if change.name not in known:
            return  # a newer version wrote it
        outcome = known[change.name](change)
        transactions.clear(self.host.directory, change.name)
        word = _WORDS.get(change.name, change.name)
        self.host.reporter.warn(f'The last {word} of "{self.host.name}" was interrupted: {outcome}.')

    def _undo_create(self, change: Change) -> str:
        if self._is_up():
            return "the machine is complete, and stays"
        if not change.is_of_this_boot:  # a power cut can bring back the note of a machine that is complete
            return "the machine may lack parts: remove it if it does not start"
        self.driver.remove()
        client_settings.drop(self.host)
        self.host.store.delete(self.host.name)
        return "what it had made is removed"

    def _release(self, change: Change) -> str:  # noqa: ARG002
        self._recover_driver()
        return "the machine goes on"

    def _end_boot(self, change: Change) -> str:
        state = self.driver.state()
        if state in (State.STOPPED, State.PAUSED, State.SAVED):
            return f"the machine is {state.word.lower()}"
        if self._is_up() or (state is State.RUNNING and self._finish_boot()):
            return "the machine is up"
        if state is State.STARTING or (state is State.RUNNING and change.age < YOUNG_SECONDS):
            self.driver.kill()
        else:  # it may have been in use since
            self.driver.stop(STOP_SECONDS)
        self.host.save()
        return "the machine is switched off"

    def _recover_driver(self) -> None:
        """Let a paused guest continue, and start the port forwarder if it is missing."""
        if isinstance(self.driver, Recoverable):
            self.driver.recover()

    def _finish_boot(self) -> bool:
        """Finish the boot of a running machine, and return whether the machine is up then.

        Docker 26.1 does not restart a container with a published port if the power went away while it started it:
        "port is already allocated". So a boot is finished instead of ended, if the command has time for that.
        """
        if not self.waits or not finish_boot(self.host):
            return False
        self._recover_driver()
        return True

    def _is_up(self) -> bool:
        """Return whether the machine runs and its engine answers. Then its port forwarder runs, too."""
        if self.driver.state() is not State.RUNNING or not engine_answers(self.host):
            return False
        self._recover_driver()
        return True

    def _end_restore(self, change: Change) -> str:
        if not isinstance(self.driver, Restorable):
            return "the machine is as its hypervisor has it"
        return self._end_replacement(change, restore_finisher(self.driver))

    def _end_upgrade(self, change: Change) -> str:
        if not isinstance(self.driver, Upgradable):
            return "there is nothing to undo"
        return self._end_replacement(change, upgrade_finisher(self.driver))

    def _end_replacement(self, change: Change, finish: Finish) -> str:
        """Finish the replacement if the machine is up with it, since it may have been used; undo it otherwise."""
        if change.facts.get("Done") or self._is_up():
            finish(keep=True)
            self.host.save()
            return "it is finished now"
        config = change.facts.get("Config")
        before = config if isinstance(config, dict) else None
        revert(self.host, finish, before)
        return "the machine is as it was before"

    def _finish_rename(self, change: Change) -> str:
        before = change.facts.get("Before")
        if isinstance(before, str) and before != self.host.name:
            follow_name(self.host, before)
            client_settings.follow_rename(self.host, before)
            return "it is finished now"
        return "the machine has its old name"


def engine_answers(host: Host) -> bool:
    """Return whether the engine answers with the machine's certificate, after at most `ANSWER_SECONDS`."""
    try:
        host.wait_for_engine(seconds=ANSWER_SECONDS)
    except PymachineError:
        return False
    return True


def finish_boot(host: Host) -> bool:
    """Send the guest its identity again, wait for its engine, and return whether the engine answers."""
    if not isinstance(host.driver, IdentityUpdatable):
        return False
    try:
        host.driver.apply_identity(host.boot_request())
        host.wait_for_engine(seconds=boot_timeout())
    except PymachineError:
        return False
    return True


def upgrade_finisher(driver: Driver) -> Finish:
    """Return the function that finishes an upgrade. It switches the machine off to bring the old image back."""

    def finish(*, keep: bool) -> None:
        assert isinstance(driver, Upgradable)  # noqa: S101 (callers have checked)
        if keep:
            driver.commit_image()
            return
        if driver.state() is not State.STOPPED:
            driver.kill()
        driver.rollback_image()

    return finish


def restore_finisher(driver: Restorable) -> Finish:
    """Return the function that finishes a restore."""

    def finish(*, keep: bool) -> None:
        if keep:
            driver.commit_restore()
        else:
            driver.rollback_restore()

    return finish


def revert(host: Host, finish: Finish, config: Config | None) -> None:
    """Bring back what was set aside for a replacement, and the configuration from before it.

    Raises `RecordError`, before anything is done, for a configuration that the driver rejects.
    """
    record = host.record
    checked = None if config is None else fields.check(type(host.driver), config, name=host.name)
    finish(keep=False)
    if checked is not None:
        record.driver.clear()
        record.driver.update(checked)
    host.save()


def follow_name(host: Host, before: str) -> None:
    """Change everything that contains the machine's name: in its folder, which was moved, and at the driver."""
    from pymachine.hosts import identity  # noqa: PLC0415 (cryptography)

    driver = host.driver
    host.record.driver["MachineName"] = host.name
    if isinstance(driver, Renamable):
        driver.renamed(replace(driver.machine, name=before, directory=host.store.machine_dir(before)))
    if (host.directory / paths.KNOWN_HOSTS).exists():
        identity.make_keys(host.directory, name=host.name)
    # The certificate contains the name. The next start makes one for the new name.
    (host.directory / paths.SERVER_CERT).unlink(missing_ok=True)
    host.save()


def may_switch_off(driver: Driver) -> bool:
    """Return whether an interrupted boot may be undone by switching the machine off. An existing host stays on."""
    return Trait.IDENTITY in driver.info.traits
