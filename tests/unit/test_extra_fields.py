"""Records that docker-machine saved without the fields that it does not know."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pymachine import __main__ as entry
from pymachine.driver.contract import Endpoint
from pymachine.driver.shares import Share
from pymachine.errors import RecordError
from pymachine.hosts.host import Hosts
from pymachine.hosts.rename import rename
from pymachine.store import extra_fields
from pymachine.store.origins import FLAG, Origin, Project
from pymachine.store.proxies import Proxies
from pymachine.store.record import Machine
from pymachine.store.store import Store
from support import fake_engine

# All that docker-machine 0.16.2 reads and writes; of its drivers, those that pymachine has too.
TOP = {"ConfigVersion", "Driver", "DriverName", "HostOptions", "Name"}
UUID = "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10"
BASE = {"IPAddress", "MachineName", "SSHUser", "SSHPort", "SSHKeyPath", "StorePath"}
BASE |= {"SwarmMaster", "SwarmHost", "SwarmDiscovery"}
DRIVERS = {
    "none": BASE | {"URL"},
    "generic": BASE | {"EnginePort", "SSHKey"},
    "virtualbox": BASE | {"CPU", "Memory", "DiskSize", "HostOnlyCIDR", "UIType", "NoShare"},
}


def rewrite(store: Store, name: str, **driver: Any) -> None:
    """Save the record of machine `name` as docker-machine does, with `driver` changed in its configuration."""
    path = store.machine_dir(name) / "config.json"
    record = {key: value for key, value in json.loads(path.read_text()).items() if key in TOP}
    known = DRIVERS[record["DriverName"]]
    record["Driver"] = {key: value for key, value in record["Driver"].items() if key in known} | driver
    path.unlink()
    path.write_text(json.dumps(record, indent=4))


def make_machine(name: str = "intro") -> Machine:
    return Machine(
        name=name,
        driver_name="virtualbox",
        driver={"IPAddress": "192.168.56.7", "MachineName": name, "CPU": 1, "VMUUID": UUID, "FixedAddress": True},
        endpoint=Endpoint("192.168.56.7", ssh_host="127.0.0.1", ssh_port=2222),
        certificates_expire=4102444800,
        context="intro",
        expires=4102444801,
        owner="ci",
        install_script="http://example.org/get",
        shares=[Share(path=Path("/data").absolute(), guest_path=PurePosixPath("/data"), read_only=True)],
        share_events=False,
        origins={"virtualbox-cpu-count": Origin(FLAG, "--virtualbox-cpu-count", 1)},
        project=Project(Path("/project/pymachine.toml").absolute()),
        socket=True,
        context_socket=True,
        ipv6_ports=True,
        proxies=Proxies("http://user:secret@proxy:3128", "", "localhost"),
        container_proxy=True,
        client_proxies=["tcp://192.168.56.7:2376"],
        ca_certificates=["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_no_field_of_pymachine_is_forgotten() -> None:
    machine = make_machine()
    machine.driver_program = "/opt/docker-machine"
    assert machine.to_json().keys() - TOP == set(extra_fields.KEYS)


def test_pymachines_fields_survive_docker_machine(store: Store) -> None:
    store.save(make_machine())
    rewrite(store, "intro")
    assert not {"Endpoint", "Expires"} & set(json.loads((store.machine_dir("intro") / "config.json").read_text()))
    assert store.load("intro") == make_machine()
    store.save(store.load("intro"))
    written = json.loads((store.machine_dir("intro") / "config.json").read_text())
    assert (written["Expires"], written["Owner"], written["Driver"]["VMUUID"]) == (4102444801, "ci", UUID)


def test_docker_machines_changes_win(store: Store) -> None:
    store.save(make_machine())
    rewrite(store, "intro", CPU=4)
    assert store.load("intro").driver == {**make_machine().driver, "CPU": 4}


def test_the_configuration_of_a_program_is_docker_machines_too(store: Store) -> None:
    """The program may have dropped a field on purpose."""
    machine = make_machine()
    machine.driver_program = ""
    store.save(machine)
    rewrite(store, "intro", CPU=4)
    found = store.load("intro")
    assert "VMUUID" not in found.driver
    extra = json.loads((store.machine_dir("intro") / "pymachine.json").read_text())
    assert extra["Driver"].keys() == {"IPAddress"}
    assert (found.driver["CPU"], found.driver_program, found.owner) == (4, "", "ci")


def test_a_changed_address_drops_the_endpoint_only(store: Store) -> None:
    store.save(make_machine())
    rewrite(store, "intro", IPAddress="192.168.56.9")
    found = store.load("intro")
    assert (found.endpoint, found.expires, found.context) == (None, 4102444801, "intro")


def test_new_certificates_drop_the_saved_expiry_date(store: Store) -> None:
    store.save(make_machine())
    rewrite(store, "intro")
    later = store.machine_dir("intro") / "server.pem"
    later.write_text("new")
    after = (store.machine_dir("intro") / "pymachine.json").stat().st_mtime + 60
    os.utime(later, (after, after))
    found = store.load("intro")
    assert (found.certificates_expire, found.expires) == (None, 4102444801)


def test_a_record_with_pymachines_fields_wins(store: Store) -> None:
    """The user, or a pymachine without this file, may have changed it."""
    store.save(make_machine())
    path = store.machine_dir("intro") / "config.json"
    record = json.loads(path.read_text())
    del record["Owner"]
    record["Expires"] = 1
    path.write_text(json.dumps(record))
    found = store.load("intro")
    assert (found.owner, found.expires) == ("", 1)


def test_cleared_fields_stay_cleared(store: Store) -> None:
    store.save(make_machine())
    store.save(Machine(name="intro", driver_name="virtualbox", driver={"IPAddress": "192.168.56.7"}))
    rewrite(store, "intro")
    found = store.load("intro")
    assert (found.expires, found.owner, found.endpoint, found.driver) == (None, "", None, {"IPAddress": "192.168.56.7"})


def test_an_older_store_works_without_the_extra_file(store: Store) -> None:
    store.save(make_machine())
    (store.machine_dir("intro") / "pymachine.json").unlink()
    assert store.load("intro") == make_machine()
    rewrite(store, "intro")
    assert store.load("intro").expires is None


def test_the_extra_file_is_private_and_written_only_when_it_changes(store: Store) -> None:
    store.save(make_machine())
    path = store.machine_dir("intro") / "pymachine.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.stat().st_ino
    store.save(make_machine())
    assert path.stat().st_ino == before


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_extra_file_is_named_with_a_remedy(store: Store, text: str) -> None:
    store.save(make_machine())
    path = store.machine_dir("intro") / "pymachine.json"
    path.write_text(text)
    assert store.load("intro") == make_machine()  # the record is whole
    rewrite(store, "intro")
    with pytest.raises(RecordError, match=str(path)) as refused:
        store.load("intro")
    assert "Remove that file" in refused.value.hint
    path.unlink()
    assert store.load("intro").driver_name == "virtualbox"


def test_a_renamed_machine_keeps_its_extra_fields(store: Store) -> None:
    with fake_engine.machine(store.root):
        machine = store.load("intro")
        machine.expires, machine.owner = 4102444800, "ci"
        store.save(machine)
        rename(Hosts(store), "intro", "other")
        rewrite(store, "other")
        found = store.load("other")
        assert (found.expires, found.owner, found.endpoint) == (4102444800, "ci", machine.endpoint)


def test_the_fast_path_of_env_still_works(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(store.root))
    monkeypatch.setenv("SHELL", "/bin/sh")
    with fake_engine.machine(store.root) as port:
        before = entry.quick_env(["pymachine", "env", "intro"])
        assert before is not None
        assert f"127.0.0.1:{port}" in before
        rewrite(store, "intro")
        assert entry.quick_env(["pymachine", "env", "intro"]) == before
        # The engine's address may differ now; the full path looks it up.
        rewrite(store, "intro", IPAddress="127.0.0.9")
        assert entry.quick_env(["pymachine", "env", "intro"]) is None


def test_a_time_to_live_still_applies(store: Store) -> None:
    program = Path(sys.executable).with_name("pymachine")

    def call(*words: str) -> str:
        argv = [str(program), "--storage-path", str(store.root), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout

    call("create", "-d", "none", "--url", "tcp://127.0.0.1:1", "--ttl", "2h", "short")
    call("create", "-d", "none", "--url", "tcp://127.0.0.1:1", "--ttl", "1h", "long")
    for name in ("short", "long"):
        rewrite(store, name)
    machine = store.load("short")
    assert machine.expires is not None
    machine.expires -= 3 * 3600
    store.save(machine)
    rewrite(store, "short")
    call("prune")
    assert call("ls", "-q") == "long\n"
