"""A driver in a plug-in program. Each of its methods calls the program's method of the same name."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from pymachine.driver import fields
from pymachine.driver.abilities import SshPlace
from pymachine.driver.contract import (
    DOCKER_PORT,
    BootRequest,
    Config,
    Driver as BaseDriver,
    Endpoint,
    Health,
    ImageFiles,
    ImageRequest,
    Json,
    MachineRef,
    State,
)
from pymachine.driver.errors import DriverError, PymachineError, TimeoutExpiredError, UsageError
from pymachine.driver.kit.system import Reporter, until
from pymachine.driver.options import Option
from pymachine.driver.shares import Share
from pymachine_driver_plugin import allowed, flags
from pymachine_driver_plugin.errors import PluginError
from pymachine_driver_plugin.iso import MachineIso
from pymachine_driver_plugin.programs import Program
from pymachine_driver_plugin.session import Session

STATE_SECONDS = 180.0
"""How long docker-machine waits until a machine has the state that an action leads to."""
INTERRUPTED_SECONDS = 30.0
"""How long an interrupted create may go on, so that the program knows what it has made, and can remove it."""


class PluginDriver(BaseDriver):
    """A driver in a program. There is a subclass for each driver and program: see `pymachine_driver_plugin.finder`."""

    executable: ClassVar[Program]
    _options: ClassVar[Sequence[Option] | None] = None
    # The program that the options were read from. It goes on with the first machine.
    _spare: ClassVar[Session | None] = None
    # The programs that have configured a machine, by its folder. They go on with it.
    _configured: ClassVar[dict[Path, Session]] = {}

    def __init__(self, machine: MachineRef, config: Config, *, reporter: Reporter | None = None) -> None:
        super().__init__(machine, config, reporter=reporter)
        self._iso = MachineIso(machine)
        self._lock = threading.RLock()
        self._session: Session | None = self._configured.pop(machine.directory, None)
        self._is_new = self._session is not None
        self._may_have_left_resources = False
        if self._session is not None:
            self._session.process.on_message = self.reporter.info

    # -- before the machine exists -----------------------------------------------------------------------------

    @classmethod
    def options(cls) -> Sequence[Option]:
        """Return the program's flags. It is started for that. Raises `PluginError`."""
        if cls._options is None:
            session = cls._take_spare()
            try:
                cls._options = flags.options(session.flags())
            except BaseException:
                session.close()
                raise
            cls._keep_spare(session)
        return cls._options

    @classmethod
    def health(cls) -> Health:
        """Start the program and end it again."""
        program = cls.executable
        built_in = "built into " if program.has_many_drivers else ""
        try:
            cls._take_spare().close()
        except PymachineError as error:
            return Health(usable=False, problem=error.brief, fix=error.hint or f"Install {program.label} again.")
        return Health(usable=True, version=f"{built_in}{program.path}")

    @classmethod
    def configure(
        cls,
        machine: MachineRef,
        options: Mapping[str, Json],
        siblings: Sequence[Config],  # noqa: ARG003 (the program knows nothing of other machines)
    ) -> Config:
        """Let the program check the values of its flags. Raises `UsageError` with its message, and `PluginError`."""
        wanted = cls.options()
        given = dict(options)
        iso = flags.iso_option(wanted)
        # Programs cannot open a URL of a file on a drive of Windows.
        if iso and not given.get(iso) and sys.platform != "win32":
            given[iso] = MachineIso(machine).url
        session = cls._take_spare()
        try:
            session.set_config(_base_config(machine))
            session.set_flags(flags.values(wanted, given))
            config = _checked(session, machine.name)
        except PluginError:
            session.close()
            raise
        except DriverError as error:
            session.close()
            raise UsageError(error.brief, details=error.details, hint=error.hint) from error
        except BaseException:
            session.close()
            raise
        if cls.executable.is_chosen_by_user:
            allowed.allow(cls.executable.path)
        # Programs may keep values of flags that are not in the configuration until `create`.
        session.holds_unsaved_state = True
        cls._configured[machine.directory] = session
        return config

    def precreate_check(self) -> None:
        """Let the program check whether a create can work."""
        self._program().act("PreCreateCheck")

    def image_request(self) -> ImageRequest | None:
        """Return pymachine's own image if the program got its URL, or if it has a copy that can be replaced."""
        is_ours = self._iso.boots_ours(self.config) or self._iso.can_be_replaced(self.config)
        return ImageRequest() if is_ours else None

    def offer_image(self, image: ImageFiles) -> None:
        """Put pymachine's image at the URL that the program got."""
        self._iso.offer(image)

    # -- the machine -------------------------------------------------------------------------------------------

    def create(self, request: BootRequest) -> None:
        """Let the program create the machine, and wait until it runs.

        If this is interrupted, the program may go on for a while, so that it knows all that `remove` has to remove.
        """
        session = self._program()
        self._is_new = False
        # From now on, all that is needed to remove the machine is in the configuration.
        session.holds_unsaved_state = False
        creation = _Action(session, "Create")
        try:
            creation.run()
        except PluginError:
            self._may_have_left_resources = True
            raise
        except DriverError:
            with suppress(PymachineError):  # the failure itself is reported
                self._read_config(session)
            raise
        except BaseException:
            self._wait_for_interrupted(creation, session)
            raise
        self._read_config(session)
        self.reporter.info("Waiting for machine to be running, this may take a few minutes...")
        self._wait_for(State.RUNNING, request.timeout)

    def start(self, request: BootRequest) -> None:
        """Start the machine, and wait until it runs."""
        self._act("Start")
        self._wait_for(State.RUNNING, max(request.timeout, STATE_SECONDS))

    def stop(self, timeout: float) -> None:
        """Stop the machine, and switch it off if it still runs after `timeout` seconds, or docker-machine's 180."""
        seconds = max(timeout, STATE_SECONDS)
        self._act("Stop")
        try:
            self._wait_for(State.STOPPED, seconds)
        except TimeoutExpiredError:
            self.reporter.warn(f"The machine still runs after {seconds:g} seconds. Switching it off by force.")
            self.kill()

    def kill(self) -> None:
        """Switch the machine off."""
        self._act("Kill")
        self._wait_for(State.STOPPED, STATE_SECONDS)

    def restart(self, request: BootRequest, timeout: float) -> None:  # noqa: ARG002 (programs have no time-out)
        """Restart the machine, or start it if it is stopped."""
        self._act("Start" if self.state() is State.STOPPED else "Restart")
        self._wait_for(State.RUNNING, max(request.timeout, STATE_SECONDS))

    def remove(self) -> None:
        """Let the program remove the machine, unless it has not begun to create it.

        Raises `DriverError` if the program has ended in the middle of `create`: only it knew what it had made.
        """
        if self._may_have_left_resources:
            raise PluginError(
                f"{self.executable.label} has ended during Create. Resources that it had made may still exist: look "
                "at the provider or the hypervisor"
            )
        if not self._is_new:
            self._program().act("Remove")
        self.close()

    def state(self) -> State:
        """Return the state that the program reports. Before `create`, that is STOPPED."""
        return State.STOPPED if self._is_new else self._program().state()

    def endpoint(self) -> Endpoint:
        """Return the addresses, ports and the user that the program reports. Raises `DriverError`."""
        session = self._program()
        url, ip = session.text("GetURL"), session.text("GetIP")
        address, port = _engine(url, ip, session)
        return Endpoint(
            address,
            docker_port=port,
            docker_url="" if url == f"tcp://{ip}:{port}" else url,
            printed_ip=None if ip == address else ip,
        )

    def ssh_place(self) -> SshPlace:
        """Return the address, the port, the user and the key of SSH that the program reports. Raises `DriverError`."""
        session = self._program()
        host, user, key = (session.text(f"GetSSH{name}") for name in ("Hostname", "Username", "KeyPath"))
        port = session.number("GetSSHPort")
        if not fields.is_host(host) or not fields.is_user(user) or not fields.PORT.fits(port):
            raise PluginError(
                f"{session.program.label} reports an impossible address for SSH: {user!r} at {host!r}, port {port}"
            )
        return SshPlace(host=host, port=port, user=user, key=Path(key) if key else None)

    def close(self) -> None:
        """End the program."""
        with self._lock:
            if self._session is not None:
                self._session.close()
            self._session = None

    # -- shared folders and upgrades ---------------------------------------------------------------------------

    def check_shares(self, shares: Sequence[Share]) -> None:
        """Accept all folders: the host's own checks are made when they are mounted."""

    def shares_over_ssh(self) -> bool:
        """Return true: programs know nothing of shared folders, so the core mounts them."""
        return True

    def image_digest(self) -> str:
        """Return the SHA-256 of the image that the machine boots."""
        return self._iso.digest()

    def swap_image(self, image: ImageFiles) -> None:
        """Replace the program's copy of the image, as docker-machine does."""
        self._iso.replace(image)

    def commit_image(self) -> None:
        """Delete the previous image."""
        self._iso.commit()

    def rollback_image(self) -> None:
        """Restore the previous image."""
        self._iso.roll_back()

    # -- the program -------------------------------------------------------------------------------------------

    @classmethod
    def _take_spare(cls) -> Session:
        """Return a session without a machine."""
        spare, cls._spare = cls._spare, None
        if spare is not None and spare.is_open:
            return spare
        return Session(cls.executable)

    @classmethod
    def _keep_spare(cls, session: Session) -> None:
        """Keep a session for `_take_spare`. It has a thread, so it ends before this process forks."""
        if hasattr(os, "register_at_fork") and "_forks" not in cls.__dict__:
            os.register_at_fork(before=cls._close_spare)
            cls._forks = True
        cls._spare = session

    _forks: ClassVar[bool] = False

    @classmethod
    def _close_spare(cls) -> None:
        spare, cls._spare = cls._spare, None
        if spare is not None:
            spare.close()

    def _program(self) -> Session:
        """Return the session of this machine. The program is started when something is first asked of the machine."""
        with self._lock:
            if self._session is not None and self._session.is_open:
                return self._session
            if self._session is not None and self._session.holds_unsaved_state:
                raise PluginError(
                    f"{self.executable.label} has ended, and the values of its flags are lost", hint="Create it again."
                )
            session = self._take_spare()
            session.process.on_message = self.reporter.info
            try:
                session.set_config(self.config)
            except BaseException:
                session.close()
                raise
            self._session = session
            return session

    def _act(self, method: str) -> None:
        """Call a method that changes the machine, and read the configuration again."""
        session = self._program()
        session.act(method)
        self._read_config(session)

    def _read_config(self, session: Session) -> None:
        """Read the configuration, which the program may have changed. Raises `DriverError` if it is invalid."""
        config = _checked(session, self.machine.name)
        self.config.clear()
        self.config.update(config)

    def _wait_for_interrupted(self, creation: _Action, session: Session) -> None:
        """Let the program go on for a while, then kill it. Read the configuration, with what it has made so far."""
        name = self.executable.label
        self.reporter.warn(
            f"Interrupted. Waiting up to {INTERRUPTED_SECONDS:g} s for {name} to finish, so that it can be undone..."
        )
        try:
            creation.wait(INTERRUPTED_SECONDS)
        finally:
            with suppress(PymachineError):  # it may have ended
                self._read_config(session)
            if not creation.has_ended:
                self.reporter.warn(f"{name} was killed. Resources that it had made but not recorded are not removed.")
                session.kill()

    def _wait_for(self, state: State, seconds: float) -> None:
        """Wait until the machine has `state`. Errors are reported at the end, as docker-machine ignores them before."""
        problem: PymachineError | None = None

        def reached() -> bool:
            nonlocal problem
            try:
                return self.state() is state
            except PluginError:
                raise
            except DriverError as error:
                problem = error
                return False

        try:
            until(reached, deadline=seconds, what=f"the machine to be {state.word.lower()}", interval=0.1, longest=3.0)
        except TimeoutExpiredError as error:
            error.details = error.details or (problem.brief if problem else "")
            raise


class _Action:
    """A method that changes the machine, called in a thread, so that it can be waited for after an interrupt."""

    def __init__(self, session: Session, method: str) -> None:
        self._error: PymachineError | None = None
        # Python 3.11 takes a thread for ended if an interrupt comes while it is joined, so `join` is not used.
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._act, args=(session, method), daemon=True)

    @property
    def has_ended(self) -> bool:
        """Whether the method has returned."""
        return self._ended.is_set()

    def run(self) -> None:
        """Call the method, and raise its error."""
        self._thread.start()
        while not self.has_ended:
            self.wait(1.0)
        if self._error is not None:
            raise self._error

    def wait(self, seconds: float) -> None:
        """Wait for the end of the method."""
        self._ended.wait(seconds)

    def _act(self, session: Session, method: str) -> None:
        try:
            session.act(method)
        except PymachineError as error:
            self._error = error
        finally:
            self._ended.set()


def _base_config(machine: MachineRef) -> Config:
    """Return the configuration of a new machine, as docker-machine gives it to a program."""
    return {
        "IPAddress": "",
        "MachineName": machine.name,
        "SSHUser": "",
        "SSHPort": 0,
        "SSHKeyPath": "",
        "StorePath": str(machine.store),
        "SwarmMaster": False,
        "SwarmHost": "",
        "SwarmDiscovery": "",
    }


def _checked(session: Session, name: str) -> Config:
    """Return the configuration that the program has for machine `name`. Raises `PluginError` if it is invalid."""
    config = session.config()
    try:
        fields.check(PluginDriver, config, name=name)
    except PymachineError as error:
        raise PluginError(f"{session.program.label} has a wrong configuration: {error.brief}") from error
    return config


def _engine(url: str, ip: str, session: Session) -> tuple[str, int]:
    """Return the address and the port of the engine. Raises `PluginError`."""
    try:
        parts = urlsplit(url)
        address, port = parts.hostname or ip, parts.port or DOCKER_PORT
    except ValueError:
        parts, address, port = None, "", 0
    if (
        parts is None
        or parts.scheme not in ("tcp", "https", "http")
        or not fields.is_host(address)
        or not url.isprintable()
    ):
        raise PluginError(f"{session.program.label}: GetURL returned {url[:200]!r}, expected tcp://HOST:PORT")
    return address, port
