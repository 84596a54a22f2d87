"""Convert records of docker-machine's older versions, and records whose store was moved.

Pure functions on JSON. Values that older versions had in other places are also kept there, so that nothing is lost.
Versions are those of docker-machine 0.1 (version 0), 0.2 (1), 0.3 to 0.4 (2) and 0.5 (3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pymachine.driver.contract import Json
from pymachine.errors import RecordError
from pymachine.store import paths

CONFIG_VERSION = 3
INSTALL_URL = "https://get.docker.com"
# Version 0 had these at the top level; later versions have them in HostOptions.AuthOptions.
_FLAT = (
    "StorePath",
    "CaCertPath",
    "PrivateKeyPath",
    "ServerCertPath",
    "ServerKeyPath",
    "ClientKeyPath",
    "ClientCertPath",
)


def version_of(record: Mapping[str, Json], name: str) -> int:
    """Return the version of a record; without a number it is 0. Raises `RecordError` if it is not supported."""
    version = record.get("ConfigVersion", 0)
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise RecordError(f'machine "{name}": config.json has no version that is known: {version!r}')
    if version > CONFIG_VERSION:
        raise RecordError("config version is from the future -- you should upgrade your Docker Machine client")
    return version


def migrate(record: Mapping[str, Json], *, name: str) -> dict[str, Json]:
    """Return `record` in version 3. Raises `RecordError` if it is not a record of any version."""
    version = version_of(record, name)
    migrated = dict(record)
    if version < 1:
        migrated = _from_0(migrated, name)
    if version < 2:
        migrated = _from_1(migrated, name)
    if version < 3:
        migrated = _from_2(migrated, name)
    return {**migrated, "ConfigVersion": CONFIG_VERSION}


def _from_0(record: dict[str, Json], name: str) -> dict[str, Json]:
    """Move top-level values into the options, unless those have them already."""
    host = _object(record, "HostOptions", name)
    engine = _object(host, "EngineOptions", name)
    engine.setdefault("InstallURL", INSTALL_URL)
    engine["TlsVerify"] = True
    swarm = _object(host, "SwarmOptions", name)
    for key, old in (("Discovery", "SwarmDiscovery"), ("Host", "SwarmHost"), ("Master", "SwarmMaster")):
        if old in record:
            swarm.setdefault(key, record[old])
    auth = _object(host, "AuthOptions", name)
    for key in _FLAT:
        if not auth.get(key) and record.get(key):
            auth[key] = record[key]
    return {**record, "HostOptions": {**host, "EngineOptions": engine, "SwarmOptions": swarm, "AuthOptions": auth}}


def _from_1(record: dict[str, Json], name: str) -> dict[str, Json]:
    """Rename PrivateKeyPath to CaPrivateKeyPath, and add the folders of the certificates and of the machine."""
    host = _object(record, "HostOptions", name)
    auth = _object(host, "AuthOptions", name)
    if not auth.get("CaPrivateKeyPath") and auth.get("PrivateKeyPath"):
        auth["CaPrivateKeyPath"] = auth["PrivateKeyPath"]
    if not auth.get("StorePath") and record.get("StorePath"):
        auth["StorePath"] = record["StorePath"]
    if not auth.get("CertDir") and isinstance(auth.get("CaCertPath"), str):
        auth["CertDir"] = _split(auth["CaCertPath"])[0]
    return {**record, "HostOptions": {**host, "AuthOptions": auth}}


def _from_2(record: dict[str, Json], name: str) -> dict[str, Json]:
    """Add the store's root to the driver's configuration."""
    driver = _object(record, "Driver", name)
    root = next((root for root, _ in _old_places(record)), "")
    if root and not driver.get("StorePath"):
        driver["StorePath"] = root
    return {**record, "Driver": driver, "Name": record.get("Name") or name}


def relocate(record: Mapping[str, Json], *, folder: Path) -> dict[str, Json]:
    """Return `record` with its absolute paths adjusted to the machine's current `folder`.

    The records of a store that was moved, copied or brought from another system have paths of its old place. Paths
    below the old root or the old folder are replaced by those below the current ones.
    """
    root = str(folder.parent.parent)
    moved: list[tuple[str, str]] = []
    for old_root, old_folder in _old_places(record):
        if old_folder and old_folder != str(folder):
            moved.append((old_folder, str(folder)))
        if old_root != root:
            moved.append((old_root, root))
    if not moved:
        return dict(record)
    healed = dict(record)
    if isinstance(record.get("Driver"), dict):
        driver = _replaced(record["Driver"], moved)
        if driver.get("StorePath"):
            driver["StorePath"] = root
        healed["Driver"] = driver
    host = record.get("HostOptions") or {}
    if isinstance(host, dict) and isinstance(host.get("AuthOptions") or {}, dict):
        auth = _replaced(host.get("AuthOptions") or {}, moved)
        # Before version 3 this was the root in some records.
        auth["StorePath"] = str(folder)
        healed["HostOptions"] = {**host, "AuthOptions": auth}
    return healed


def _old_places(record: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """Yield each root in the record's paths, with the machine's folder below it (empty if unknown)."""
    driver = record.get("Driver")
    host = record.get("HostOptions")
    auth = host.get("AuthOptions") if isinstance(host, dict) else None
    auth = auth if isinstance(auth, dict) else {}
    for recorded in (auth.get("StorePath"), record.get("StorePath")):
        head, name, _ = _split(recorded)
        root, machines, _ = _split(head)
        if name and machines == paths.MACHINES:
            yield root, str(recorded)
    if isinstance(driver, dict) and _split(driver.get("StorePath"))[0]:
        yield driver["StorePath"], ""
    root, certs, _ = _split(auth.get("CertDir"))
    if certs == paths.CERTS and root:
        yield root, ""


def _split(path: Json) -> tuple[str, str, str]:
    """Return head, last part and separator of an absolute path of any system, or three empty texts."""
    if not isinstance(path, str) or not (path.startswith("/") or path[1:3] == ":\\"):
        return "", "", ""
    separator = "/" if path.startswith("/") else "\\"
    head, _, last = path.rpartition(separator)
    return head, last, separator


def _replaced(value: Json, moved: list[tuple[str, str]]) -> Json:
    """Return `value` with every path in it below an old place moved to the new one."""
    if isinstance(value, dict):
        return {key: _replaced(entry, moved) for key, entry in value.items()}
    if isinstance(value, list):
        return [_replaced(entry, moved) for entry in value]
    if not isinstance(value, str):
        return value
    for old, new in moved:
        if value == old:
            return new
        separator = "/" if old.startswith("/") else "\\"
        if value.startswith(old + separator):
            return str(Path(new, *value[len(old) + 1 :].split(separator)))
    return value


def _object(parent: Mapping[str, Json], key: str, name: str) -> dict[str, Json]:
    """Return a copy of the object at `key`, or an empty one."""
    found = parent.get(key) or {}
    if not isinstance(found, dict):
        raise RecordError(f'machine "{name}": config.json: {key} is not a JSON object')
    return dict(found)
