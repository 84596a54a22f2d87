"""What is done to machines after they were made: new certificates, other options, another name, a newer image.

Each step either holds in the end or leaves the machine as it was. What a driver is able to do is asked of it
(`isinstance(driver, IdentityUpdatable)`), never known by its name.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from pymachine.driver.abilities import HardwareChange, Renamable, Resizable, ResizeCheckable, Upgradable
from pymachine.driver.contract import Capability, Driver, State
from pymachine.driver.kit import transactions
from pymachine.driver.names import check_new_name
from pymachine.errors import CommandError, MachineExistsError, PymachineError, StoreError, UsageError, WrongStateError
from pymachine.hosts import recovery
from pymachine.hosts.manager import SETS_UP_ENGINE, STOP_SECONDS, Manager, boot_timeout, changes_while_running, writing
from pymachine.store import paths
from pymachine.store.record import EngineOptions, Machine
from pymachine.system import files

_NO_ENGINE = 127
_CERTIFICATES = (paths.CA_CERT, paths.CLIENT_CERT, paths.CLIENT_KEY, paths.SERVER_CERT, paths.SERVER_KEY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changes:
    """What `Upkeep.modify` is to change; what is not named stays."""

    hardware: HardwareChange = dataclasses.field(default_factory=HardwareChange)
    engine: Mapping[str, str | list[str]] = dataclasses.field(default_factory=dict)
    """By the names of `EngineOptions`; a list takes the place of the whole list of now."""
    sans: Sequence[str] | None = None

    @property
    def needs_stop(self) -> bool:
        """Whether the machine has to be stopped for it."""
        return self.hardware != HardwareChange()


class Upkeep(Manager):
    """A manager that also changes what is there."""

    # -- certificates ------------------------------------------------------------------------------------------

    def renew_authority(self) -> None:
        """A new client certificate, and a new CA unless the CA is one that the user brought."""
        from pymachine.tls import certs  # noqa: PLC0415 (cryptography)

        own = "ca_cert" not in self._authority
        if not own:
            self.reporter.warn(f"The CA {self._authority['ca_cert']} is not pymachine's: it stays as it is.")
        certs.renew_authority(self._auth_paths(), reporter=self.reporter, ca=own)

    def check_regenerable(self, name: str) -> None:
        """Raise what `regenerate_certs` would refuse machine `name` with, before anything is changed."""
        _, driver = self._loaded(name)
        self._must_set_up_engine(driver, "new certificates")
        if driver.state() is State.RUNNING and not changes_while_running(driver):
            raise driver.unsupported("new certificates while a machine runs")

    @contextmanager
    def renewed_authority(self) -> Iterator[Callable[[], object]]:
        """Renew the store's authority for the block; if it fails, the old one is back.

        The block calls what it gets once a machine has certificates of the new authority, which stays from then on.
        """
        with files.kept(dataclasses.astuple(self._auth_paths())) as restore, ExitStack() as undo:
            undo.callback(restore)
            self.renew_authority()
            yield undo.pop_all
            undo.pop_all()

    def regenerate_certs(self, name: str) -> None:
        """A new server certificate for machine `name`, in force at once; no container notices.

        A stopped machine takes it over at its next start.
        """
        with self._locked(name):
            machine, driver = self._loaded(name)
            self._must_set_up_engine(driver, "new certificates")
            running = driver.state() is State.RUNNING
            with self._or_as_before(machine, driver, running=running):
                if running:
                    self._apply(machine, driver, renew=True)
                elif Capability.FIXED_ADDRESS in driver.info.capabilities:
                    self._ensure_certificates(machine, driver.endpoint().address, renew=True)
                else:  # for which address is known when it starts
                    (self.store.machine_dir(name) / paths.SERVER_CERT).unlink(missing_ok=True)
                self.store.save(machine)
            if running:
                self._await_engine(machine, driver, seconds=boot_timeout())
            self._refresh_context(machine, driver)

    # -- hardware and engine -----------------------------------------------------------------------------------

    def modify(self, name: str, changes: Changes, *, restart: bool = False, timeout: float = STOP_SECONDS) -> None:
        """Change machine `name`. With `restart` a running one is restarted for what cannot change while it runs.

        Raises `WrongStateError` without, and `UsageError` for values that cannot be; then nothing has changed.
        """
        with self._locked(name):
            machine, driver = self._loaded(name)
            self._check(machine, driver, changes)
            running = driver.state() is State.RUNNING
            stop = running and (changes.needs_stop or not changes_while_running(driver))
            if stop and not restart:
                raise WrongStateError(
                    f'Machine "{name}" is running, and what is to be changed can only change while it is stopped',
                    hint="Stop it first, or let it be restarted: --restart.",
                )
            if running and changes.engine:
                self._validate(machine, driver, _changed(machine.engine, changes))
            if stop:
                self._stop(machine, driver, timeout)
            live = running and not stop
            with self._running_again(machine, driver, stopped=stop), self._or_as_before(machine, driver, running=live):
                if changes.needs_stop and isinstance(driver, Resizable):
                    driver.resize(changes.hardware)
                machine.engine = _changed(machine.engine, changes)
                if changes.sans is not None:
                    machine.auth.server_cert_sans = list(changes.sans)
                if live:
                    self._apply(machine, driver)
                    self._await_engine(machine, driver, seconds=boot_timeout())
                self.store.save(machine)
                if stop:
                    self._start(machine, driver)
            if live:
                self._refresh_context(machine, driver)

    def _check(self, machine: Machine, driver: Driver, changes: Changes) -> None:
        """Refuse what the driver or the engine could not do, before anything is touched."""
        from pymachine.docker import daemon_json  # noqa: PLC0415 (ssl)

        if changes.needs_stop:
            if not isinstance(driver, Resizable):
                raise driver.unsupported("other hardware for a machine that exists")
            if isinstance(driver, ResizeCheckable):
                driver.check_resize(changes.hardware)
        if changes.engine or changes.sans is not None:
            self._must_set_up_engine(driver, "other engine options")
            daemon_json.files(_changed(machine.engine, changes), driver_name=machine.driver_name)

    def _validate(self, machine: Machine, driver: Driver, options: EngineOptions) -> None:
        """Have the machine's own engine look at the options: with ones that it refuses it would not start again."""
        from pymachine.docker import daemon_json  # noqa: PLC0415 (ssl)
        from pymachine.ssh.client import Client  # noqa: PLC0415
        from pymachine.ssh.target import SshError  # noqa: PLC0415

        if Capability.NO_SSH in driver.info.capabilities:
            return
        files = daemon_json.files(options, driver_name=machine.driver_name)
        try:
            target = self.ssh_target(machine.name)
            result = Client(target).run(_dry_run(files.flags.splitlines()), stdin=files.daemon_json, timeout=120.0)
        except (SshError, CommandError):  # it is the engine that is asked, and only as far as it can be
            return
        if result.returncode not in (0, _NO_ENGINE):
            raise UsageError(
                f'the engine of machine "{machine.name}" refuses these options',
                details=(result.stderr or result.stdout).strip(),
                hint="Nothing was changed.",
            )

    # -- name --------------------------------------------------------------------------------------------------

    def rename(self, name: str, new: str) -> None:
        """Call the stopped machine `name` `new` from now on: its folder, its host name, its certificate."""
        check_new_name(new)
        if name == new:
            raise MachineExistsError(new)
        first, second = sorted((name, new))
        with self._locked(first), self._locked(second):
            machine, driver = self._loaded(name)
            if not isinstance(driver, Renamable):
                raise driver.unsupported("another name for a machine that exists")
            if self.store.exists(new):
                raise MachineExistsError(new)
            if Capability.IDENTITY in driver.info.capabilities:
                _refuse_running(name, driver)
            self._begin_rename(machine)
            self.store.rename(name, new)
            try:
                renamed = self.store.load(new)
                recovery.follow_name(self.store, renamed, self.driver(renamed), name)
            except BaseException:
                self.store.rename(new, name)
                self._take_back_name(driver, new)
                self.store.save(machine)
                self._end_rename(machine)
                raise
            self._rename_context(renamed, name)
            self._end_rename(renamed)

    def _take_back_name(self, driver: Driver, new: str) -> None:
        """Have a driver call a machine as before, if it has come so far as to call it `new`."""
        assert isinstance(driver, Renamable)  # noqa: S101 (the caller has looked)
        failed = dataclasses.replace(driver.machine, name=new, directory=self.store.machine_dir(new))
        try:
            driver.renamed(failed)
        except PymachineError as error:
            self.reporter.warn(f'"{driver.machine.name}" may be called "{new}" by its hypervisor: {error.brief}')

    def _begin_rename(self, machine: Machine) -> None:
        """Note the rename in the folder, with which the note moves."""
        folder = self.store.machine_dir(machine.name)
        with writing(folder):
            transactions.note(folder, transactions.RENAME, {"Before": machine.name}, durable=True)

    def _end_rename(self, machine: Machine) -> None:
        folder = self.store.machine_dir(machine.name)
        with writing(folder):
            transactions.clear(folder, transactions.RENAME)

    # -- image -------------------------------------------------------------------------------------------------

    def upgrade(self, name: str, *, timeout: float = STOP_SECONDS) -> None:
        """Give machine `name` the newest image, data kept. If that does not answer, the old one is back.

        A machine that was stopped runs afterwards, as docker-machine has it: the new image has to prove itself.
        """
        with self._locked(name):
            machine, driver = self._loaded(name)
            if Capability.PROVISION in driver.info.capabilities:
                if driver.state() is not State.RUNNING:
                    self._start_to_upgrade(machine, driver)
                self._upgrade_host(machine, driver)
                return
            if not isinstance(driver, Upgradable):
                raise driver.unsupported("upgrade")
            from pymachine.image import provide  # noqa: PLC0415 (only this needs the builder)

            image = provide.refresh(driver.image_request(), store=self.store.root, reporter=driver.reporter)
            newest = image.digest == driver.image_digest()
            # A stopped machine starts with its new image. One that is saved or paused cannot change it.
            if driver.state() not in ((State.RUNNING,) if newest else (State.RUNNING, State.STOPPED)):
                self._start_to_upgrade(machine, driver)
            if newest:
                self.reporter.info(f'Machine "{name}" has the newest image already.')
                return
            self.reporter.info("Upgrading docker...")
            running = driver.state() is State.RUNNING
            if running:
                self.reporter.info("Stopping machine to do the upgrade...")
                driver.stop(timeout)
            self.reporter.info(f'Upgrading machine "{name}"...')
            try:
                with self._replacing(machine, driver, transactions.UPGRADE, recovery.settle_upgrade(driver)):
                    driver.swap_image(image)
                    self.store.save(machine)
                    self.reporter.info("Starting machine back up...")
                    self._boot(machine, driver, driver.start, self._request(machine))
            except PymachineError as error:
                self._go_back(machine, driver, error, running=running)
                raise error.prefixed(f'Machine "{name}" has its old image again: ') from error

    def _start_to_upgrade(self, machine: Machine, driver: Driver) -> None:
        self.reporter.info("Starting machine so machine can be upgraded...")
        self._start(machine, driver)

    def _upgrade_host(self, machine: Machine, driver: Driver) -> None:
        """Bring the engine of a host that exists to its newest version; the rest of the host is its owner's."""
        from pymachine.provision import session  # noqa: PLC0415 (only hosts that exist need it)

        target = self._target(machine, driver.endpoint(), learn=True)
        with session.opened(target, reporter=self.reporter, timeout=boot_timeout(), native=self._native_ssh) as opened:
            opened.upgrade()
        self._await_engine(machine, driver, seconds=boot_timeout())

    def _go_back(self, machine: Machine, driver: Driver, error: PymachineError, *, running: bool) -> None:
        """What was running before an upgrade that failed runs again, as it was."""
        self.reporter.warn(f"The new image did not come up ({error.brief}): going back to the old one.")
        if running:
            self._boot(machine, driver, driver.start, self._request(machine))

    # -- docker contexts ---------------------------------------------------------------------------------------

    def make_context(self, name: str, context: str) -> str:
        """Make the docker context `context` for the running machine `name`, in place of one that it had."""
        from pymachine.docker import contexts  # noqa: PLC0415

        with self._locked(name):
            machine, endpoint = self.store.load(name), self.endpoint(name)
            if machine.context == context:
                self._put_context(context, machine, endpoint)
                return context
            instead = f"Choose another name: pymachine context create --name OTHER {name}"
            contexts.refuse_taken(context, instead=instead)
            self._drop_context(machine)
            # The record names it before it is there: `rm` removes it even if this is killed.
            machine.context = context
            self.store.save(machine)
            try:
                self._put_context(context, machine, endpoint)
            except BaseException:
                machine.context = ""
                self.store.save(machine)
                raise
        return context

    def remove_context(self, name: str) -> str:
        """Remove the docker context of machine `name`, and return what it was called."""
        from pymachine.docker import contexts  # noqa: PLC0415

        with self._locked(name):
            machine = self.store.load(name)
            if not machine.context:
                raise UsageError(f'machine "{name}" has no docker context')
            context, machine.context = machine.context, ""
            contexts.remove(context, machine=name)
            self.store.save(machine)
        return context

    # -- parts -------------------------------------------------------------------------------------------------

    def _must_set_up_engine(self, driver: Driver, what: str) -> None:
        if not driver.info.capabilities & SETS_UP_ENGINE:
            raise driver.unsupported(what)

    @contextmanager
    def _running_again(self, machine: Machine, driver: Driver, *, stopped: bool) -> Iterator[None]:
        """If the block fails, a machine that was stopped for it runs again, as it is by then."""
        try:
            yield
        except PymachineError as error:
            if stopped:
                self.reporter.warn(f"The change did not work ({error.brief}): starting the machine as it was.")
                if driver.state() is not State.STOPPED:
                    driver.kill()
                self._start(machine, driver)
            raise

    @contextmanager
    def _or_as_before(self, machine: Machine, driver: Driver, *, running: bool) -> Iterator[None]:
        """If the block fails, certificates and options are as they were, in the guest too if it is `running`."""
        folder = self.store.machine_dir(machine.name)
        before = dataclasses.replace(machine, driver=dict(machine.driver))
        auth = dataclasses.replace(machine.auth)
        with files.kept([folder / name for name in _CERTIFICATES]) as restore:
            try:
                yield
            except BaseException:
                restore()
                machine.engine, machine.certificates_expire = before.engine, before.certificates_expire
                machine.auth.server_cert_sans = auth.server_cert_sans
                machine.driver.clear()
                machine.driver.update(before.driver)
                if running and not self._reapply(machine, driver):
                    restore()  # the attempt may have made certificates that the guest does not have
                self._save_again(machine)
                raise

    def _save_again(self, machine: Machine) -> None:
        """Save the record as it was. On a disk that is full it may be so already; the first error is told then."""
        try:
            self.store.save(machine)
        except StoreError as error:
            self.reporter.warn(error.brief)

    def _reapply(self, machine: Machine, driver: Driver) -> bool:
        """Give the guest what it had, and return whether it took it; if not, that is only a warning."""
        self.reporter.warn(f'Giving machine "{machine.name}" its old identity again...')
        try:
            self._apply(machine, driver)
        except PymachineError as error:
            self.reporter.warn(f"It did not take it ({error.brief}): restart it: pymachine restart {machine.name}")
            return False
        return True


def _dry_run(flags: Sequence[str]) -> str:
    """The command that has an engine check a daemon.json on stdin, and `flags`, without starting."""
    words = " ".join(shlex.quote(flag) for flag in flags)
    script = (
        f"PATH=$PATH:/usr/local/sbin:/usr/sbin; command -v dockerd > /dev/null || exit {_NO_ENGINE}; "
        'file=$(mktemp) && trap \'rm -f "$file"\' EXIT && cat > "$file" && '
        f'dockerd --validate --config-file="$file" {words}'
    )
    return f"sudo sh -c {shlex.quote(script)}"


def _changed(engine: EngineOptions, changes: Changes) -> EngineOptions:
    values: dict[str, object] = dict(changes.engine)
    return dataclasses.replace(engine, **values)  # type: ignore[arg-type]


def _refuse_running(name: str, driver: Driver) -> None:
    if driver.state() is not State.STOPPED:
        raise WrongStateError(
            f'Machine "{name}" is {driver.state().word.lower()}; it must be stopped', hint="Stop it first."
        )
