"""Records that each version of docker-machine wrote, and stores that were moved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from pymachine.errors import PymachineError, RecordError
from pymachine.store import migrations
from pymachine.store.record import Machine
from pymachine.store.store import Store

OLD = "/Users/ann/.docker/machine"
DRIVER = {
    "IPAddress": "192.168.99.100",
    "SSHUser": "docker",
    "SSHPort": 53507,
    "MachineName": "dev",
    "CaCertPath": f"{OLD}/certs/ca.pem",
    "PrivateKeyPath": f"{OLD}/certs/ca-key.pem",
    "SwarmMaster": False,
    "SwarmHost": "tcp://0.0.0.0:3376",
    "SwarmDiscovery": "",
    "CPU": 1,
    "Memory": 1024,
    "DiskSize": 20000,
    "Boot2DockerURL": "",
}
PATHS = {
    "CaCertPath": f"{OLD}/certs/ca.pem",
    "ServerCertPath": f"{OLD}/machines/dev/server.pem",
    "ServerKeyPath": f"{OLD}/machines/dev/server-key.pem",
    "ClientKeyPath": f"{OLD}/certs/key.pem",
    "ClientCertPath": f"{OLD}/certs/cert.pem",
}
ENGINE = {"ArbitraryFlags": ["log-driver=none"], "Labels": None, "TlsCaCert": "", "TlsVerify": True, "Dns": None}
SWARM = {"Host": "tcp://0.0.0.0:3376", "Image": "swarm:latest", "TlsVerify": False, "ArbitraryFlags": []}

# Records as docker-machine 0.1, 0.2, 0.4 and 0.16 wrote them.
RECORDS: Mapping[int, dict[str, Any]] = {
    0: {
        "DriverName": "virtualbox",
        "Driver": DRIVER,
        "StorePath": f"{OLD}/machines/dev",
        "PrivateKeyPath": f"{OLD}/certs/ca-key.pem",
        "SwarmMaster": True,
        "SwarmHost": "tcp://0.0.0.0:3376",
        "SwarmDiscovery": "token://1234",
        **PATHS,
    },
    1: {
        "ConfigVersion": 1,
        "DriverName": "virtualbox",
        "Driver": DRIVER,
        "HostOptions": {
            "Driver": "",
            "Memory": 0,
            "Disk": 0,
            "EngineOptions": ENGINE,
            "SwarmOptions": {**SWARM, "Master": True, "Discovery": "token://1234"},
            "AuthOptions": {"StorePath": "", "PrivateKeyPath": f"{OLD}/certs/ca-key.pem", **PATHS},
        },
        "StorePath": f"{OLD}/machines/dev",
    },
    2: {
        "ConfigVersion": 2,
        "DriverName": "virtualbox",
        "Name": "dev",
        "Driver": DRIVER,
        "HostOptions": {
            "Driver": "",
            "Memory": 0,
            "Disk": 0,
            "EngineOptions": ENGINE,
            "SwarmOptions": {**SWARM, "Master": True, "Discovery": "token://1234"},
            "AuthOptions": {
                "CertDir": f"{OLD}/certs",
                "CaPrivateKeyPath": f"{OLD}/certs/ca-key.pem",
                "StorePath": OLD,
                **PATHS,
            },
        },
    },
    3: {
        "ConfigVersion": 3,
        "DriverName": "virtualbox",
        "Name": "dev",
        "Driver": {**DRIVER, "StorePath": OLD, "SSHKeyPath": f"{OLD}/machines/dev/id_rsa", "VBoxManager": {}},
        "HostOptions": {
            "Driver": "",
            "Memory": 0,
            "Disk": 0,
            "EngineOptions": ENGINE,
            "SwarmOptions": {**SWARM, "Master": True, "Discovery": "token://1234"},
            "AuthOptions": {
                "CertDir": f"{OLD}/certs",
                "CaPrivateKeyPath": f"{OLD}/certs/ca-key.pem",
                "ServerCertSANs": ["a.example"],
                "StorePath": f"{OLD}/machines/dev",
                **PATHS,
            },
        },
    },
}


def write_record(root: Path, record: Any, name: str = "dev") -> Path:
    folder = root / "machines" / name
    folder.mkdir(parents=True)
    text = record if isinstance(record, str) else json.dumps(record, indent=4)
    (folder / "config.json").write_text(text)
    return folder


@pytest.mark.parametrize("version", RECORDS)
def test_a_record_of_every_version_loads_as_the_same_machine(tmp_path: Path, version: int) -> None:
    folder = write_record(tmp_path, RECORDS[version])
    machine = Store(tmp_path).load("dev")
    assert (machine.name, machine.driver_name) == ("dev", "virtualbox")
    assert machine.driver["IPAddress"] == "192.168.99.100"
    assert machine.driver["StorePath"] == str(tmp_path)
    assert machine.auth.store_path == str(folder)
    assert machine.auth.cert_dir == str(tmp_path / "certs")
    assert machine.auth.ca_private_key_path == str(tmp_path / "certs" / "ca-key.pem")
    assert machine.auth.server_cert_path == str(folder / "server.pem")
    assert machine.ssh_key == folder / "id_rsa"
    assert (machine.swarm.master, machine.swarm.discovery) == (True, "token://1234")
    assert machine.engine.tls_verify
    if version:
        assert machine.engine.arbitrary_flags == ["log-driver=none"]


@pytest.mark.parametrize("version", RECORDS)
def test_records_are_saved_as_version_3_and_the_old_record_is_kept(tmp_path: Path, version: int) -> None:
    folder = write_record(tmp_path, RECORDS[version])
    before = (folder / "config.json").read_bytes()
    store = Store(tmp_path)
    store.save(store.load("dev"))
    record = json.loads((folder / "config.json").read_text())
    assert record["ConfigVersion"] == 3
    assert list(record["HostOptions"]["AuthOptions"])[-1:] != []
    assert store.load("dev") == store.load("dev")
    backup = folder / "config.json.bak"
    assert backup.exists() == (version < 3)
    if version < 3:
        assert backup.read_bytes() == before
        assert backup.stat().st_mode & 0o777 == 0o600


def test_loading_a_record_changes_no_file(tmp_path: Path) -> None:
    folder = write_record(tmp_path, RECORDS[1])
    Store(tmp_path).load("dev")
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def test_an_existing_backup_is_never_overwritten(tmp_path: Path) -> None:
    folder = write_record(tmp_path, RECORDS[0])
    (folder / "config.json.bak").write_text("older still")
    store = Store(tmp_path)
    store.save(store.load("dev"))
    assert (folder / "config.json.bak").read_text() == "older still"
    assert json.loads((folder / "config.json.bak.1").read_text()) == RECORDS[0]


@pytest.mark.parametrize("version", RECORDS)
def test_unknown_fields_survive_a_migration(tmp_path: Path, version: int) -> None:
    record = json.loads(json.dumps(RECORDS[version]))
    record["Novel"] = {"a": [1, None]}
    record["Driver"]["Novel"] = True
    record.setdefault("HostOptions", {}).setdefault("EngineOptions", {})["Novel"] = "x"
    folder = write_record(tmp_path, record)
    store = Store(tmp_path)
    store.save(store.load("dev"))
    written = json.loads((folder / "config.json").read_text())
    assert written["Novel"] == {"a": [1, None]}
    assert written["Driver"]["Novel"] is True
    assert written["HostOptions"]["EngineOptions"]["Novel"] == "x"


def test_saved_records_have_the_types_that_docker_machine_reads(tmp_path: Path) -> None:
    """Go refuses a record for one value of another type, so each field has the type of libmachine's structs."""
    folder = write_record(tmp_path, RECORDS[3])
    store = Store(tmp_path)
    machine = store.load("dev")
    machine.certificates_expire, machine.context = 1, "dev"
    store.save(machine)
    record = json.loads((folder / "config.json").read_text())
    kinds: dict[str, dict[str, type | tuple[type, ...]]] = {
        "EngineOptions": {
            **dict.fromkeys(("ArbitraryFlags", "Env", "InsecureRegistry", "Labels", "RegistryMirror"), list),
            **dict.fromkeys(("GraphDir", "LogLevel", "StorageDriver", "InstallURL"), str),
            **dict.fromkeys(("Ipv6", "SelinuxEnabled", "TlsVerify"), bool),
            "Dns": (list, type(None)),
        },
        "SwarmOptions": {
            **dict.fromkeys(("IsSwarm", "Agent", "Master", "IsExperimental"), bool),
            **dict.fromkeys(("Address", "Discovery", "Host", "Image", "Strategy"), str),
            **dict.fromkeys(("ArbitraryFlags", "ArbitraryJoinFlags"), list),
            "Heartbeat": int,
            "Overcommit": (int, float),
            "Env": (list, type(None)),
        },
        "AuthOptions": {
            **dict.fromkeys(("CertDir", "CaCertPath", "CaPrivateKeyPath", "CaCertRemotePath", "ServerCertPath"), str),
            **dict.fromkeys(("ServerKeyPath", "ClientKeyPath", "ServerCertRemotePath", "ServerKeyRemotePath"), str),
            **dict.fromkeys(("ClientCertPath", "StorePath"), str),
            "ServerCertSANs": list,
        },
    }
    assert type(record["ConfigVersion"]) is int
    for section, fields in kinds.items():
        for name, kind in fields.items():
            assert isinstance(record["HostOptions"][section][name], kind), f"{section}.{name}"


# -- moved stores ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["move", "copy"])
def test_paths_follow_a_store_that_was_moved_or_copied(tmp_path: Path, how: str) -> None:
    old, new = tmp_path / "old store", tmp_path / "new" / "store"
    record = json.loads(json.dumps(RECORDS[3]).replace(OLD, str(old)))
    write_record(old, record)
    new.parent.mkdir()
    if how == "move":
        old.rename(new)
    else:
        shutil.copytree(old, new)
    machine = Store(new).load("dev")
    assert str(old) not in json.dumps(machine.to_json())
    assert machine.ssh_key == new / "machines" / "dev" / "id_rsa"
    assert machine.driver["CaCertPath"] == str(new / "certs" / "ca.pem")
    assert machine.driver["SwarmHost"] == "tcp://0.0.0.0:3376"


def test_a_machine_folder_that_was_renamed_by_hand_gives_the_name(tmp_path: Path) -> None:
    record = json.loads(json.dumps(RECORDS[3]).replace(OLD, str(tmp_path)))
    folder = write_record(tmp_path, record, "other")
    machine = Store(tmp_path).load("other")
    assert machine.name == "other"
    assert machine.auth.store_path == str(folder)
    assert machine.ssh_key == folder / "id_rsa"


def test_paths_of_a_store_from_windows_are_converted() -> None:
    root = "C:\\Users\\ann\\.docker\\machine"
    record = json.loads(json.dumps(RECORDS[3]).replace(OLD, "C:/Users/ann/.docker/machine").replace("/", "\\\\"))
    assert record["Driver"]["StorePath"] == root
    healed = migrations.relocate(record, folder=Path("/home/ann/.docker/machine/machines/dev"))
    assert healed["Driver"]["SSHKeyPath"] == "/home/ann/.docker/machine/machines/dev/id_rsa"
    assert healed["HostOptions"]["AuthOptions"]["CaCertPath"] == "/home/ann/.docker/machine/certs/ca.pem"


def test_paths_outside_the_store_stay(tmp_path: Path) -> None:
    record = json.loads(json.dumps(RECORDS[3]))
    record["Driver"]["SSHKeyPath"] = "/etc/keys/id"
    record["HostOptions"]["AuthOptions"]["CaCertPath"] = f"{OLD}-other/ca.pem"
    healed = migrations.relocate(record, folder=tmp_path / "machines" / "dev")
    assert healed["Driver"]["SSHKeyPath"] == "/etc/keys/id"
    assert healed["HostOptions"]["AuthOptions"]["CaCertPath"] == f"{OLD}-other/ca.pem"


def test_a_record_in_its_original_place_is_unchanged() -> None:
    assert migrations.relocate(RECORDS[3], folder=Path(f"{OLD}/machines/dev")) == RECORDS[3]


# -- random records ----------------------------------------------------------------------------------------------

LEAVES = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=8) | st.sampled_from([OLD, f"{OLD}/machines/dev"])
)
ANY = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["ConfigVersion", "Driver", "DriverName", "HostOptions", "Name", "StorePath", "Endpoint", "CertificatesExpire"]
INNER = [
    "EngineOptions",
    "SwarmOptions",
    "AuthOptions",
    "StorePath",
    "CertDir",
    "Labels",
    "Address",
    "DockerPort",
    "Master",
]


@st.composite
def damaged_records(draw: st.DrawFn) -> Any:
    """A record of some version with some values replaced."""
    record: Any = json.loads(json.dumps(RECORDS[draw(st.sampled_from(sorted(RECORDS)))]))
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=3)):
        record[key] = draw(ANY | st.dictionaries(st.sampled_from(INNER), ANY, max_size=3))
    host = record.get("HostOptions")
    if isinstance(host, dict):
        for key in draw(st.lists(st.sampled_from(INNER), max_size=2)):
            host[key] = draw(ANY | st.dictionaries(st.sampled_from(INNER), ANY, max_size=3))
    return record


@given(damaged_records() | ANY)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_record_loads_or_is_a_record_error(record: Any) -> None:
    folder = Path("/srv/store/machines/dev")
    try:
        machine = Machine.from_json(record, name="dev", folder=folder)
    except RecordError as error:
        assert error.brief
        return
    again = json.loads(json.dumps(machine.to_json()))
    assert again["ConfigVersion"] == 3
    assert Machine.from_json(again, name="dev", folder=folder).to_json() == again


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
@settings(deadline=None)
def test_random_bytes_are_an_error_and_stay(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    root = tmp_path_factory.mktemp("store")
    folder = write_record(root, "")
    (folder / "config.json").write_bytes(data)
    with pytest.raises(PymachineError):
        Store(root).load("dev")
    assert (folder / "config.json").read_bytes() == data


@given(st.text(max_size=80))
@settings(deadline=None)
def test_any_name_is_unknown_in_an_empty_store(name: str) -> None:
    store = Store(Path("/nonexistent/store"))
    with pytest.raises(PymachineError):
        store.load(name)
    assert not store.exists(name)
