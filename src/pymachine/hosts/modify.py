"""Change the hardware, shared folders, local socket, engine options or certificate names of a machine.

A change either succeeds or leaves the machine as it was. Abilities of a driver are checked by its class
(`isinstance(driver, Resizable)`), never by its name.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from pymachine.driver.abilities import HardwareChange, Resizable, ResizeCheckable
from pymachine.driver.contract import Json, State, Trait
from pymachine.driver.shares import Share
from pymachine.errors import CommandError, PymachineError, UsageError, WrongStateError
from pymachine.hosts import (
    container_proxies,
    context_updates,
    ipv6,
    lifecycle,
    local_socket,
    origins,
    provision,
    proxies,
    shares,
    ssh_shares,
    trusted_cas,
)
from pymachine.hosts.certificates import identity_restored_on_error, must_set_up_engine
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.locking import locked
from pymachine.hosts.timeouts import STOP_SECONDS, boot_timeout
from pymachine.store.origins import MODIFY, Origin
from pymachine.store.proxies import Proxies
from pymachine.store.record import EngineOptions, Machine

_NO_ENGINE = 127


@dataclasses.dataclass(frozen=True, kw_only=True)
class Changes:
    """The changes that `modify` makes. Everything else stays."""

    hardware: HardwareChange = dataclasses.field(default_factory=HardwareChange)
    engine: Mapping[str, str | list[str] | bool] = dataclasses.field(default_factory=dict)
    """By the names of `EngineOptions`. A list replaces the whole current list."""
    sans: Sequence[str] | None = None
    share: Sequence[Share] = ()
    """Folders to share. One at the path of another share in the guest replaces it."""
    unshare: Sequence[str] = ()
    """Folders to stop sharing, each as `shares.absolute` returns it."""
    share_events: bool | None = None
    """Whether the host's changes in them raise inotify events in the guest."""
    socket: bool | None = None
    """Whether a unix socket on this host reaches its engine."""
    ipv6_ports: bool | None = None
    """Whether its forwarded ports are on ::1 too."""
    ca_certificates: Sequence[str] | None = None
    """The certificates of further CAs that its guest trusts, in PEM, instead of the present ones."""
    proxies: Proxies | None = None
    """The proxies that its engine uses, instead of the present ones."""
    container_proxy: bool | None = None
    """Whether the docker client sets them in containers and builds."""
    origins: Mapping[str, Origin] = dataclasses.field(default_factory=dict, compare=False)
    """Where the new values came from, by option of `create`, if it is not ``modify``."""

    def are_of_this_host(self) -> bool:
        """Return whether all changes, if any, are on this host, so that the engine is not touched."""
        return self == Changes(socket=self.socket, container_proxy=self.container_proxy)

    def without_present(self, host: Host) -> Changes:
        """Return the changes without those that would leave the guest as it is."""
        settings = ["share_events", "ipv6_ports", "proxies"]
        if not host.has(Trait.IDENTITY):  # other machines get those of a changed config.toml, too
            settings.append("ca_certificates")
        present = [name for name in settings if _plain(getattr(self, name)) == _plain(getattr(host.record, name))]
        nothing: dict[str, object] = dict.fromkeys(present)
        return dataclasses.replace(self, **nothing)  # type: ignore[arg-type]

    def needs_stop(self, host: Host) -> bool:
        """Return whether the machine has to be stopped for the changes."""
        events_change = bool(host.record.shares) and self.share_events not in (None, host.record.share_events)
        shares_change = bool(self.share or self.unshare or events_change)
        ipv6_change = self.engine.get("ipv6") not in (None, host.record.engine.ipv6)
        ports_change = self.ipv6_ports not in (None, host.record.ipv6_ports)
        return (
            self.hardware != HardwareChange()
            or ipv6_change
            or ports_change
            or (shares_change and not ssh_shares.applies_to(host.driver))
        )


def modify(hosts: Hosts, name: str, changes: Changes, *, restart: bool = False, timeout: float = STOP_SECONDS) -> None:
    """Change machine `name`. With `restart` it is restarted if it runs and the change requires that.

    Without `restart` such a change raises `WrongStateError`. Raises `UsageError` for invalid values. In both cases
    nothing has changed.
    """
    with locked(hosts, name) as host:
        _check(host, changes)
        needed = changes.without_present(host)
        if needed.are_of_this_host():
            _change_this_host(host, changes)
            return
        running = host.state() is State.RUNNING
        stop = running and (needed.needs_stop(host) or not provision.changes_while_running(host.driver))
        if stop and not restart:
            raise WrongStateError(
                f'Machine "{name}" is running, and what is to be changed can only change while it is stopped',
                hint="Stop it first, or let it be restarted: --restart.",
            )
        if running and changes.engine:
            _validate(host, _changed(host.record.engine, changes))
        if stop:
            lifecycle.stop_host(host, timeout)
        live = running and not stop
        with _started_again_on_error(host, stopped=stop), identity_restored_on_error(host, running=live):
            _write(host, changes)
            if live:
                provision.apply(host)
                host.wait_for_engine(seconds=boot_timeout())
            host.save()
            if live:
                ssh_shares.mount(host)
                local_socket.follow_record(host)
            if stop:
                lifecycle.start_host(host)
        if live:
            context_updates.refresh(host)
        container_proxies.refresh(host)


def _check(host: Host, changes: Changes) -> None:
    """Refuse changes that the driver or the engine does not support, before anything is touched."""
    from pymachine.docker import daemon_json  # noqa: PLC0415 (ssl)

    if changes.share or changes.unshare:
        wanted = _changed_shares(host, changes)
        if wanted:  # a machine whose driver cannot share folders can lose those of an odd record
            able = shares.shareable(host.driver)
            shares.check(changes.share, others=wanted)
            able.check_shares(wanted)
    if changes.share_events is not None:
        shares.shareable(host.driver)
    if changes.socket:
        local_socket.check(host.driver)
    ipv6.check(host.driver, guest=bool(changes.engine.get("ipv6")), ports=bool(changes.ipv6_ports))
    proxies.check(type(host.driver), changes.proxies or Proxies())
    if changes.container_proxy:
        container_proxies.check(type(host.driver))
    if changes.ca_certificates is not None:
        trusted_cas.check(host.store.root, type(host.driver), changes.ca_certificates)
    if changes.hardware != HardwareChange():
        if not isinstance(host.driver, Resizable):
            raise host.driver.unsupported("other hardware for a machine that exists")
        if isinstance(host.driver, ResizeCheckable):
            host.driver.check_resize(changes.hardware)
    if changes.engine or changes.sans is not None:
        must_set_up_engine(host, "other engine options")
        daemon_json.files(_changed(host.record.engine, changes), driver_name=host.record.driver_name)


def _validate(host: Host, options: EngineOptions) -> None:
    """Have the machine's own engine check the options: with invalid ones it would not start again.

    If the engine cannot be reached, nothing is checked. Raises `UsageError`.
    """
    from pymachine.docker import daemon_json  # noqa: PLC0415 (ssl)
    from pymachine.ssh.target import SshError  # noqa: PLC0415

    if host.has(Trait.NO_SSH):
        return
    files = daemon_json.files(options, driver_name=host.record.driver_name)
    try:
        command = _dry_run(files.flags.splitlines())
        result = host.ssh(host.login()).run(command, stdin=files.daemon_json, timeout=120.0)
    except (SshError, CommandError):
        return
    if result.returncode not in (0, _NO_ENGINE):
        raise UsageError(
            f'the engine of machine "{host.name}" refuses these options',
            details=(result.stderr or result.stdout).strip(),
            hint="Nothing was changed.",
        )


def _write(host: Host, changes: Changes) -> None:
    """Write the changes into the record and the driver's files."""
    if changes.hardware != HardwareChange() and isinstance(host.driver, Resizable):
        host.driver.resize(changes.hardware)
    host.record.shares = _changed_shares(host, changes)
    if changes.share_events is not None:
        host.record.share_events = changes.share_events
    if changes.ipv6_ports is not None:
        host.record.ipv6_ports = changes.ipv6_ports
    if changes.socket is not None:
        host.record.socket = changes.socket
        host.record.context_socket &= changes.socket
    if changes.ca_certificates is not None:
        host.record.ca_certificates = list(changes.ca_certificates)
    if changes.proxies is not None:
        host.record.proxies = changes.proxies
    if changes.container_proxy is not None:
        host.record.container_proxy = changes.container_proxy
    host.record.engine = _changed(host.record.engine, changes)
    if changes.sans is not None:
        host.record.auth.server_cert_sans = list(changes.sans)
    _note_origins(host.record, changes)


def _note_origins(record: Machine, changes: Changes) -> None:
    """Note where the new values came from."""
    found: dict[str, Json] = {
        origins.hardware_option(record.driver_name, end): value
        for end, value in origins.hardware_values(changes.hardware).items()
        if value is not None
    }
    found |= {option: None for option, name in origins.ENGINE.items() if name in changes.engine}
    if changes.sans is not None:
        found[origins.SANS] = None
    if changes.share or changes.unshare:
        found[origins.SHARE] = None
    if changes.share_events is not None:
        found[origins.SHARE_EVENTS] = None
    if changes.socket is not None:
        found[origins.SOCKET] = None
    if changes.ipv6_ports is not None:
        found[origins.IPV6_PORTS] = None
    if changes.ca_certificates is not None:
        found[origins.CA_CERT] = None
    if changes.proxies is not None:
        found[origins.NO_HOST_PROXY] = None
    if changes.container_proxy is not None:
        found[origins.CONTAINER_PROXY] = None
    for option, value in found.items():
        record.origins[option] = changes.origins.get(option, Origin(MODIFY, value=value))


def _change_this_host(host: Host, changes: Changes) -> None:
    """Make changes that are on this host: the local socket and the proxies of the docker client."""
    if changes.socket is False:
        local_socket.turn_off(host)
    elif changes.socket and host.state() is State.RUNNING:
        local_socket.turn_on(host)
    elif changes.socket:
        host.record.socket = True
    if changes.container_proxy is not None:
        host.record.container_proxy = changes.container_proxy
    _note_origins(host.record, changes)
    host.save()
    container_proxies.refresh(host)


def _changed_shares(host: Host, changes: Changes) -> list[Share]:
    return shares.changed(host.record.shares, added=changes.share, removed=changes.unshare)


@contextmanager
def _started_again_on_error(host: Host, *, stopped: bool) -> Iterator[None]:
    """If the block fails, start a machine that was stopped for it, with its current record."""
    try:
        yield
    except PymachineError as error:
        if stopped:
            host.reporter.warn(f"The change did not work ({error.brief}): starting the machine as it was.")
            if host.state() is not State.STOPPED:
                host.driver.kill()
            lifecycle.start_host(host)
        raise


def _dry_run(flags: Sequence[str]) -> str:
    """Return the command by which an engine checks a daemon.json on stdin, and `flags`, without starting."""
    words = " ".join(shlex.quote(flag) for flag in flags)
    script = (
        f"PATH=$PATH:/usr/local/sbin:/usr/sbin; command -v dockerd > /dev/null || exit {_NO_ENGINE}; "
        'file=$(mktemp) && trap \'rm -f "$file"\' EXIT && cat > "$file" && '
        f'dockerd --validate --config-file="$file" {words}'
    )
    return f"sudo sh -c {shlex.quote(script)}"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _changed(engine: EngineOptions, changes: Changes) -> EngineOptions:
    values: dict[str, object] = dict(changes.engine)
    return dataclasses.replace(engine, **values)  # type: ignore[arg-type]
