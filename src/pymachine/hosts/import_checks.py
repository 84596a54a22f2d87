"""Check the parts of an import: the machine's record, the URL of a connection, and the formats of disks.

An export may come from anybody. An imported record is made of checked values of a known list; all else is dropped.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymachine.docker import daemon_json
from pymachine.driver.abilities import ConfigPortable
from pymachine.driver.contract import Driver, Json
from pymachine.errors import PymachineError
from pymachine.hosts.archive_format import ExportError
from pymachine.store import migrations
from pymachine.store.record import AuthOptions, EngineOptions, Machine, SwarmOptions, json_name
from pymachine.tls import certs

LARGEST_RECORD = 1 << 20
_MOST_SANS = 100
# Set again by every import, without a word.
_SET_AGAIN = {"ConfigVersion", "DriverName", "Name", "Endpoint", "CertificatesExpire"}
_HOST_CONSTANTS = {"Driver", "Memory", "Disk"}
_BASE = {"IPAddress", "MachineName", "SSHPort", "SSHKeyPath", "StorePath"}
_URL = re.compile(r"(?:tcp|https?)://(?:[A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?/?")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_MOST_KEYS_SAID = 20

# The beginning of a qcow2 file, up to its incompatible features: see docs/interop/qcow2.txt of QEMU.
_QCOW2 = b"QFI\xfb"
_QCOW2_EXTERNAL_DATA = 1 << 2


@dataclass(frozen=True)
class Accepted:
    """A checked record, reduced to the values that an import accepts."""

    machine: Machine
    driver: type[Driver]
    before: Mapping[str, Json]
    """The record as it was in the export."""

    def dropped(self) -> list[str]:
        """Return the keys of all values that were in the export and that `machine` does not have."""
        return [_shown(key) for key in _dropped(self.before, self.machine, self.driver)]


def record(text: bytes, *, name: str, driver_name: str, driver: type[Driver]) -> Accepted:
    """Return the machine `name`, of the driver `driver_name`, from its record in an export.

    It has nothing yet of what differs from host to host. Raises `ExportError`.
    """
    try:
        before = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"config.json in the export is not JSON: {error}") from error
    host = _object(before, "the whole").get("HostOptions") or {}
    options = _object(_object(host, "HostOptions").get("EngineOptions") or {}, "EngineOptions")
    auth = _object(host.get("AuthOptions") or {}, "AuthOptions")
    _check_versions(before, driver_name)
    clean = {
        "ConfigVersion": migrations.CONFIG_VERSION,
        "Name": name,
        "DriverName": driver_name,
        "Driver": _driver_fields(_object(before.get("Driver") or {}, "Driver"), driver),
        "HostOptions": {
            "EngineOptions": {key: options[key] for key in sorted(_keys(EngineOptions) & options.keys())},
            "AuthOptions": {"ServerCertSANs": auth.get("ServerCertSANs")},
        },
    }
    try:
        machine = Machine.from_json(clean, name=name)
        machine.raw = {}
        if machine.engine.install_url != migrations.INSTALL_URL:
            machine.engine.install_url = EngineOptions().install_url
        daemon_json.files(machine.engine, driver_name=driver_name)
        certs.check_names(machine.auth.server_cert_sans[:_MOST_SANS])
    except PymachineError as error:
        raise ExportError(f"the record in the export cannot be used: {error.brief}", hint=_hint()) from error
    if len(machine.auth.server_cert_sans) > _MOST_SANS:
        raise _wrong("AuthOptions.ServerCertSANs", machine.auth.server_cert_sans, f"at most {_MOST_SANS} names")
    return Accepted(machine, driver, before)


def url(text: str) -> str:
    """Check the URL of a connection. Raises `ExportError` unless it is one of an engine behind TLS."""
    found = _URL.fullmatch(text)
    if found is None or not 1 <= int(found[1] or 1) <= 65535:
        raise _wrong("url", text, "tcp://HOST:PORT")
    return text


def disk_image(path: Path, *, largest: int) -> None:
    """Raise `ExportError` for a qcow2 image that refers to another file, or whose disk is larger than `largest`.

    Files of other formats are not looked into: a driver knows its own.
    """
    with path.open("rb") as file:
        head = file.read(80)
    if not head.startswith(_QCOW2):
        return
    backing = int.from_bytes(head[8:16], "big")
    size = int.from_bytes(head[24:32], "big")
    features = int.from_bytes(head[72:80], "big") if int.from_bytes(head[4:8], "big") > 2 else 0
    if backing or features & _QCOW2_EXTERNAL_DATA:
        raise ExportError(f"{path.name} in the export is a qcow2 image that leads to another file")
    if size > largest:
        raise ExportError(f"{path.name} in the export is a qcow2 image of {size} bytes, more than {largest}")


def summary(keys: list[str]) -> str:
    """Return `keys` as the end of one line."""
    more = len(keys) - _MOST_KEYS_SAID
    return ", ".join(keys[:_MOST_KEYS_SAID]) + (f" and {more} more" if more > 0 else "")


def _check_versions(before: Mapping[str, Json], driver_name: str) -> None:
    for key, expected in (("ConfigVersion", migrations.CONFIG_VERSION), ("DriverName", driver_name)):
        if before.get(key) != expected:
            raise _wrong(key, before.get(key), repr(expected))


def _driver_fields(config: Mapping[str, Json], driver: type[Driver]) -> dict[str, Json]:
    """Return the checked fields of a driver's configuration that an import accepts."""
    if not issubclass(driver, ConfigPortable):
        return {}
    taken = {}
    for key, field in driver.portable_fields().items():
        value = config.get(key)
        if field is None or value is None:
            continue
        expected = field.problem(value)
        if expected:
            raise _wrong(f"Driver.{key}", value, expected)
        taken[key] = value
    return taken


def _dropped(before: Mapping[str, Json], machine: Machine, driver: type[Driver]) -> Iterator[str]:
    after = machine.to_json()
    fields = driver.portable_fields() if issubclass(driver, ConfigPortable) else {}
    set_again = {key for key, field in fields.items() if field is None}
    yield from _differing("", before, after, besides={*_SET_AGAIN, "Driver", "HostOptions"})
    yield from _differing("Driver.", before.get("Driver") or {}, after["Driver"], besides=_BASE | set_again)
    host = before.get("HostOptions") or {}
    parts = (("EngineOptions", EngineOptions), ("AuthOptions", AuthOptions), ("SwarmOptions", SwarmOptions))
    yield from _differing("HostOptions.", host, {}, besides={*_HOST_CONSTANTS, *(key for key, _ in parts)})
    for key, kind in parts:
        defaults = {json_name(item): getattr(kind(), item.name) for item in dataclasses.fields(kind)}
        besides = {key for key in _keys(AuthOptions) if key != "ServerCertSANs"} if kind is AuthOptions else set()
        ours = after["HostOptions"][key]
        yield from _differing(f"{key}.", host.get(key) or {}, {**defaults, **ours}, besides=besides)


def _differing(prefix: str, before: Any, after: Mapping[str, Json], *, besides: set[str]) -> Iterator[str]:
    """Yield the keys of the values in `before` that `after` does not have. Empty values do not count."""
    if not isinstance(before, dict):
        yield prefix.rstrip(".")
        return
    for key, value in before.items():
        if key not in besides and value not in (None, "", [], {}, False, 0) and after.get(key) != value:
            yield prefix + key


def _keys(kind: type[EngineOptions | AuthOptions | SwarmOptions]) -> set[str]:
    return {json_name(item) for item in dataclasses.fields(kind)}


def _object(data: Any, what: str) -> Mapping[str, Json]:
    if not isinstance(data, dict):
        raise _wrong(what, data, "a JSON object")
    return data


def _shown(key: str) -> str:
    """Return a key of a record for one line, with characters that could disturb a terminal escaped."""
    return key if _PLAIN_KEY.fullmatch(key) else ascii(key[:60])


def _wrong(key: str, value: Json, expected: str) -> ExportError:
    return ExportError(f"{key} in the export is {ascii(value)[:100]}, expected {expected}", hint=_hint())


def _hint() -> str:
    return "The machine's record was wrong when it was exported, or was changed since."
