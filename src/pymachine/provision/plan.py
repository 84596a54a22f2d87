"""Derive the changes on a host from its facts and the desired engine settings. These functions are pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from pymachine.docker.daemon_json import RELOADABLE
from pymachine.driver.contract import Json
from pymachine.provision import boot2docker, merge, unit
from pymachine.provision.distributions import Provisioner, Service
from pymachine.provision.errors import HostConfigError
from pymachine.provision.facts import CERTIFICATES, DAEMON_JSON, OPENRC, PENDING, PROFILE, STATE, SWARM, Facts

LIVE_RESTORE = "live-restore"
STATE_VERSION = 1
OPENRC_MARK = "# pymachine:"


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """The desired settings of the host's engine."""

    machine: str
    port: int
    """The port on which the engine listens on all addresses, with mutual TLS."""
    ipv6: bool = False
    """Whether the host is reached by an IPv6 address."""
    certificates: Mapping[str, str] = field(repr=False)
    """The contents of ca.pem, server.pem and server-key.pem."""
    daemon: Mapping[str, Json]
    """pymachine's settings for daemon.json."""
    flags: Sequence[str] = ()
    """Flags of dockerd without a key in daemon.json."""
    environment: Sequence[str] = ()
    """The engine's environment variables, as ``NAME=value``."""
    shares: bool = False
    """Whether folders are shared with the host, which needs sshfs."""
    host_name: str = ""
    """The name to give to the host, if it was made for the machine. Otherwise it keeps its name."""

    @property
    def address(self) -> str:
        """The address to listen on, in dockerd's syntax."""
        return f"tcp://{'[::]' if self.ipv6 else '0.0.0.0'}:{self.port}"  # noqa: S104 (what a Docker host is for)


@dataclass(frozen=True)
class File:
    """A file with its desired content."""

    path: str
    content: str = field(repr=False)
    mode: int = 0o644


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The changes to make. The plan is empty if the host is already set up."""

    write: tuple[File, ...] = ()
    remove: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    """Files whose original version is kept as a backup."""
    action: str = ""
    """What makes the engine read the changes: ``restart``, ``reload``, or nothing."""
    interim: str = ""
    """A daemon.json to reload first, so that containers keep running while the engine restarts."""
    notes: tuple[str, ...] = ()
    """Messages for the user."""

    @property
    def empty(self) -> bool:
        """Whether the host is already set up."""
        return not (self.write or self.remove or self.action)


@dataclass(frozen=True)
class _DesiredState:
    files: list[File]
    remove: list[str]
    daemon: dict[str, Json] | None = None
    applied: merge.Applied = field(default_factory=merge.Applied)


def make_plan(facts: Facts, wanted: EngineSettings, provisioner: Provisioner) -> Plan:
    """Return the plan for a host with an engine. Raises `HostConfigError` for an invalid daemon.json."""
    before = state(facts, provisioner)
    applied = merge.Applied.from_json(before.get("applied"))
    keeps_containers = LIVE_RESTORE in applied.added
    desired = _desired_state(facts, wanted, provisioner, applied, live_restore=keeps_containers)
    plan = _compare(facts, desired, provisioner, before, wanted.machine)
    if plan.action == "restart" and _should_keep_containers(facts, provisioner, desired):
        desired = _desired_state(facts, wanted, provisioner, applied, live_restore=True)
        plan = _compare(facts, desired, provisioner, before, wanted.machine)
        current = merge.read(facts.files.get(DAEMON_JSON, ""), path=DAEMON_JSON)
        if LIVE_RESTORE not in current:
            return _with_interim(plan, merge.write({**current, LIVE_RESTORE: True}), facts.containers)
    return plan


def state(facts: Facts, provisioner: Provisioner) -> dict[str, Json]:
    """Return the state that earlier runs saved on the host. Raises `HostConfigError` if it cannot be read."""
    path = f"{provisioner.state}/{STATE}"
    text = facts.files.get(path, "")
    try:
        known = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise HostConfigError(f"{path} on the host is not JSON: {error}") from error
    return known if isinstance(known, dict) else {}


def _desired_state(
    facts: Facts, wanted: EngineSettings, provisioner: Provisioner, applied: merge.Applied, *, live_restore: bool
) -> _DesiredState:
    place = provisioner.certificates
    certificates = [
        File(f"{place}/{name}", wanted.certificates[name], 0o600 if "key" in name else 0o644) for name in CERTIFICATES
    ]
    current = merge.read(facts.files.get(DAEMON_JSON, ""), path=DAEMON_JSON)
    found = merge.strip(current, applied)
    if provisioner.service is Service.BOOT2DOCKER:
        # The engine refuses a setting that is both in daemon.json and on its command line.
        shared = {key: value for key, value in wanted.daemon.items() if key in found}
        profile = boot2docker.profile(
            wanted.daemon,
            address=wanted.address,
            flags=wanted.flags,
            environment=wanted.environment,
            without=found,
        )
        files = [*certificates, File(PROFILE, profile)]
        return _with_daemon(files, [], found, current, shared) if shared else _DesiredState(files, [])
    ours = dict(wanted.daemon) | {
        "tlsverify": True,
        "tlscacert": f"{place}/ca.pem",
        "tlscert": f"{place}/server.pem",
        "tlskey": f"{place}/server-key.pem",
    }
    if live_restore:
        ours[LIVE_RESTORE] = True
    if provisioner.service is Service.OPENRC:
        ours["hosts"] = [*([] if unit.hosts(found) else [unit.SOCKET]), wanted.address]
        extra = [File(OPENRC, text)] if (text := _openrc(facts, wanted)) is not None else []
        return _with_daemon(certificates + extra, [], found, current, ours)
    in_file = unit.hosts(found) is not None
    if in_file:
        ours["hosts"] = [wanted.address]
    command = unit.exec_start(facts.unit, without={unit.DROP_IN, unit.DOCKER_MACHINE})
    if not command:
        raise HostConfigError(
            "the host has an engine, but no docker.service that starts it",
            hint="It may be a snap, or rootless. If you remove it, pymachine installs the distribution's engine.",
        )
    adapted = unit.with_address(command, keys=ours, address=None if in_file else wanted.address, flags=wanted.flags)
    for key, values in adapted.moved.items():
        ours[key] = [*values, *(entry for entry in ours.get(key, []) if entry not in values)]
    text = unit.drop_in("" if adapted.line == command else adapted.line, environment=wanted.environment)
    files = [*certificates, *([File(unit.DROP_IN, text)] if text else [])]
    remove = [] if text else [unit.DROP_IN]
    return _with_daemon(files, [*remove, unit.DOCKER_MACHINE], found, current, ours)


def _with_daemon(
    files: list[File], remove: list[str], found: dict[str, Json], current: dict[str, Json], ours: dict[str, Json]
) -> _DesiredState:
    merged, applied = merge.merge(found, ours)
    # A file with the right settings is not written again, whatever their order.
    daemon = current if merge.same(merged, current) else merged
    return _DesiredState(files, remove, daemon, applied)


def _openrc(facts: Facts, wanted: EngineSettings) -> str | None:
    """Return /etc/conf.d/docker, a shell script that the service reads, with our lines. None if it needs no change."""
    text = facts.files.get(OPENRC, "")
    lines = text.splitlines()
    own: list[str] = []
    if wanted.flags:
        own.append(f'DOCKER_OPTS="$DOCKER_OPTS {" ".join(wanted.flags)}"')
    own += [f"export {_shell(entry)}" for entry in wanted.environment]
    kept = [line for line in lines if not line.endswith(OPENRC_MARK)]
    if not own and kept == lines:
        return None
    return "".join(f"{line}\n" for line in [*kept, *(f"{line} {OPENRC_MARK}" for line in own)])


def _shell(entry: str) -> str:
    import shlex  # noqa: PLC0415 (only OpenRC needs it)

    name, _, value = entry.partition("=")
    return f"{name}={shlex.quote(value)}"


def _compare(
    facts: Facts, desired: _DesiredState, provisioner: Provisioner, before: Mapping[str, Json], machine: str
) -> Plan:
    write = [file for file in desired.files if not _is_current(facts, file)]
    remove = tuple(path for path in desired.remove if path in facts.files)
    current = facts.files.get(DAEMON_JSON, "")
    restart = bool(write or remove) or not facts.active or f"{provisioner.state}/{PENDING}" in facts.files
    action = "restart" if restart else ""
    if desired.daemon is not None:
        now = merge.read(current, path=DAEMON_JSON)
        keys = merge.changed_keys(now, desired.daemon)
        if keys or DAEMON_JSON not in facts.files:
            write.append(File(DAEMON_JSON, merge.write(desired.daemon)))
            action = (
                "restart"
                if restart or not keys <= RELOADABLE or provisioner.service is Service.BOOT2DOCKER
                else "reload"
            )
    managed = dict(before.get("managed") or {})
    touched = [*(file.path for file in write), *remove]
    for path in touched:
        managed.setdefault(path, path in facts.files or path in facts.digests)
    new_state = {
        "version": STATE_VERSION,
        "machine": machine,
        "managed": managed,
        "applied": desired.applied.to_json(),
        "active": before.get("active", facts.active),
        "enabled": before.get("enabled", facts.enabled),
    }
    if write or remove or action:
        path = f"{provisioner.state}/{STATE}"
        write.insert(0, File(path, json.dumps(new_state, indent=2) + "\n", 0o600))
    return Plan(
        write=tuple(write),
        remove=remove,
        keep=tuple(path for path in touched if managed[path]),
        action=action,
    )


def _is_current(facts: Facts, file: File) -> bool:
    if file.path in facts.digests:
        return facts.digests[file.path] == sha256(file.content.encode()).hexdigest()
    return facts.files.get(file.path) == file.content


def _should_keep_containers(facts: Facts, provisioner: Provisioner, desired: _DesiredState) -> bool:
    """Whether to keep containers running: the host has some, has no live-restore setting of its own, and no swarm."""
    return (
        facts.active
        and facts.containers > 0
        and provisioner.service is Service.SYSTEMD
        and SWARM not in facts.present
        and LIVE_RESTORE not in (desired.daemon or {})
    )


def _with_interim(plan: Plan, interim: str, containers: int) -> Plan:
    many = "1 container keeps" if containers == 1 else f"{containers} containers keep"
    return Plan(
        write=plan.write,
        remove=plan.remove,
        keep=plan.keep,
        action=plan.action,
        interim=interim,
        notes=(f"{many} running while the engine restarts (live-restore is switched on in {DAEMON_JSON}).",),
    )
