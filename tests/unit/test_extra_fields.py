"""Records that docker-machine wrote back without the fields that it does not know."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pymachine import __main__ as entry
from pymachine.driver.contract import Endpoint
from pymachine.errors import RecordError
from pymachine.hosts.host import Hosts
from pymachine.hosts.rename import rename
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
    """Write the record of machine `name` as docker-machine does, with `driver` changed in its configuration."""
    path = store.machine_dir(name) / "config.json"
    record = {key: value for key, value in json.loads(path.read_text()).items() if key in TOP}
    known = DRIVERS[record["DriverName"]]
    record["Driver"] = {key: value for key, value in record["Driver"].items() if key in known} | driver
    path.unlink()
    path.write_text(json.dumps(record, indent=4))


def full(name: str = "intro") -> Machine:
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
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_everything_of_ours_survives(store: Store) -> None:
    store.save(full())
    rewrite(store, "intro")
    assert not {"Endpoint", "Expires"} & set(json.loads((store.machine_dir("intro") / "config.json").read_text()))
    assert store.load("intro") == full()
    store.save(store.load("intro"))
    written = json.loads((store.machine_dir("intro") / "config.json").read_text())
    assert (written["Expires"], written["Owner"], written["Driver"]["VMUUID"]) == (4102444801, "ci", UUID)


def test_what_docker_machine_changed_is_as_it_wrote_it(store: Store) -> None:
    store.save(full())
    rewrite(store, "intro", CPU=4)
    assert store.load("intro").driver == {**full().driver, "CPU": 4}


def test_another_address_makes_the_endpoint_void_and_nothing_else(store: Store) -> None:
    store.save(full())
    rewrite(store, "intro", IPAddress="192.168.56.9")
    found = store.load("intro")
    assert (found.endpoint, found.expires, found.context) == (None, 4102444801, "intro")


def test_new_certificates_make_their_date_void(store: Store) -> None:
    store.save(full())
    rewrite(store, "intro")
    later = store.machine_dir("intro") / "server.pem"
    later.write_text("new")
    after = (store.machine_dir("intro") / "pymachine.json").stat().st_mtime + 60
    os.utime(later, (after, after))
    found = store.load("intro")
    assert (found.certificates_expire, found.expires) == (None, 4102444801)


def test_the_record_wins_while_it_has_fields_of_ours(store: Store) -> None:
    """As after a change by hand, or of a pymachine that has no such file."""
    store.save(full())
    path = store.machine_dir("intro") / "config.json"
    record = json.loads(path.read_text())
    del record["Owner"]
    record["Expires"] = 1
    path.write_text(json.dumps(record))
    found = store.load("intro")
    assert (found.owner, found.expires) == ("", 1)


def test_fields_that_were_cleared_stay_so(store: Store) -> None:
    store.save(full())
    store.save(Machine(name="intro", driver_name="virtualbox", driver={"IPAddress": "192.168.56.7"}))
    rewrite(store, "intro")
    found = store.load("intro")
    assert (found.expires, found.owner, found.endpoint, found.driver) == (None, "", None, {"IPAddress": "192.168.56.7"})


def test_a_store_of_before_needs_no_such_file(store: Store) -> None:
    store.save(full())
    (store.machine_dir("intro") / "pymachine.json").unlink()
    assert store.load("intro") == full()
    rewrite(store, "intro")
    assert store.load("intro").expires is None


def test_it_is_private_and_written_only_when_it_changes(store: Store) -> None:
    store.save(full())
    path = store.machine_dir("intro") / "pymachine.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.stat().st_ino
    store.save(full())
    assert path.stat().st_ino == before


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_damaged_copy_is_named_with_what_to_do(store: Store, text: str) -> None:
    store.save(full())
    path = store.machine_dir("intro") / "pymachine.json"
    path.write_text(text)
    assert store.load("intro") == full()  # the record is whole
    rewrite(store, "intro")
    with pytest.raises(RecordError, match=str(path)) as refused:
        store.load("intro")
    assert "Remove that file" in refused.value.hint
    path.unlink()
    assert store.load("intro").driver_name == "virtualbox"


def test_another_name_takes_it_along(store: Store) -> None:
    with fake_engine.machine(store.root):
        machine = store.load("intro")
        machine.expires, machine.owner = 4102444800, "ci"
        store.save(machine)
        rename(Hosts(store), "intro", "other")
        rewrite(store, "other")
        found = store.load("other")
        assert (found.expires, found.owner, found.endpoint) == (4102444800, "ci", machine.endpoint)


def test_the_short_path_of_env_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(store.root))
    monkeypatch.setenv("SHELL", "/bin/sh")
    with fake_engine.machine(store.root) as port:
        before = entry.quick_env(["pymachine", "env", "intro"])
        assert before is not None
        assert f"127.0.0.1:{port}" in before
        rewrite(store, "intro")
        assert entry.quick_env(["pymachine", "env", "intro"]) == before
        # The engine may be elsewhere now: the full path finds out where.
        rewrite(store, "intro", IPAddress="127.0.0.9")
        assert entry.quick_env(["pymachine", "env", "intro"]) is None


def test_a_time_to_live_still_ends(store: Store) -> None:
    program = Path(sys.executable).with_name("pymachine")

    def call(*words: str) -> str:
        argv = [program, "--storage-path", store.root, *words]
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
