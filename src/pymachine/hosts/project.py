"""The machine of a project: the file that it belongs to, and how it differs from what the file says."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver import registry
from pymachine.driver.abilities import HardwareChange
from pymachine.driver.contract import Json
from pymachine.driver.names import NAME_LENGTH
from pymachine.driver.shares import Share
from pymachine.errors import PymachineError
from pymachine.hosts import origins, shares
from pymachine.hosts.create import CreateRequest
from pymachine.hosts.host import Hosts
from pymachine.hosts.locking import locked
from pymachine.hosts.modify import Changes
from pymachine.store.origins import DEFAULT, FILE, Origin, Project
from pymachine.store.record import Machine


class ForeignMachineError(PymachineError):
    """The machine that a project file names was not created for that file."""

    code = "foreign-machine"


@dataclass(frozen=True)
class Difference:
    """An option whose value in a machine differs from its value in a machine that `up` would create now."""

    option: str
    """The name of the option of `create`."""
    current: Json
    wanted: Json
    origin: Origin
    """Where the wanted value comes from."""
    applicable: bool
    """Whether `modify` can change it."""


def default_name(folder: Path) -> str:
    """Return the default name of a project's machine: the folder's name without characters that names cannot have."""
    kept = "".join(each if each.isascii() and (each.isalnum() or each == ".") else "-" for each in folder.name)
    return "-".join(filter(None, kept.split("-"))).strip("-.")[:NAME_LENGTH].rstrip("-.") or "project"


def check_owner(machine: Machine, file: Path, *, takes_over: bool = False) -> None:
    """Raise `ForeignMachineError` unless the machine was created for `file`.

    Otherwise a file from elsewhere could use, change or remove any machine of the user, by its name. With `takes_over`
    it may also be one for a file that does not exist any more, as after the project's folder was moved.
    """
    project = machine.project
    if is_of(machine, file) or (takes_over and project is not None and not os.path.lexists(project.file)):
        return
    made = "without `up`" if project is None else f"for {project.file}"
    hint = "Choose another name: `name` in the table [machine] of the file, or --name."
    if project is not None and not os.path.lexists(project.file):
        hint = "If the project's folder was moved, `pymachine up` in it takes the machine over."
    raise ForeignMachineError(f'machine "{machine.name}" exists, but it was created {made}, not for {file}', hint=hint)


def is_of(machine: Machine, file: Path) -> bool:
    """Return whether the machine was created for the project file `file`."""
    if machine.project is None:
        return False
    if machine.project.file == file:
        return True
    try:
        return machine.project.file.samefile(file)
    except OSError:
        return False


def adopt(hosts: Hosts, name: str, file: Path, trusted: Sequence[str]) -> None:
    """Note that machine `name` belongs to `file`, and all that the user has allowed that file."""
    with locked(hosts, name) as host:
        known = host.record.project or Project(file)
        project = Project(file, known.provisioned, list(trusted))
        if project != host.record.project:
            host.record.project = project
            host.save()


def differences(machine: Machine, request: CreateRequest) -> list[Difference]:
    """Return how a machine differs from one that `request` would create.

    Only values that the user or the project file has set are compared, and those that came from such a file before.
    """
    found = []
    for option, wanted in _wanted(request).items():
        origin = request.origins.get(option, Origin(DEFAULT))
        recorded = machine.origins.get(option)
        was_in_file = recorded is not None and recorded.kind == FILE
        if origin.kind == DEFAULT and not was_in_file and not (option == origins.SHARE and _has_own_folder(machine)):
            continue
        current = origins.current_value(machine, option)
        if current is None and recorded is None:
            current = _default(machine, option)
        if _comparable(option, current) != _comparable(option, wanted):
            applicable = _is_applicable(machine, option, wanted)
            found.append(Difference(option, _plain(current), _plain(wanted), origin, applicable))
    if machine.driver_name != request.driver_name:  # the options of both are not comparable
        return [each for each in found if each.option == origins.DRIVER]
    return found


def changes(machine: Machine, request: CreateRequest, found: Sequence[Difference]) -> Changes:
    """Return the changes that remove those of the differences that are applicable."""
    wanted = {each.option: each.wanted for each in found if each.applicable}
    hardware = {
        field: wanted[option]
        for end, field in origins.HARDWARE.items()
        if (option := origins.hardware_option(machine.driver_name, end)) in wanted
    }
    shared = request.shares.shares if origins.SHARE in wanted else ()
    return Changes(
        hardware=HardwareChange(**hardware),
        engine={field: wanted[option] for option, field in origins.ENGINE.items() if option in wanted},
        sans=wanted.get(origins.SANS),
        share=shared,
        unshare=_to_unshare(machine.shares, kept=shared) if origins.SHARE in wanted else (),
        share_events=not wanted[origins.SHARE_EVENTS] if origins.SHARE_EVENTS in wanted else None,
        socket=wanted.get(origins.SOCKET),
        ipv6_ports=wanted.get(origins.IPV6_PORTS),
        proxies=request.proxies if origins.NO_HOST_PROXY in wanted else None,
        container_proxy=wanted.get(origins.CONTAINER_PROXY),
        ca_certificates=request.ca_certificates if origins.CA_CERT in wanted else None,
        origins={each.option: each.origin for each in found},
    )


def _to_unshare(present: Sequence[Share], *, kept: Sequence[Share]) -> list[str]:
    """Return the words for `Changes.unshare` that remove all shares but `kept`, which are shared again."""
    words: list[str] = []
    left = list(present)
    for share in present:
        if share in left and share not in kept:
            words.append(str(share))
            # A folder at its own path has a text that also names the same folder at other paths.
            left = shares.changed(left, added=(), removed=[str(share)])
    return words


def _has_own_folder(machine: Machine) -> bool:
    """Return whether a machine shares the folder of its project by default, which may have been moved."""
    recorded = machine.origins.get(origins.SHARE)
    return bool(machine.shares) and recorded is not None and recorded.kind == DEFAULT


def _wanted(request: CreateRequest) -> Mapping[str, Json]:
    """Return the values of `request` by option, of those that can be compared."""
    engine = {option: getattr(request.engine, field) for option, field in origins.ENGINE.items()}
    del engine["engine-install-url"]  # it was used when the machine was created
    return {
        origins.DRIVER: request.driver_name,
        **request.options,
        **engine,
        origins.SANS: list(request.sans),
        origins.SHARE_EVENTS: not request.share_events,
        origins.SOCKET: request.socket,
        origins.IPV6_PORTS: request.ipv6_ports,
        origins.NO_HOST_PROXY: not request.proxies,
        origins.CONTAINER_PROXY: request.container_proxy,
        origins.CA_CERT: [origins.fingerprint(pem) for pem in request.ca_certificates],
        origins.SHARE: [str(share) for share in request.shares.shares],
    }


def _default(machine: Machine, option: str) -> Json:
    """Return the driver's default for an option of which the record says nothing, since it was empty."""
    kind = registry.load_for_machine(machine.driver_name, machine.driver_program)
    defaults = {each.name: each.default for each in kind.options()}
    return defaults.get(option)


def _is_applicable(machine: Machine, option: str, wanted: Json) -> bool:
    hardware = {origins.hardware_option(machine.driver_name, end) for end in origins.HARDWARE}
    if option in hardware:
        return isinstance(wanted, int)
    changeable = {
        origins.SANS,
        origins.SHARE,
        origins.SHARE_EVENTS,
        origins.SOCKET,
        origins.IPV6_PORTS,
        origins.CA_CERT,
        origins.NO_HOST_PROXY,
        origins.CONTAINER_PROXY,
    }
    return option in {*origins.ENGINE, *changeable}


def _plain(value: Json) -> Json:
    return list(value) if isinstance(value, tuple) else value


def _comparable(option: str, value: Json) -> Json:
    """Return a value so that equal settings are equal: empty ones, and shares in any order."""
    if isinstance(value, list | tuple):
        return sorted(value) if option == origins.SHARE else list(value)
    return value or []
