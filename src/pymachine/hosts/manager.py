"""The order of the steps, for every driver alike.

Each public method takes a machine's name, holds its lock while it changes something, and saves the record whenever
the driver may have changed it. News are docker-machine's own lines.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from pymachine.driver import fields, registry
from pymachine.driver.abilities import IdentityUpdatable, Recoverable, Templatable
from pymachine.driver.base_config import BaseConfig
from pymachine.driver.contract import (
    BootRequest,
    Capability,
    Config,
    Driver,
    Endpoint,
    ImageFiles,
    Json,
    MachineRef,
    State,
)
from pymachine.driver.kit import transactions
from pymachine.driver.names import check_new_name, host_name
from pymachine.errors import (
    CommandError,
    DriverError,
    HostNotRunningError,
    LockedError,
    MachineExistsError,
    PrecreateError,
    PymachineError,
    StoreError,
    TemplateError,
    UsageError,
    WrongStateError,
)
from pymachine.hosts import recovery
from pymachine.store import paths
from pymachine.store.record import AuthOptions, EngineOptions, Machine, SwarmOptions
from pymachine.store.store import Store
from pymachine.system import files, os_errors
from pymachine.system.progress import Reporter, Silent

if TYPE_CHECKING:
    import datetime as dt

    from pymachine.hosts import templates
    from pymachine.ssh.target import Target
    from pymachine.store.client_files import ClientFiles
    from pymachine.tls.certs import AuthPaths

ENV_BOOT_TIMEOUT = "PYMACHINE_BOOT_TIMEOUT"
BOOT_SECONDS = 300.0
STOP_SECONDS = 60.0
# A machine that is resumed is there in a second, or there is something wrong with its template.
RESUME_SECONDS = 60.0
PROVISIONED_SECONDS = 60.0
# While the engine is waited for, a driver's state is asked for at most this often: asking starts a program or opens a
# connection.
STATE_SECONDS = 2.0
# How long an engine has to answer when it is not known whether the machine's interrupted boot came to its end.
ANSWER_SECONDS = 10.0
# An engine that pymachine did not set up is not asked for: it may be switched on another day.
SETS_UP_ENGINE = Capability.IDENTITY | Capability.PROVISION


@dataclass(frozen=True, kw_only=True)
class CreateRequest:
    """What `create` was asked for; `options` are the driver's, by name."""

    name: str
    driver_name: str
    options: Mapping[str, Json]
    engine: EngineOptions = field(default_factory=EngineOptions)
    swarm: SwarmOptions = field(default_factory=SwarmOptions)
    sans: tuple[str, ...] = ()
    """Further names and addresses for the server certificate (``--tls-san``)."""
    template: bool = True
    """Whether it may be resumed from a template, where its driver is able to."""
    context: str = ""
    """The docker context to make with the machine."""
    expires: int | None = None
    """When its time to live ends, in seconds since 1970."""
    owner: str = ""
    """What it is made for and goes with: see `pymachine.hosts.prune`."""
    install_script: str = ""
    """The URL of a script that is to install the engine on a host that exists, and not the distribution's packages."""


class Manager:
    """Acts on the machines of one store."""

    def __init__(
        self,
        store: Store,
        *,
        reporter: Reporter | None = None,
        authority: Mapping[str, Path] | None = None,
        labelled: bool = False,
        native_ssh: bool = False,
    ) -> None:
        """`authority` overrides where the CA and client certificate are: see `pymachine.tls.certs.AuthPaths`.

        `labelled`: the reporter's lines say which machine they are about, so that drivers need not. `native_ssh` asks
        for the SSH in Python even where OpenSSH is installed.
        """
        self.store = store
        self.reporter: Reporter = reporter or Silent()
        self._authority = dict(authority or {})
        self._labelled = labelled
        self._native_ssh = native_ssh
        self.timings: dict[str, float] = {}

    # -- reading -----------------------------------------------------------------------------------------------

    def driver(self, machine: Machine) -> Driver:
        """The driver of a loaded machine.

        Raises `DriverNotFoundError`, and `RecordError` for a value in its configuration that the driver cannot have.
        """
        kind = registry.load_for_machine(machine.driver_name)
        checked = fields.check(kind, machine.driver, name=machine.name)
        for key in machine.driver.keys() - checked.keys():
            del machine.driver[key]
        reporter = self.reporter if self._labelled else self.reporter.prefixed(f"({machine.name}) ")
        driver = kind(self._ref(machine), machine.driver, reporter=reporter)
        driver.run_in_guest = partial(self._remote, machine)
        return driver

    def state(self, name: str) -> State:
        """The state of machine `name` now."""
        return self.driver(self.store.load(name)).state()

    def endpoint(self, name: str) -> Endpoint:
        """Where machine `name` is reached. Raises `HostNotRunningError` unless it is running."""
        driver = self.driver(self.store.load(name))
        if driver.state() is not State.RUNNING:
            raise HostNotRunningError(name=name)
        return driver.endpoint()

    def ip(self, name: str) -> str:
        """What `ip` prints of machine `name`. Raises `HostNotRunningError` unless it is running.

        A host that existed before keeps its address while it is off.
        """
        machine, driver = self._loaded(name)
        if driver.info.capabilities & SETS_UP_ENGINE == Capability.PROVISION:
            return driver.endpoint().ip
        return self.endpoint(machine.name).ip

    def ssh_target(self, name: str, *, user: str | None = None) -> Target:
        """Where to log in to machine `name`.

        Raises `HostNotRunningError` unless it is running, and `UnsupportedError` where there is no SSH.
        """
        machine, driver = self._loaded(name)
        if Capability.NO_SSH in driver.info.capabilities:
            raise driver.unsupported("SSH")
        return self._target(machine, self.endpoint(name), user=user)

    def check(self, name: str, *, timeout: float = 20.0, swarm: bool = False) -> Endpoint:
        """Shake hands with the machine's engine as a client would, and return where it is.

        With `swarm` it is the master of a Swarm standalone, as docker-machine made them, that is meant.
        """
        from pymachine.tls import handshake  # noqa: PLC0415 (ssl costs 20 ms)

        endpoint = self.endpoint(name)
        if swarm:
            endpoint = _swarm_endpoint(self.store.load(name), endpoint)
        ca, cert, key = self.client_files(name)
        handshake.check_address(endpoint.address, endpoint.docker_port, endpoint.url)
        handshake.check(endpoint.address, endpoint.docker_port, ca=ca, cert=cert, key=key, timeout=timeout)
        return endpoint

    def client_files(self, name: str) -> ClientFiles:
        """The certificates that a client of machine `name` uses."""
        return self.store.load(name).client_files(self.store.machine_dir(name))

    # -- making and removing -----------------------------------------------------------------------------------

    def create(self, request: CreateRequest) -> Machine:
        """Make a machine and bring it up. What was made is undone if any step fails, or is interrupted.

        The record is saved before anything exists outside the store, so that `remove` can clean up after a crash.
        """
        from pymachine.docker import daemon_json  # noqa: PLC0415 (cryptography; see design.md on start-up)
        from pymachine.tls import certs  # noqa: PLC0415 (cryptography; see design.md on start-up)

        check_new_name(request.name)
        kind = registry.load(request.driver_name)
        if kind.info.capabilities & SETS_UP_ENGINE:
            daemon_json.files(request.engine, driver_name=request.driver_name)
            certs.check_names(request.sans)
        with self._locked(request.name), ExitStack() as undo:
            if self.store.exists(request.name):
                raise MachineExistsError(request.name)
            certs.ensure_authority(self._auth_paths(), reporter=self.reporter, margin=self._margin())
            machine = self._reserve(request, lambda ref, siblings: kind.configure(ref, request.options, siblings))
            driver = self.driver(machine)
            undo.callback(self._undo_create, machine, driver)

            def keep() -> None:
                """From here on it is a machine, and no longer a create that is undone."""
                undo.pop_all()
                self._is_made(machine)

            self.reporter.info("Running pre-create checks...")
            _precreate(driver)
            image = self._image(driver)
            self.reporter.info("Creating machine...")
            self._make_keys(machine, driver)
            with _prefixing("Error creating machine: "):
                # What was done to a host that existed before is not undone: `provision` finishes the job.
                self._bring_up(machine, driver, self._request(machine, image=image), request, keep)
            keep()
        return machine

    def provision(self, name: str) -> None:
        """Set up the engine of machine `name` once more; what is right already is left alone.

        Raises `HostNotRunningError` unless it is running, and `UnsupportedError` where there is nothing to set up.
        """
        with self._locked(name):
            machine, driver = self._loaded(name)
            if not changes_while_running(driver):
                raise driver.unsupported("provision")
            if driver.state() is not State.RUNNING:
                raise HostNotRunningError(name=name)
            self._apply(machine, driver)
            self.store.save(machine)
            self.reporter.info("Checking connection to Docker...")
            self._await_engine(machine, driver, seconds=PROVISIONED_SECONDS)
            self.reporter.info("Docker is up and running!")
            self._refresh_context(machine, driver)

    def remove(self, name: str, *, restore: bool = False) -> None:
        """Remove machine `name` with all that its driver made; the record goes last.

        A host that existed before is not touched, unless `restore` asks for it to be given back as it was found.
        """
        with self.store.lock(name):
            if self._settled_before_removal(name) == [transactions.CREATE]:
                return
            machine = self.store.load(name)
            driver = self.driver(machine)
            if restore:
                self._restore(machine, driver)
            driver.remove()
            self._drop_context(machine)  # while there is a record of it: this may be killed
            self._delete(name)

    def forget(self, name: str) -> None:
        """Remove what the store has of machine `name`, whatever becomes of the rest (``rm -f``)."""
        with self.store.lock(name):
            with suppress(PymachineError):  # a record that cannot be read names no context
                self._drop_context(self.store.load(name))
            self._delete(name)

    # -- running -----------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Bring a stopped machine up again. Raises `WrongStateError` if it was running before this was asked for."""
        with self._locked(name) as settled:
            machine, driver = self._announced(name, "Starting")
            state = driver.state()
            if state is not State.RUNNING:
                self._boot_again(machine, driver, goes_on=state in (State.PAUSED, State.SAVED))
                return
            if isinstance(driver, Recoverable):
                driver.recover()
            if not settled:
                raise WrongStateError(f'Machine "{name}" is already running.')
            # To settle an interrupted change has brought it up, or has let it go on.
            self._refresh_context(machine, driver)
            self.reporter.info(f'Machine "{name}" was started.')

    def stop(self, name: str, *, timeout: float = STOP_SECONDS) -> None:
        """Shut machine `name` down in an orderly way, by force after `timeout` seconds."""
        with self._locked(name, ends=True):
            machine, driver = self._announced(name, "Stopping")
            _refuse_stopped(name, driver)
            self._shut_down(machine, driver, timeout)

    def kill(self, name: str) -> None:
        """Switch machine `name` off at once."""
        with self._locked(name, ends=True):
            machine, driver = self._announced(name, "Killing")
            _refuse_stopped(name, driver)
            driver.kill()
            self.store.save(machine)
            self.reporter.info(f'Machine "{name}" was killed.')

    def restart(self, name: str, *, timeout: float = STOP_SECONDS) -> None:
        """Shut down and bring up again; only the latter for a machine that is stopped."""
        with self._locked(name):
            machine, driver = self._announced(name, "Restarting")
            if driver.state() is not State.RUNNING:
                self._start(machine, driver)
                return
            self._boot(machine, driver, partial(driver.restart, timeout=timeout), self._request(machine))

    # -- after a crash -----------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Finish or undo what killed commands left in the store; a machine where that fails is a warning."""
        from pymachine.system import atomic_dirs  # noqa: PLC0415 (only what changes machines needs it)

        atomic_dirs.sweep(paths.machines(self.store.root))
        transactions.sweep_files(paths.certs(self.store.root))
        for name in self.store.names():
            self._sweep_machine(name)
        self.store.sweep_locks()

    def _sweep_machine(self, name: str) -> None:
        from pymachine.system import atomic_dirs  # noqa: PLC0415 (only what changes machines needs it)

        folder = self.store.machine_dir(name)
        snapshots = folder / paths.SNAPSHOTS
        # A folder that may not be entered has nothing that can be swept.
        half_made = [] if os.path.islink(snapshots) else atomic_dirs.leftovers(snapshots)  # noqa: PTH114 (never raises)
        if not half_made and not transactions.has_leftovers(folder):
            return
        try:
            with self.store.lock(name, timeout=0):
                self._recover(name)
                if half_made:
                    atomic_dirs.sweep(snapshots)
        except LockedError:
            return  # it is at work
        except Exception as error:  # noqa: BLE001 (a fault of one record or driver must not stop every `create`)
            why = error.brief if isinstance(error, PymachineError) else f"{type(error).__name__}: {error}"
            self.reporter.warn(f'The interrupted change of "{name}" could not be settled: {why}')

    @contextmanager
    def _locked(self, name: str, *, ends: bool = False) -> Iterator[Collection[str]]:
        """Hold the lock of machine `name`. What a killed command left unfinished is finished or undone first.

        With `ends` that this fails is a warning: a machine can always be stopped. Yields the names of the changes that
        were settled.
        """
        with self.store.lock(name):
            settled: Collection[str] = ()
            try:
                settled = self._recover(name, finish=not ends)
            except PymachineError as error:
                if not ends:
                    raise
                self.reporter.warn(error.brief)
            yield settled

    def _settled_before_removal(self, name: str) -> list[str]:
        """Settle what would keep machine `name` from being removed, and return the names of these changes.

        After a rename that was killed a hypervisor may have the machine under its old name. An import that was killed
        may have left no record, and is undone.
        """
        try:
            return self._recover(name, only=transactions.RENAME)
        except PymachineError as error:
            self.reporter.warn(error.brief)
            return []

    def _recover(self, name: str, *, only: str = "", finish: bool = False) -> list[str]:
        """Settle the unfinished changes of machine `name`, whose lock is held; returns their names.

        `only`: nothing but changes of that name, and what has no record. `finish`: finish an interrupted boot,
        which may take minutes, instead of ending it.
        """
        folder = self.store.machine_dir(name)
        if not transactions.has_leftovers(folder):
            return []
        changes = transactions.changes(folder)
        if not (folder / paths.CONFIG).exists() and any(change.name == transactions.CREATE for change in changes):
            self.store.delete(name)  # an import that was interrupted before it had its record
            return [transactions.CREATE]
        changes = [change for change in changes if only in ("", change.name)]
        if only and not changes:
            return []
        machine, driver = self._loaded(name)
        transactions.sweep_files(folder)
        for change in changes:
            try:
                recovery.Recovery(
                    store=self.store,
                    machine=machine,
                    driver=driver,
                    reporter=self.reporter,
                    answers=partial(self._answers, machine, driver),
                    finish_boot=partial(self._finish_boot, machine, driver) if finish else lambda: False,
                    drop_context=partial(self._drop_context, machine),
                    rename_context=partial(self._rename_context, machine),
                ).settle(change)
            except OSError as error:
                brief = f'cannot settle the unfinished {change.name} of "{name}"'
                raise os_errors.wrapped(StoreError, brief, error) from error
            except PymachineError as error:
                note = folder / (transactions.PREFIX + change.name)
                error.hint = f"{error.hint}\nA {change.name} of the machine was interrupted. To give up on settling "
                error.hint += f"it, remove the note: {note}"
                raise
            if not self.store.exists(name):
                break
        return [change.name for change in changes if not (folder / (transactions.PREFIX + change.name)).exists()]

    def _answers(self, machine: Machine, driver: Driver) -> bool:
        """Whether the engine of a machine answers now."""
        try:
            self._await_engine(machine, driver, seconds=ANSWER_SECONDS)
        except PymachineError:
            return False
        return True

    def _finish_boot(self, machine: Machine, driver: Driver) -> bool:
        """Send the guest its identity again, wait for its engine, and return whether the engine answers."""
        if not isinstance(driver, IdentityUpdatable):
            return False
        try:
            driver.apply_identity(self._request(machine))
            self._await_engine(machine, driver, seconds=boot_timeout())
        except PymachineError:
            return False
        return True

    # -- parts -------------------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self, machine: Machine, change: str, facts: Mapping[str, Json] | None = None) -> Iterator[None]:
        """Note a change of `machine` for the block, whose own code undoes it if it fails."""
        folder = self.store.machine_dir(machine.name)
        with writing(folder):
            transactions.note(folder, change, facts)
        try:
            yield
        finally:
            with writing(folder):
                transactions.clear(folder, change)

    @contextmanager
    def _replacing(self, machine: Machine, driver: Driver, change: str, settle: recovery.Settle) -> Iterator[None]:
        """Replace a part of a machine in the block; `settle` drops what the block set aside, or brings it back.

        What was set aside is back, with the configuration of before, if the block fails or its process is killed.
        """
        folder, before = self.store.machine_dir(machine.name), copy.deepcopy(machine.driver)
        with writing(folder):
            transactions.note(folder, change, {"Config": before}, durable=True)
        try:
            yield
            with writing(folder):
                transactions.note(folder, change, {"Done": True}, durable=True)
        except BaseException:
            recovery.revert(self.store, machine, driver, settle, before)
            with writing(folder):
                transactions.clear(folder, change)
            raise
        settle(keep=True)
        self.store.save(machine)
        with writing(folder):
            transactions.clear(folder, change)

    def _loaded(self, name: str) -> tuple[Machine, Driver]:
        machine = self.store.load(name)
        return machine, self.driver(machine)

    def _announced(self, name: str, doing: str) -> tuple[Machine, Driver]:
        """Load machine `name`, and say what is to be done to it, before anything can be found wrong."""
        machine = self.store.load(name)
        self.reporter.info(f'{doing} "{name}"...')
        return machine, self.driver(machine)

    def _start(self, machine: Machine, driver: Driver) -> None:
        self.reporter.info(f'Starting "{machine.name}"...')
        self._boot_again(machine, driver)

    def _boot_again(self, machine: Machine, driver: Driver, *, goes_on: bool = False) -> None:
        self._boot(machine, driver, driver.start, self._request(machine), goes_on=goes_on)
        self.reporter.info(f'Machine "{machine.name}" was started.')

    def _stop(self, machine: Machine, driver: Driver, timeout: float) -> None:
        self.reporter.info(f'Stopping "{machine.name}"...')
        self._shut_down(machine, driver, timeout)

    def _shut_down(self, machine: Machine, driver: Driver, timeout: float) -> None:
        driver.stop(timeout)
        self.store.save(machine)
        self.reporter.info(f'Machine "{machine.name}" was stopped.')

    def _ref(self, machine: Machine) -> MachineRef:
        folder = self.store.machine_dir(machine.name)
        return MachineRef(machine.name, folder, self.store.root, machine.ssh_key)

    def _reserve(self, request: CreateRequest, configure: Callable[[MachineRef, Sequence[Config]], Config]) -> Machine:
        """Configure the driver and save the record, so that what must be unique is taken from here on."""
        folder = self.store.machine_dir(request.name)
        ref = MachineRef(request.name, folder, self.store.root, folder / paths.SSH_KEY)
        has_ssh = Capability.NO_SSH not in registry.load(request.driver_name).info.capabilities
        with self.store.reserving():
            with _prefixing("Error setting machine configuration from flags provided: "):
                config = configure(ref, self._siblings(request.driver_name))
            machine = Machine(
                name=request.name,
                driver_name=request.driver_name,
                driver=with_base_fields(config, ref, ssh=has_ssh),
                engine=request.engine,
                swarm=request.swarm,
                auth=self._auth_options(folder, request.sans),
                context=request.context,
                expires=request.expires,
                owner=request.owner,
                install_script=request.install_script,
            )
            driver = self.driver(machine)
            if Capability.FIXED_ADDRESS in driver.info.capabilities:
                machine.endpoint = driver.endpoint()
            self.store.add(machine)
        return machine

    def _is_made(self, machine: Machine) -> None:
        folder = self.store.machine_dir(machine.name)
        with writing(folder):
            transactions.clear(folder, transactions.CREATE)

    def _siblings(self, driver_name: str) -> list[Config]:
        """The configurations of the other machines with this driver; machines that cannot be read are left out."""
        found = []
        for name in self.store.names():
            try:
                machine = self.store.load(name)
                if machine.driver_name == driver_name:
                    found.append(fields.check(registry.load(driver_name), machine.driver, name=name))
            except PymachineError:
                continue
        return found

    def _undo_create(self, machine: Machine, driver: Driver) -> None:
        """Remove a machine whose `create` failed; what cannot be removed stays in the store for `rm`."""
        try:
            driver.remove()
            self._drop_context(machine)
            self.store.delete(machine.name)
        except (PymachineError, OSError) as error:
            why = error.brief if isinstance(error, PymachineError) else os_errors.reason(error)
            self.reporter.warn(
                f'Could not clean up after the failed create of "{machine.name}": {why}. '
                f"Remove it with: pymachine rm {machine.name}"
            )

    def _delete(self, name: str) -> None:
        """Remove the machine's folder, and say what stays if it is a link to one elsewhere."""
        folder = self.store.machine_dir(name)
        behind = folder.resolve() if folder.is_symlink() and folder.exists() else None
        self.store.delete(name)
        if behind is not None:
            self.reporter.info(f'The folder {behind}, to which "{name}" was a link, stays, with what is in it.')

    def _image(self, driver: Driver) -> ImageFiles | None:
        if Capability.IMAGE not in driver.info.capabilities:
            return None
        from pymachine.image import provide  # noqa: PLC0415 (only create needs the builder)

        return provide.find_or_build(driver.image_request(), store=self.store.root, reporter=driver.reporter)

    def _make_keys(self, machine: Machine, driver: Driver) -> None:
        from pymachine.hosts import identity  # noqa: PLC0415 (cryptography)

        folder = self.store.machine_dir(machine.name)
        is_given_key = machine.base.ssh_key != folder / paths.SSH_KEY
        if Capability.NO_SSH in driver.info.capabilities or is_given_key:
            return
        driver.reporter.info("Creating SSH key...")
        if driver.info.capabilities & SETS_UP_ENGINE == Capability.PROVISION:
            # The host has a host key of its own, which is learned from it.
            identity.make_login_key(folder, name=machine.name)
        else:
            identity.make_keys(folder, name=machine.name)

    def _request(self, machine: Machine, *, image: ImageFiles | None = None, renew: bool = False) -> BootRequest:
        """What the driver is given; with `renew` the identity has a new server certificate."""
        return BootRequest(
            identity=lambda endpoint: self._identity(machine, endpoint, renew=renew),
            image=image,
            timeout=boot_timeout(),
            timings=self.timings,
        )

    def make_template(self, driver_name: str, options: Mapping[str, Json]) -> templates.Template:
        """Make the template for machines with these options of the driver, or find that it is there.

        Raises `TemplateError` if there can be none, or if it cannot be made.
        """
        from pymachine.hosts import templates  # noqa: PLC0415

        kind = registry.load(driver_name)
        folder = templates.directory(self.store.root)
        files.make_private_dir(folder)
        ref = MachineRef("template", folder, self.store.root, folder / paths.SSH_KEY)
        driver = kind(ref, kind.configure(ref, options, []), reporter=self.reporter)
        _precreate(driver)
        request = self._seeded(driver_name, BootRequest(identity=_nobody, image=self._image(driver)))
        templates.forgive(self.store.root)
        made = templates.ensure(driver, request, store=self.store.root, reporter=self.reporter)
        if made is None:
            raise TemplateError(f"the driver {driver_name} has no templates, or none for such machines")
        return made

    def _seeded(self, driver_name: str, request: BootRequest) -> BootRequest:
        from pymachine.docker import daemon_json  # noqa: PLC0415 (only create needs them)
        from pymachine.hosts import identity  # noqa: PLC0415 (only create needs them)

        common = daemon_json.files(EngineOptions(), driver_name=driver_name)
        return replace(request, seed=identity.seed(common), timeout=boot_timeout())

    def _bring_up(
        self,
        machine: Machine,
        driver: Driver,
        boot: BootRequest,
        request: CreateRequest,
        provisioning: Callable[[], object],
    ) -> None:
        """Resume a new machine from a template, or boot it where that cannot be.

        A template that failed is removed once the same machine came up without it, which shows that the template is
        at fault. Every other failure is the machine's or the host's, and is raised.
        """
        from pymachine.hosts import templates  # noqa: PLC0415 (only create needs them)

        failed: templates.TemplateFailedError | None = None
        try:
            if request.template and self._resume(machine, driver, boot):
                return
        except templates.TemplateFailedError as error:
            self.reporter.warn(f"{error.brief}: booting from power-on.")
            failed = error
        self._boot(machine, driver, _creating(driver), boot, provisioning=provisioning)
        if failed is not None:
            self._convict(failed)

    def _resume(self, machine: Machine, driver: Driver, request: BootRequest) -> bool:
        """Bring a new machine up from a template; whether there is one.

        Raises `TemplateFailedError` if the template may be at fault, after which nothing of the machine runs.
        """
        if not isinstance(driver, Templatable):
            return False
        from pymachine.docker import api  # noqa: PLC0415 (only create needs them)
        from pymachine.hosts import templates  # noqa: PLC0415 (only create needs them)
        from pymachine.tls import handshake  # noqa: PLC0415 (only create needs them)

        request = self._seeded(machine.driver_name, request)
        try:
            template = templates.ensure(driver, request, store=self.store.root, reporter=driver.reporter)
        except templates.TemplateFailedError:
            raise
        except PymachineError as error:
            self.reporter.warn(f"There is no template ({error.brief}): booting from power-on.")
            return False
        if template is None:
            return False
        quick = replace(request, timeout=min(RESUME_SECONDS, request.timeout))
        try:
            templates.touch(template)
            self._boot(machine, driver, partial(driver.create_from_template, template.directory), quick)
        except handshake.CertificateRefusedError:
            raise
        except (TemplateError, handshake.TlsError, api.EngineError) as error:
            driver.remove()
            why = error.why if isinstance(error, handshake.TlsError) else error.brief
            brief = f"The template {template.name} does not resume ({why})"
            raise templates.TemplateFailedError(brief, template.directory, error, made=template.made) from error
        return True

    def _convict(self, failed: templates.TemplateFailedError) -> None:
        from pymachine.hosts import templates  # noqa: PLC0415 (only create needs them)

        try:
            templates.convict(failed)
        except TemplateError as error:
            self.reporter.warn(f"The template could not be removed: {error.brief}")

    def _boot(
        self,
        machine: Machine,
        driver: Driver,
        act: Callable[[BootRequest], None],
        request: BootRequest,
        *,
        provisioning: Callable[[], object] | None = None,
        goes_on: bool = False,
    ) -> None:
        """Let the driver bring the machine up with its identity, save, and wait for the engine to answer.

        With `goes_on` the machine was paused or saved: it is not switched off if this is interrupted. Where
        `provisioning` is given, what has to be set up over SSH is: it is called before the host is changed.
        """
        seconds = request.timeout

        @cache
        def check() -> None:
            self.reporter.info("Checking connection to Docker...")
            self._await_engine(machine, driver, seconds=seconds)

        capabilities = driver.info.capabilities
        undoable = recovery.may_switch_off(driver) and not goes_on
        with self._changing(machine, transactions.BOOT) if undoable else nullcontext():
            try:
                act(replace(request, wait_for_engine=check) if Capability.IDENTITY in capabilities else request)
            finally:
                self.store.save(machine)
        if provisioning is not None and Capability.PROVISION in capabilities:
            with _prefixing("Error running provisioning: "):
                self._provision(machine, driver, before_changes=provisioning)
            seconds = min(seconds, PROVISIONED_SECONDS)
        if capabilities & SETS_UP_ENGINE:
            check()
            self.reporter.info("Docker is up and running!")
        self._refresh_context(machine, driver)

    def _provision(
        self,
        machine: Machine,
        driver: Driver,
        *,
        renew: bool = False,
        before_changes: Callable[[], object] | None = None,
    ) -> None:
        """Install the engine where there is none, and set it up, over one SSH connection.

        With `renew` it gets a new server certificate.
        """
        from pymachine.provision import session  # noqa: PLC0415 (only hosts that exist need it)

        endpoint = driver.endpoint()
        target = self._target(machine, endpoint, learn=True)
        folder = self.store.machine_dir(machine.name)
        began = time.monotonic()
        with (
            session.opened(target, reporter=self.reporter, timeout=boot_timeout(), native=self._native_ssh) as opened,
            session.interruptible(machine.name, before_changes, reporter=self.reporter) as begin,
        ):
            self.reporter.info("Copying certs to the local machine directory...")
            self._ensure_certificates(machine, endpoint.address, renew=renew)
            opened.provision(
                session.wanted(machine, endpoint, directory=folder),
                install_script=lambda: session.install_script(machine, keep=folder / paths.INSTALL_SCRIPT),
                before_changes=begin,
            )
        self.timings["provisioning"] = time.monotonic() - began

    def _apply(self, machine: Machine, driver: Driver, *, renew: bool = False) -> None:
        """Let the running machine have what its record says of certificates and the engine."""
        if Capability.PROVISION in driver.info.capabilities:
            self._provision(machine, driver, renew=renew)
        elif isinstance(driver, IdentityUpdatable):
            driver.apply_identity(self._request(machine, renew=renew))
        else:
            raise driver.unsupported("new certificates while a machine runs")

    def _restore(self, machine: Machine, driver: Driver) -> None:
        from pymachine.provision import session  # noqa: PLC0415

        if Capability.PROVISION not in driver.info.capabilities:
            raise driver.unsupported("--restore")
        target = self._target(machine, driver.endpoint(), learn=True)
        with session.opened(target, reporter=self.reporter, timeout=STOP_SECONDS, native=self._native_ssh) as opened:
            self.reporter.info(f'Restoring the host of "{machine.name}"...')
            if not opened.restore():
                self.reporter.info("pymachine has changed nothing on it.")

    def _target(
        self,
        machine: Machine,
        endpoint: Endpoint,
        *,
        user: str | None = None,
        learn: bool = False,
        pinned: bool = True,
    ) -> Target:
        """Where to log in to a machine at `endpoint`; `learn`: pin its host key if none is pinned yet.

        Without `pinned` any host key is taken: for a guest that has not been given its own yet.
        """
        from pymachine.ssh.target import Target  # noqa: PLC0415

        known_hosts = self.store.machine_dir(machine.name) / paths.KNOWN_HOSTS
        return Target(
            alias=machine.name,
            host=endpoint.ssh_host or endpoint.address,
            port=endpoint.ssh_port,
            user=user or endpoint.ssh_user,
            key=machine.base.ssh_key,
            known_hosts=known_hosts if learn or (pinned and known_hosts.exists()) else None,
            learn=learn,
        )

    def _remote(
        self,
        machine: Machine,
        endpoint: Endpoint,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        pinned: bool = True,
    ) -> str:
        """Run a command in a guest, as `pymachine.driver.contract.RunInGuest` says."""
        from pymachine.ssh.client import Client  # noqa: PLC0415
        from pymachine.ssh.target import SshError  # noqa: PLC0415

        try:
            client = Client(self._target(machine, endpoint, pinned=pinned), native=self._native_ssh)
            result = client.run(command, stdin=stdin, timeout=timeout)
        except (SshError, CommandError) as error:
            raise DriverError(error.brief, details=error.details, hint=error.hint) from error
        if result.returncode != 0:
            raise DriverError(
                f'a command on "{machine.name}" failed with exit code {result.returncode}: {command}',
                details=(result.stderr or result.stdout).strip(),
            )
        return result.stdout

    def _identity(self, machine: Machine, endpoint: Endpoint, *, renew: bool = False) -> bytes:
        from pymachine.docker import daemon_json  # noqa: PLC0415 (cryptography)
        from pymachine.hosts import identity  # noqa: PLC0415 (cryptography)

        folder = self.store.machine_dir(machine.name)
        self._ensure_certificates(machine, endpoint.address, renew=renew)
        # A machine that docker-machine made has no host key of its own yet, and no machine-id.
        identity.make_keys(folder, name=machine.name)
        settings = daemon_json.files(machine.engine, driver_name=machine.driver_name)
        return identity.of_machine(folder, hostname=host_name(machine.name), engine=settings)

    def _ensure_certificates(self, machine: Machine, address: str, *, renew: bool = False) -> None:
        """Certificates for `address` in the machine's folder, the store's own renewed before they expire."""
        from pymachine.tls import certs  # noqa: PLC0415 (cryptography)

        auth = self._auth_paths()
        certs.ensure_authority(auth, reporter=self.reporter, margin=self._margin())
        expiry = certs.ensure_server(
            auth,
            directory=self.store.machine_dir(machine.name),
            name=host_name(machine.name),
            hosts=[*machine.auth.server_cert_sans, address, "localhost"],
            renew=renew,
        )
        machine.certificates_expire = int(expiry.timestamp())

    def _margin(self) -> dt.timedelta:
        """How long before they expire the CA and the client's certificate are renewed: never those of others."""
        from pymachine.tls import certs  # noqa: PLC0415 (cryptography)

        return certs.RENEW_BEFORE if not self._authority else certs.RENEW_BEFORE * 0

    def _drop_context(self, machine: Machine, *, formerly: str = "") -> None:
        """Remove the machine's docker context, if it has one. `formerly` is the name that the machine had with it."""
        if machine.context:
            from pymachine.docker import contexts  # noqa: PLC0415

            try:
                contexts.remove(machine.context, machine=formerly or machine.name)
            except PymachineError as error:
                self.reporter.warn(f'The docker context "{machine.context}" could not be removed: {error.brief}')

    def _put_context(self, context: str, machine: Machine, endpoint: Endpoint, *, formerly: Sequence[str] = ()) -> None:
        from pymachine.docker import contexts  # noqa: PLC0415

        certificates = machine.client_files(self.store.machine_dir(machine.name))
        contexts.put(context, endpoint, machine=machine.name, certificates=certificates, formerly=formerly)

    def _refresh_context(self, machine: Machine, driver: Driver, *, formerly: Sequence[str] = ()) -> None:
        """Bring the machine's docker context up to date, if it has one; that it fails is no reason to fail.

        `formerly` are names that the machine had when its context was made.
        """
        if not machine.context:
            return
        try:
            self._put_context(machine.context, machine, driver.endpoint(), formerly=formerly)
        except PymachineError as error:
            self.reporter.warn(f'The docker context "{machine.context}" could not be updated: {error.brief}')

    def _rename_context(self, machine: Machine, before: str) -> None:
        """Give the docker context that is called `before`, as the machine was, the machine's name, if that is free.

        Called again after it was killed, it goes on.
        """
        if machine.context == before and self._is_free(machine.name):
            self._drop_context(machine, formerly=before)
            machine.context = machine.name
            self.store.save(machine)
        self._refresh_context(machine, self.driver(machine), formerly=(before,))

    def _is_free(self, context: str) -> bool:
        from pymachine.docker import contexts  # noqa: PLC0415

        try:
            contexts.refuse_taken(context, instead="")
        except PymachineError as error:
            self.reporter.warn(f"The docker context keeps its name: {error.brief}")
            return False
        return True

    def _await_engine(self, machine: Machine, driver: Driver, *, seconds: float) -> None:
        from pymachine.docker import api  # noqa: PLC0415
        from pymachine.system import wait  # noqa: PLC0415
        from pymachine.tls import handshake  # noqa: PLC0415

        endpoint = driver.endpoint()
        certificates = machine.client_files(self.store.machine_dir(machine.name))
        believed = wait.Deadline(0)

        def running() -> bool:
            nonlocal believed
            if believed.expired:
                believed = wait.Deadline(STATE_SECONDS)
                return driver.state() is State.RUNNING
            return True

        def answered() -> bool:
            try:
                api.ping(endpoint, certificates=certificates, timeout=min(20.0, seconds))
            except (handshake.TlsError, api.EngineError) as error:
                final = isinstance(error, handshake.CertificateRefusedError)
                if not final and not deadline.expired and running():
                    return False
                if Capability.PROVISION in driver.info.capabilities:
                    error.hint = f"{error.hint}\n{_firewall_hint(endpoint)}".strip()
                raise
            return True

        deadline = wait.Deadline(seconds)
        wait.until(answered, deadline=deadline, what="the engine to answer", interval=0.02, longest=0.1)

    def _auth_options(self, folder: Path, sans: tuple[str, ...]) -> AuthOptions:
        auth = self._auth_paths()
        return AuthOptions(
            cert_dir=str(paths.certs(self.store.root)),
            ca_cert_path=str(auth.ca_cert),
            ca_private_key_path=str(auth.ca_key),
            client_cert_path=str(auth.client_cert),
            client_key_path=str(auth.client_key),
            server_cert_path=str(folder / paths.SERVER_CERT),
            server_key_path=str(folder / paths.SERVER_KEY),
            server_cert_sans=list(sans),
            store_path=str(folder),
        )

    def _auth_paths(self) -> AuthPaths:
        from pymachine.tls.certs import AuthPaths  # noqa: PLC0415 (cryptography)

        folder = paths.certs(self.store.root)
        return AuthPaths(
            ca_cert=self._authority.get("ca_cert", folder / paths.CA_CERT),
            ca_key=self._authority.get("ca_key", folder / paths.CA_KEY),
            client_cert=self._authority.get("client_cert", folder / paths.CLIENT_CERT),
            client_key=self._authority.get("client_key", folder / paths.CLIENT_KEY),
        )


def _swarm_endpoint(machine: Machine, endpoint: Endpoint) -> Endpoint:
    """Where the manager of a Swarm standalone listens, if `machine` is its master."""
    port = machine.swarm.host.rpartition(":")[2]
    if not machine.swarm.master or not (port.isdecimal() and port.isascii() and 0 < int(port[:6]) < 65536):
        raise UsageError(
            f'"{machine.name}" is not a swarm master. The --swarm flag is intended for use with swarm masters',
            hint="Swarm standalone is gone from Docker; today's swarm mode needs no flag here.",
        )
    return dataclasses.replace(endpoint, docker_port=int(port), docker_url="")


def _firewall_hint(endpoint: Endpoint) -> str:
    return (
        f"The engine listens on port {endpoint.docker_port} of the host: is it open to you in the host's firewall, "
        "and in its provider's?"
    )


def changes_while_running(driver: Driver) -> bool:
    """Whether a running machine can be given new certificates and engine options."""
    return Capability.PROVISION in driver.info.capabilities or isinstance(driver, IdentityUpdatable)


def _nobody(endpoint: Endpoint) -> bytes:
    raise TemplateError(f"a template has no identity, not even at {endpoint.address}")


def boot_timeout() -> float:
    """Seconds after which a guest that does not come up is given up on: PYMACHINE_BOOT_TIMEOUT, or 300."""
    text = os.environ.get(ENV_BOOT_TIMEOUT, "")
    if not text:
        return BOOT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"{ENV_BOOT_TIMEOUT} is {text!r}, expected a number of seconds above 0")
    return seconds


def _precreate(driver: Driver) -> None:
    try:
        driver.precreate_check()
    except DriverError as error:
        raise PrecreateError(
            f"Error with pre-create check: {json.dumps(error.brief, ensure_ascii=False)}",
            details=error.details,
            hint=error.hint,
        ) from error


def _creating(driver: Driver) -> Callable[[BootRequest], None]:
    """The driver's `create`, with docker-machine's words in front of what goes wrong in it."""

    def create(request: BootRequest) -> None:
        with _prefixing("Error in driver during machine creation: "):
            driver.create(request)

    return create


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise `StoreError` for an OSError in the block, which writes in a machine's folder."""
    try:
        yield
    except OSError as error:
        raise os_errors.wrapped(StoreError, f"cannot write in {folder}", error) from error


@contextmanager
def _prefixing(prefix: str) -> Iterator[None]:
    """Put `prefix` in front of what goes wrong in the block, as docker-machine wraps its errors."""
    try:
        yield
    except PymachineError as error:
        raise error.prefixed(prefix) from error.__cause__


def _refuse_stopped(name: str, driver: Driver) -> None:
    if driver.state() is State.STOPPED:
        raise WrongStateError(f'Machine "{name}" is already stopped.')


def with_base_fields(config: Config, ref: MachineRef, *, ssh: bool) -> Config:
    """`config` with the fields that docker-machine's base driver has; a program reading the store expects them.

    Without `ssh` those of SSH are empty.
    """
    if ssh:
        base = BaseConfig(machine_name=ref.name, store=str(ref.store), ssh_key=ref.ssh_key)
    else:
        base = BaseConfig(machine_name=ref.name, store=str(ref.store), ssh_user="", ssh_port=0, ssh_key=None)
    return {**base.to_config(), **config}
