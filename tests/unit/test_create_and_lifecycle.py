"""The steps of create, start, stop and remove, with a driver that records its calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from pymachine.docker import contexts
from pymachine.driver import registry
from pymachine.driver.contract import (
    BootRequest,
    Config,
    DriverInfo,
    Json,
    MachineRef,
    State,
    Trait,
)
from pymachine.errors import (
    DriverError,
    HostNotRunningError,
    InvalidNameError,
    MachineExistsError,
    PrecreateError,
    UsageError,
    WrongStateError,
)
from pymachine.hosts import lifecycle
from pymachine.hosts.create import CreateRequest, create
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.remove import forget, remove
from pymachine.hosts.timeouts import boot_timeout
from pymachine.store.store import Store
from support.drivers import InMemory


class Remembering(InMemory):
    """Fails at the steps in `fails`."""

    info = DriverInfo("remembering", "for tests", Trait.FIXED_ADDRESS)
    fails: ClassVar[dict[str, BaseException]] = {}
    saved_before: ClassVar[list[bool]] = []

    @classmethod
    def configure(cls, machine: MachineRef, options: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
        cls._maybe_fail("configure")
        return super().configure(machine, options, siblings)

    @classmethod
    def _maybe_fail(cls, step: str) -> None:
        if step in cls.fails:
            raise cls.fails[step]

    def precreate_check(self) -> None:
        self._maybe_fail("precreate")

    def create(self, request: BootRequest) -> None:
        self.saved_before.append((self.machine.directory / "config.json").exists())
        self.world[self.machine.name] = State.RUNNING
        self._maybe_fail("create")
        self.config["Made"] = True

    def start(self, request: BootRequest) -> None:
        super().start(request)
        self._maybe_fail("start")

    def remove(self) -> None:
        self._maybe_fail("remove")
        super().remove()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    Remembering.world.clear()
    Remembering.fails.clear()
    Remembering.saved_before.clear()
    monkeypatch.setattr(registry, "load", lambda name: Remembering)
    # There is no engine behind this driver; the real handshake has tests with a real engine.
    monkeypatch.setattr(Host, "wait_for_engine", lambda self, *, seconds: None)
    return Store(tmp_path)


def request(name: str = "intro") -> CreateRequest:
    return CreateRequest(name=name, driver_name="remembering", options={})


def test_the_record_is_saved_before_the_machine_exists_with_docker_machines_fields(store: Store) -> None:
    create(Hosts(store), request())
    assert Remembering.saved_before == [True]
    record = json.loads((store.machine_dir("intro") / "config.json").read_text())
    assert record["Driver"]["Made"] is True
    assert record["Driver"]["MachineName"] == "intro"
    assert record["Driver"]["SSHKeyPath"] == str(store.machine_dir("intro") / "id_rsa")
    assert record["HostOptions"]["AuthOptions"]["StorePath"] == str(store.machine_dir("intro"))
    assert record["Endpoint"]["Address"] == "127.9.9.1"
    assert record["ConfigVersion"] == 3


def test_configure_gets_the_other_machines_so_that_addresses_differ(store: Store) -> None:
    create(Hosts(store), request("a"))
    made = create(Hosts(store), request("b"))
    assert made.driver["IPAddress"] == "127.9.9.2"


@pytest.mark.parametrize(
    ("step", "error", "expected", "text"),
    [
        (
            "configure",
            UsageError("bad value"),
            UsageError,
            "Error setting machine configuration from flags provided: bad",
        ),
        ("precreate", DriverError("no VT-x"), PrecreateError, 'Error with pre-create check: "no VT-x"'),
        (
            "create",
            DriverError("boom"),
            DriverError,
            "Error creating machine: Error in driver during machine creation: b",
        ),
        ("create", KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_a_create_that_fails_is_undone(
    store: Store, step: str, error: BaseException, expected: type[BaseException], text: str
) -> None:
    Remembering.fails[step] = error
    with pytest.raises(expected, match=text):
        create(Hosts(store), request())
    assert Remembering.world == {}
    assert store.names() == []


def test_a_machine_that_cannot_be_removed_stays_for_rm(store: Store) -> None:
    Remembering.fails["create"] = DriverError("boom")
    Remembering.fails["remove"] = DriverError("stuck")
    with pytest.raises(DriverError, match="boom"):
        create(Hosts(store), request())
    assert store.names() == ["intro"]
    del Remembering.fails["remove"]
    remove(Hosts(store), "intro")
    assert store.names() == []
    assert Remembering.world == {}


def test_a_second_machine_of_the_same_name_is_refused(store: Store) -> None:
    create(Hosts(store), request())
    with pytest.raises(MachineExistsError):
        create(Hosts(store), request())
    assert Remembering.world == {"intro": State.RUNNING}
    with pytest.raises(InvalidNameError):
        create(Hosts(store), request("../x"))


def test_actions_in_a_state_where_they_do_not_apply(store: Store) -> None:
    hosts = Hosts(store)
    create(hosts, request())
    with pytest.raises(WrongStateError, match='Machine "intro" is already running.'):
        lifecycle.start(hosts, "intro")
    lifecycle.stop(hosts, "intro")
    with pytest.raises(WrongStateError, match='Machine "intro" is already stopped.'):
        lifecycle.stop(hosts, "intro")
    with pytest.raises(HostNotRunningError, match="Host is not running"):
        hosts.open("intro").endpoint()
    lifecycle.restart(hosts, "intro")
    assert hosts.open("intro").state() is State.RUNNING
    lifecycle.kill(hosts, "intro")
    with pytest.raises(WrongStateError):
        lifecycle.kill(hosts, "intro")


@pytest.mark.parametrize("text", ["x", "-1", "0", "nan", "inf"])
def test_the_boot_timeout_must_be_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PYMACHINE_BOOT_TIMEOUT", text)
    with pytest.raises(UsageError, match="PYMACHINE_BOOT_TIMEOUT"):
        boot_timeout()


@pytest.mark.parametrize("removal", [remove, forget])
def test_a_docker_context_is_removed_before_its_record(
    store: Store, monkeypatch: pytest.MonkeyPatch, removal: Callable[[Hosts, str], None]
) -> None:
    """A kill in between leaves a machine that can still be removed, and no context without a machine."""
    create(Hosts(store), request())
    machine = store.load("intro")
    machine.context = "intro"
    store.save(machine)
    seen: list[tuple[str, bool]] = []
    monkeypatch.setattr(contexts, "remove", lambda name, *, machine: seen.append((name, store.exists(machine))))
    removal(Hosts(store), "intro")
    assert seen == [("intro", True)]
    assert not store.exists("intro")
