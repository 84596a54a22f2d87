"""A machine with everything that operations on it need: record, folder, driver, store, reporter and SSH.

`Hosts` holds the settings that apply to all machines of a store, and opens one machine as a `Host`. The operations are
functions in the other modules of this package. Those that change a machine hold its lock: see
`pymachine.hosts.locking`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pymachine.driver import fields, registry
from pymachine.driver.abilities import LateShareable, SshLocatable, SshNotifiable, SshPlace, SshShareable
from pymachine.driver.contract import BootRequest, Driver, Endpoint, ImageFiles, MachineRef, State, Trait
from pymachine.driver.names import host_name
from pymachine.driver.shares import Share, ShareEvents
from pymachine.errors import CommandError, DriverError, HostNotRunningError
from pymachine.hosts.timeouts import STATE_SECONDS, boot_timeout
from pymachine.store import paths
from pymachine.store.record import Machine
from pymachine.store.store import Store
from pymachine.system.progress import Reporter, Silent

if TYPE_CHECKING:
    import datetime as dt

    from pymachine.hosts.registry_mirrors import Mirror
    from pymachine.ssh.client import Client
    from pymachine.ssh.target import Target
    from pymachine.store.client_files import ClientFiles
    from pymachine.store.proxies import Proxies
    from pymachine.tls.certs import AuthPaths

# Drivers whose engine pymachine sets up. Any other engine may be off now and on later, so we do not wait for it.
SETS_UP_ENGINE = Trait.IDENTITY | Trait.PROVISION


def is_existing_host(driver: Driver) -> bool:
    """Return whether the driver's machine is a host that existed before, and stays when the machine is removed."""
    traits = Trait.PROVISION | Trait.FIXED_ADDRESS
    return driver.info.traits & traits == traits


class Hosts:
    """The machines of one store, with the settings that apply to all of them."""

    def __init__(
        self,
        store: Store,
        *,
        reporter: Reporter | None = None,
        authority: Mapping[str, Path] | None = None,
        labelled: bool = False,
        native_ssh: bool = False,
    ) -> None:
        """Bind a store and settings.

        `authority` overrides where the CA and the client certificate are: see `pymachine.tls.certs.AuthPaths`. With
        `labelled` the reporter's lines name the machine already, so drivers do not have to. With `native_ssh` SSH
        uses the Python implementation even where OpenSSH is installed.
        """
        self.store = store
        self.reporter: Reporter = reporter or Silent()
        self.authority = dict(authority or {})
        self.labelled = labelled
        self.native_ssh = native_ssh
        self.timings: dict[str, float] = {}
        """The seconds that each part of a boot took, as `create --timings` prints them."""

    def open(self, name: str) -> Host:
        """Load machine `name`. Raises the errors of `Store.load`."""
        return Host(self, self.store.load(name))

    def auth_paths(self) -> AuthPaths:
        """Return the paths of the CA and the client certificate."""
        from pymachine.tls.certs import AuthPaths  # noqa: PLC0415 (cryptography)

        folder = paths.certs(self.store.root)
        return AuthPaths(
            ca_cert=self.authority.get("ca_cert", folder / paths.CA_CERT),
            ca_key=self.authority.get("ca_key", folder / paths.CA_KEY),
            client_cert=self.authority.get("client_cert", folder / paths.CLIENT_CERT),
            client_key=self.authority.get("client_key", folder / paths.CLIENT_KEY),
        )

    def ensure_authority(self) -> None:
        """Make the CA and the client certificate if they are missing, and renew them before they expire.

        Certificates that the user brought are never renewed.
        """
        from pymachine.tls import certs  # noqa: PLC0415 (cryptography)

        margin: dt.timedelta = certs.RENEW_BEFORE if not self.authority else certs.RENEW_BEFORE * 0
        certs.ensure_authority(self.auth_paths(), reporter=self.reporter, margin=margin)


class Host:
    """One machine: its record, its folder and its driver, with SSH, certificates and the engine."""

    def __init__(self, hosts: Hosts, record: Machine) -> None:
        """Bind a loaded record; nothing is read or checked before a method is called."""
        self.hosts = hosts
        self.record = record
        self.store = hosts.store
        self.reporter = hosts.reporter
        self.name = record.name
        self.directory = hosts.store.machine_dir(record.name)
        self._proxies: tuple[Proxies, Proxies] | None = None

    @cached_property
    def driver(self) -> Driver:
        """The machine's driver.

        Raises `DriverNotFoundError`, and `RecordError` if the driver rejects a value in its configuration.
        """
        kind = registry.load_for_machine(self.record.driver_name, self.record.driver_program)
        config = self.record.driver
        checked = fields.check(kind, config, name=self.name)
        if Trait.FOREIGN_CONFIG in kind.info.traits:
            self.record.driver_program = kind.program
        else:
            for key in config.keys() - checked.keys():
                del config[key]
        ref = MachineRef(self.name, self.directory, self.store.root, self.record.ssh_key)
        reporter = self.reporter if self.hosts.labelled else self.reporter.prefixed(f"({self.name}) ")
        driver = kind(ref, config, reporter=reporter)
        driver.run_in_guest = self.run
        return driver

    def has(self, trait: Trait) -> bool:
        """Return whether the driver has `trait`, or one of several."""
        return bool(self.driver.info.traits & trait)

    def state(self) -> State:
        """Return the machine's state."""
        return self.driver.state()

    def endpoint(self) -> Endpoint:
        """Return the machine's endpoint. Raises `HostNotRunningError` unless the machine is running."""
        if self.driver.state() is not State.RUNNING:
            raise HostNotRunningError(name=self.name)
        return self.driver.endpoint()

    def save(self) -> None:
        """Write the record to the store."""
        self.store.save(self.record)

    # -- SSH ---------------------------------------------------------------------------------------------------

    def login(self, *, user: str | None = None) -> Target:
        """Return the SSH target of the running machine.

        Raises `HostNotRunningError` unless it is running, and `UnsupportedError` if it has no SSH.
        """
        if self.has(Trait.NO_SSH):
            raise self.driver.unsupported("SSH")
        return self.target(self.endpoint(), user=user)

    def target(
        self, endpoint: Endpoint, *, user: str | None = None, learn: bool = False, pinned: bool = True
    ) -> Target:
        """Return the SSH target for the machine at `endpoint`.

        With `learn` the host key is pinned at the first login. Without `pinned` any host key is accepted, for a guest
        that has not received its own key yet.
        """
        from pymachine.ssh.target import Target  # noqa: PLC0415

        if isinstance(self.driver, SshLocatable):
            place = self.driver.ssh_place()
        else:
            address = endpoint.ssh_host or endpoint.address
            key = self.record.base.ssh_key
            place = SshPlace(host=address, port=endpoint.ssh_port, user=endpoint.ssh_user, key=key)
        known_hosts = self.directory / paths.KNOWN_HOSTS
        return Target(
            alias=self.name,
            host=place.host,
            port=place.port,
            user=user or place.user,
            key=place.key,
            known_hosts=known_hosts if learn or (pinned and known_hosts.exists()) else None,
            learn=learn,
        )

    def ssh(self, target: Target) -> Client:
        """Return an SSH client for `target`. Raises `SshError` if the target cannot be used."""
        from pymachine.ssh.client import Client  # noqa: PLC0415

        return Client(target, native=self.hosts.native_ssh)

    def run(
        self,
        endpoint: Endpoint,
        command: str,
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        pinned: bool = True,
    ) -> str:
        """Run a shell command in the guest and return its output, as `pymachine.driver.contract.RunInGuest` requires.

        Raises `DriverError` if there is no connection, or if the command fails.
        """
        from pymachine.ssh.target import SshError  # noqa: PLC0415

        try:
            result = self.ssh(self.target(endpoint, pinned=pinned)).run(command, stdin=stdin, timeout=timeout)
        except (SshError, CommandError) as error:
            raise DriverError(error.brief, details=error.details, hint=error.hint) from error
        if result.returncode != 0:
            raise DriverError(
                f'a command on "{self.name}" failed with exit code {result.returncode}: {command}',
                details=(result.stderr or result.stdout).strip(),
            )
        return result.stdout

    # -- identity and certificates -----------------------------------------------------------------------------

    def client_files(self) -> ClientFiles:
        """Return the certificates that a client of the machine uses."""
        return self.record.client_files(self.directory)

    def ensure_certificates(self, address: str, *, renew: bool = False) -> None:
        """Put certificates for `address` into the machine's folder; with `renew` a new server certificate."""
        from pymachine.tls import certs  # noqa: PLC0415 (cryptography)

        self.hosts.ensure_authority()
        expiry = certs.ensure_server(
            self.hosts.auth_paths(),
            directory=self.directory,
            name=host_name(self.name),
            hosts=[*self.record.auth.server_cert_sans, address, "localhost"],
            renew=renew,
        )
        self.record.certificates_expire = int(expiry.timestamp())

    def identity(self, endpoint: Endpoint, *, renew: bool = False) -> bytes:
        """Return the machine's identity for `endpoint`, as one tar; with `renew` it has a new server certificate."""
        from pymachine.docker import daemon_json  # noqa: PLC0415 (cryptography)
        from pymachine.hosts import identity, registry_mirrors, trusted_cas  # noqa: PLC0415 (cryptography)

        self.ensure_certificates(endpoint.address, renew=renew)
        # A machine that docker-machine made has no host key of its own yet, and no machine-id.
        identity.make_keys(self.directory, name=self.name)
        mirror = self.registry_mirror
        engine = registry_mirrors.with_mirror(self.record.engine, mirror)
        settings = daemon_json.files(engine, driver_name=self.record.driver_name)
        return identity.of_machine(
            self.directory,
            hostname=host_name(self.name),
            engine=settings,
            proxies=self.proxies().variables(),
            ca_certificates=trusted_cas.of(self.record, self.store.root, self.reporter),
            registry_cache=mirror.member if mirror else "",
            ipv6=self.record.engine.ipv6,
        )

    @cached_property
    def registry_mirror(self) -> Mirror | None:
        """This host's registry cache, if it runs and the machine can use it."""
        from pymachine.hosts import registry_mirrors  # noqa: PLC0415 (only boots need it)

        return registry_mirrors.find(self.driver, self.store.root, self.reporter)

    def proxies(self) -> Proxies:
        """Return the proxies that the machine uses, as its guest reaches them: see `pymachine.hosts.proxies`."""
        recorded = self.record.proxies
        if not recorded:
            return recorded
        from pymachine.hosts import proxies  # noqa: PLC0415 (few machines have any)

        # `create` needs them several times, and one warning is enough.
        if self._proxies is None or self._proxies[0] != recorded:
            self._proxies = recorded, proxies.reachable(self.driver, recorded, self.reporter)
        return self._proxies[1]

    # -- boot --------------------------------------------------------------------------------------------------

    def boot_request(self, *, image: ImageFiles | None = None, renew: bool = False) -> BootRequest:
        """Return the request to boot the machine; with `renew` its identity has a new server certificate."""
        return BootRequest(
            identity=lambda endpoint: self.identity(endpoint, renew=renew),
            image=image,
            shares=() if self._shares_all_over_ssh() else tuple(self.record.shares),
            share_events=self.share_events(),
            ipv6=self.record.engine.ipv6,
            ipv6_ports=self.record.ipv6_ports,
            timeout=boot_timeout(),
            timings=self.hosts.timings,
        )

    def shares_over_ssh(self) -> list[Share]:
        """Return the shared folders that the core mounts now: see `SshShareable` and `LateShareable`."""
        if self._shares_all_over_ssh():
            return list(self.record.shares)
        if self.record.shares and isinstance(self.driver, LateShareable):
            missing = self.driver.missing_shares()
            return [share for share in self.record.shares if share in missing]
        return []

    def shares_with_events_over_ssh(self) -> list[Share]:
        """Return the shared folders in which the core raises events: those that it mounts, or see `SshNotifiable`."""
        if not self.record.share_events:
            return []
        if self.record.shares and isinstance(self.driver, SshNotifiable) and self.driver.notifies_over_ssh():
            return list(self.record.shares)
        return self.shares_over_ssh()

    def _shares_all_over_ssh(self) -> bool:
        return bool(self.record.shares) and isinstance(self.driver, SshShareable) and self.driver.shares_over_ssh()

    def share_events(self) -> ShareEvents | None:
        """Return how changes in the shared folders raise events in the guest, or None. Raises `ConfigError`."""
        from pymachine.store import user_config  # noqa: PLC0415 (needed only with shared folders)

        if not (self.record.shares and self.record.share_events):
            return None
        try:
            return ShareEvents(user_config.without_events(self.store.root / paths.USER_CONFIG))
        except user_config.ConfigError as error:
            # No reason to leave a machine off: only `create` and `run` take more from that file.
            self.reporter.warn(f"Folders without events are the usual ones: {error.brief}")
            return ShareEvents(user_config.USUALLY_WITHOUT_EVENTS)

    def wait_for_engine(self, *, seconds: float) -> None:
        """Wait up to `seconds` until the engine answers with the machine's certificate.

        Raises `TlsError` or `EngineError` after that time, and earlier if the machine stops or its engine refuses the
        client's certificate.
        """
        from pymachine.docker import api  # noqa: PLC0415
        from pymachine.system import wait  # noqa: PLC0415
        from pymachine.tls import handshake  # noqa: PLC0415

        endpoint = self.driver.endpoint()
        certificates = self.client_files()
        state_is_fresh = wait.Deadline(0)

        def running() -> bool:
            nonlocal state_is_fresh
            if state_is_fresh.expired:
                state_is_fresh = wait.Deadline(STATE_SECONDS)
                return self.driver.state() is State.RUNNING
            return True

        def answered() -> bool:
            try:
                api.ping(endpoint, certificates=certificates, timeout=min(20.0, seconds))
            except (handshake.TlsError, api.EngineError) as error:
                final = isinstance(error, handshake.CertificateRefusedError)
                if not final and not deadline.expired and running():
                    return False
                if self.has(Trait.PROVISION):
                    error.hint = f"{error.hint}\n{_firewall_hint(endpoint)}".strip()
                raise
            return True

        deadline = wait.Deadline(seconds)
        # Short pauses: a clone's engine answers soon after this begins, and a refused attempt costs 2 ms.
        wait.until(answered, deadline=deadline, what="the engine to answer", interval=0.02, longest=0.03)


def _firewall_hint(endpoint: Endpoint) -> str:
    return (
        f"The engine listens on port {endpoint.docker_port} of the host: is it open to you in the host's firewall, "
        "and in its provider's?"
    )
