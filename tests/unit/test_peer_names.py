"""The names of machines that reach each other, with a driver that has no guests and an SSH client that records."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from pymachine.driver import registry
from pymachine.driver.contract import DriverInfo, MachineRef, State, Trait
from pymachine.driver.kit import transactions
from pymachine.driver.testing import defaults, reference
from pymachine.errors import DriverError
from pymachine.hosts import lifecycle, peer_names
from pymachine.hosts.create import CreateRequest, create
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.remove import forget, remove
from pymachine.hosts.rename import rename
from pymachine.ssh.target import SshError, Target
from pymachine.store.store import Store
from pymachine.system import run
from pymachine_driver_virtualbox import Driver as VirtualBox
from support.drivers import InMemory
from support.reporters import RecordingReporter

PREFIX = f"[ ! -x {peer_names.SCRIPT} ] || sudo {peer_names.SCRIPT} "


class Reachable(InMemory):
    """Its machines reach each other, except for those with another network in `networks`."""

    info = DriverInfo("reachable", "for tests", Trait.FIXED_ADDRESS)
    networks: ClassVar[dict[str, str]] = {}
    fails: ClassVar[bool] = False

    def peer_network(self) -> str:
        return self.networks.get(self.machine.name, "one")

    def renamed(self, before: MachineRef) -> None:
        pass

    def create(self, request: object) -> None:
        self.world[self.machine.name] = State.RUNNING
        if self.fails:
            raise DriverError("boom")


class Unreachable(InMemory):
    info = DriverInfo("unreachable", "for tests", Trait.FIXED_ADDRESS)


class Guests:
    """The guests, in place of SSH: the names that each was sent last."""

    def __init__(self) -> None:
        self.names: dict[str, dict[str, str]] = {}
        self.timeouts: set[float | None] = set()
        self.silent: set[str] = set()
        self.refusing: set[str] = set()


class Client:
    def __init__(self, guests: Guests, name: str) -> None:
        self.guests = guests
        self.name = name

    def run(self, command: str, *, timeout: float | None = None) -> run.Result:
        if self.name in self.guests.silent:
            raise SshError("no answer")
        if self.name in self.guests.refusing:
            return run.Result((), 1, "", "no space left\n")
        words = shlex.split(command.removeprefix(PREFIX))
        self.guests.names[self.name] = dict(zip(words[1::2], words[::2], strict=True))
        self.guests.timeouts.add(timeout)
        return run.Result((), 0, "", "")


@pytest.fixture
def guests(monkeypatch: pytest.MonkeyPatch) -> Guests:
    found = Guests()

    def client(host: Host, target: Target) -> Client:
        assert target.host == host.record.driver["IPAddress"]
        return Client(found, host.name)

    monkeypatch.setattr(Host, "ssh", client)
    return found


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guests: Guests) -> Hosts:
    InMemory.world.clear()
    monkeypatch.setattr(Reachable, "networks", {})
    monkeypatch.setattr(registry, "load", lambda name: Unreachable if name == "unreachable" else Reachable)
    monkeypatch.setattr(Host, "wait_for_engine", lambda self, *, seconds: None)
    return Hosts(Store(tmp_path), reporter=RecordingReporter())


def warnings(hosts: Hosts) -> list[str]:
    assert isinstance(hosts.reporter, RecordingReporter)
    return [line for line in hosts.reporter.lines if "names" in line]


def make(hosts: Hosts, *names: str, driver: str = "reachable") -> None:
    for name in names:
        create(hosts, CreateRequest(name=name, driver_name=driver, options={}))


def test_a_new_machine_and_the_running_ones_get_the_names_of_all(hosts: Hosts, guests: Guests) -> None:
    make(hosts, "web")
    assert guests.names == {"web": {"web": "127.9.9.1"}}
    make(hosts, "db")
    both = {"web": "127.9.9.1", "db": "127.9.9.2"}
    assert guests.names == {"web": both, "db": both}
    assert guests.timeouts == {10.0}
    assert warnings(hosts) == []


def test_a_stopped_machine_keeps_its_name_and_gets_the_names_at_its_start(hosts: Hosts, guests: Guests) -> None:
    make(hosts, "web", "db")
    lifecycle.stop(hosts, "web")
    guests.names.clear()
    make(hosts, "cache")
    assert {name: set(known) for name, known in guests.names.items()} == {
        "db": {"web", "db", "cache"},
        "cache": {"web", "db", "cache"},
    }
    lifecycle.ensure_running(hosts, "web")
    assert guests.names["web"] == guests.names["db"]


def test_the_start_of_a_running_machine_sends_the_names_again(hosts: Hosts, guests: Guests) -> None:
    make(hosts, "web")
    guests.names.clear()
    lifecycle.ensure_running(hosts, "web")
    assert guests.names == {"web": {"web": "127.9.9.1"}}


@pytest.mark.parametrize("removal", [remove, forget])
def test_the_others_lose_the_name_of_a_removed_machine(
    hosts: Hosts, guests: Guests, removal: Callable[[Hosts, str], None]
) -> None:
    make(hosts, "web", "db")
    guests.names.clear()
    removal(hosts, "db")
    assert guests.names == {"web": {"web": "127.9.9.1"}}


def test_the_others_lose_the_name_of_a_machine_whose_create_failed(
    hosts: Hosts, guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(hosts, "web")
    monkeypatch.setattr(Reachable, "fails", True)
    guests.names["web"]["db"] = "from the create of another machine meanwhile"
    with pytest.raises(DriverError):
        make(hosts, "db")
    assert guests.names == {"web": {"web": "127.9.9.1"}}


def test_the_others_get_the_new_name_of_a_machine(hosts: Hosts, guests: Guests) -> None:
    make(hosts, "web", "db")
    lifecycle.stop(hosts, "db")
    guests.names.clear()
    rename(hosts, "db", "store")
    assert guests.names == {"web": {"web": "127.9.9.1", "store": "127.9.9.2"}}


def test_only_machines_of_one_network_and_driver_get_each_others_names(hosts: Hosts, guests: Guests) -> None:
    Reachable.networks.update({"far": "two", "moving": ""})
    make(hosts, "web", "far", "moving", "db")
    make(hosts, "alone", driver="unreachable")
    assert {name: set(known) for name, known in guests.names.items()} == {
        "web": {"web", "db"},
        "db": {"web", "db"},
        "far": {"far"},
    }


def test_a_machine_that_does_not_answer_is_no_problem_of_another(hosts: Hosts, guests: Guests) -> None:
    make(hosts, "web", "db")
    guests.silent.add("web")
    make(hosts, "cache")
    assert set(guests.names["db"]) == {"web", "db", "cache"}
    assert warnings(hosts) == []
    lifecycle.restart(hosts, "web")
    assert warnings(hosts) == ['"web" does not know the current names of other machines: no answer']


def test_a_machine_that_refuses_the_names_is_a_warning(hosts: Hosts, guests: Guests) -> None:
    make(hosts, "web")
    guests.refusing.add("web")
    make(hosts, "db")
    assert set(guests.names["db"]) == {"web", "db"}
    assert warnings(hosts) == ['"web" does not know the current names of other machines: no space left']


def test_a_machine_that_another_command_is_booting_is_left_to_it(hosts: Hosts, guests: Guests) -> None:
    make(hosts, "web")
    transactions.note(hosts.store.machine_dir("web"), transactions.BOOT)
    guests.names.clear()
    make(hosts, "db")
    assert guests.names == {"db": {"web": "127.9.9.1", "db": "127.9.9.2"}}


def test_machines_without_a_usable_name_or_record_are_left_out(hosts: Hosts, guests: Guests) -> None:
    make(hosts, "web", "localhost", "host.docker.internal", "a--b-", "broken")
    (hosts.store.machine_dir("broken") / "config.json").write_text("{")
    make(hosts, "db")
    assert set(guests.names["db"]) == {"web", "db"}
    assert guests.names["localhost"] == guests.names["db"]
    assert warnings(hosts) == []


def test_a_store_whose_lock_cannot_be_had_is_a_warning(
    hosts: Hosts, guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymachine.store.locks._NAMES_SECONDS", 0.1)
    with hosts.store.sending_names():
        make(hosts, "web")
    assert guests.names == {}
    assert len(warnings(hosts)) == 1


def test_other_drivers_do_not_load_the_module(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pymachine.hosts.peer_names")
    make(hosts, "alone", driver="unreachable")
    remove(hosts, "alone")
    assert "pymachine.hosts.peer_names" not in sys.modules


def test_machines_of_virtualbox_reach_each_other_in_their_host_only_network(tmp_path: Path) -> None:
    def network(**changed: object) -> str:
        ref = reference(tmp_path)
        return VirtualBox(ref, {**VirtualBox.configure(ref, defaults(VirtualBox), []), **changed}).peer_network()

    assert network() == network(HostOnlyCIDR="192.168.56.9/24") == "192.168.56.0/24"
    assert network(HostOnlyCIDR="192.168.57.1/24") == "192.168.57.0/24"
    assert network(FixedAddress=False) == "", "docker-machine's machines have their addresses by DHCP"
