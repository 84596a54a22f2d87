"""Templates, snapshots, clones and expired machines, with drivers that record their calls."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from test_create_and_lifecycle import Remembering

from pymachine.docker.api import EngineError
from pymachine.driver import registry
from pymachine.driver.contract import BootRequest, Config, Driver, DriverInfo, Json, MachineRef, State, Trait
from pymachine.driver.kit.identity_channel import GuestReportedError
from pymachine.errors import (
    DriverError,
    MachineExistsError,
    MachineNotFoundError,
    PymachineError,
    StoreError,
    TemplateError,
    UnsupportedError,
    UsageError,
)
from pymachine.hosts import lifecycle, prune, snapshot_operations, snapshots, templates
from pymachine.hosts.build_template import build_template
from pymachine.hosts.clone import clone
from pymachine.hosts.create import CreateRequest, create
from pymachine.hosts.host import Host, Hosts
from pymachine.store.record import EngineOptions
from pymachine.store.store import Store
from pymachine.tls.certs import CertificateError
from pymachine.tls.handshake import CertificateRefusedError, TlsError
from support.reporters import RecordingReporter


class Copying(Remembering):
    """Has every ability; what was done stands in `done`, and what is in `broken` fails."""

    info = DriverInfo("remembering", "for tests", Remembering.info.traits)
    done: ClassVar[list[str]] = []
    broken: ClassVar[dict[str, int]] = {}
    machine_fault: ClassVar[list[BaseException]] = []

    def _do(self, step: str) -> None:
        self.done.append(step)
        if self.broken.get(step, 0) > 0:
            self.broken[step] -= 1
            raise (TemplateError if step == "resume" else DriverError)(f"{step} does not work")

    def create(self, request: BootRequest) -> None:
        self._do("cold")
        super().create(request)

    def remove(self) -> None:
        self._do("remove")
        super().remove()

    def template_shape(self, request: BootRequest) -> Mapping[str, Json]:
        return {"cpus": 2}

    def make_template(self, folder: Path, request: BootRequest) -> None:
        assert request.seed
        (folder / "state").write_bytes(b"s")
        self._do("freeze")

    def create_from_template(self, folder: Path, request: BootRequest) -> None:
        assert (folder / "state").read_bytes() == b"s"
        self.world[self.machine.name] = State.RUNNING
        self._do("resume")
        if self.machine_fault:
            raise self.machine_fault[0]

    def save_snapshot(self, folder: Path, *, memory: bool = True) -> Mapping[str, Json]:
        self._do("save")
        return {"Memory": memory and self.state() is State.RUNNING}

    def restore_snapshot(self, folder: Path, facts: Mapping[str, Json], request: BootRequest) -> None:
        self._do("restore")
        self.world[self.machine.name] = State.RUNNING if facts["Memory"] else State.STOPPED

    def copy_config(self, machine: MachineRef, siblings: Sequence[Config]) -> Config:
        return {"IPAddress": f"127.9.8.{len(siblings) + 1}", "CPU": self.config.get("CPU", 2)}

    def create_copy(self, source: Driver, request: BootRequest) -> None:
        self.world[self.machine.name] = State.RUNNING
        self._do(f"copy of {source.machine.name}")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    Copying.world.clear()
    Copying.fails.clear()
    Copying.done.clear()
    Copying.broken.clear()
    Copying.machine_fault.clear()
    monkeypatch.delenv("PYMACHINE_CACHE", raising=False)
    monkeypatch.setattr(registry, "load", lambda name: Copying)
    monkeypatch.setattr(Host, "wait_for_engine", lambda self, *, seconds: None)
    return Store(tmp_path)


def request(name: str = "intro", **changed: object) -> CreateRequest:
    return dataclasses.replace(CreateRequest(name=name, driver_name="remembering", options={}), **changed)  # type: ignore[arg-type]


# -- templates ---------------------------------------------------------------------------------------------------


def test_the_first_create_makes_a_template_that_every_create_resumes(store: Store) -> None:
    for name in ("a", "b"):
        create(Hosts(store), request(name))
    assert Copying.done == ["freeze", "resume", "resume"]


def test_without_templates_a_machine_boots(store: Store) -> None:
    create(Hosts(store), request(template=False))
    assert Copying.done == ["cold"]


def names_of_templates(store: Store) -> list[str]:
    return [template.name for template in templates.find_all(store.root)]


def test_a_template_that_does_not_resume_is_removed_if_the_machine_boots_without_it(store: Store) -> None:
    Copying.broken["resume"] = 1
    says = RecordingReporter()
    create(Hosts(store, reporter=says), request("a"))
    assert Copying.done == ["freeze", "resume", "remove", "cold"]
    assert any("does not resume (resume does not work): booting from power-on." in line for line in says.lines)
    assert names_of_templates(store) == []
    create(Hosts(store), request("b"))
    assert Copying.done[4:] == ["freeze", "resume"]


def test_a_template_is_kept_if_the_machine_also_fails_without_it(store: Store) -> None:
    """The host may be out of memory or a port taken: another template would not have helped."""
    create(Hosts(store), request("a"))
    before = names_of_templates(store)
    for name in ("b", "c", "d"):
        Copying.broken.update({"resume": 1, "cold": 1})
        with pytest.raises(DriverError, match="cold does not work"):
            create(Hosts(store), request(name))
        assert not store.exists(name)
    assert names_of_templates(store) == before
    Copying.done.clear()
    create(Hosts(store), request("e"))
    assert Copying.done == ["resume"]


@pytest.mark.parametrize(
    "fault",
    [
        GuestReportedError("the guest reports: the engine refuses its options: unknown flag: --x"),
        CertificateError("the CA is not valid before tomorrow"),
        CertificateRefusedError("127.0.0.1:2376", "x509: certificate is not yet valid"),
        UsageError("--engine-opt 'mtu=x': 'x' is not a number"),
        DriverError("127.0.0.1:2376 is in use by another program"),
        StoreError("No space left on device"),
        KeyboardInterrupt(),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_machine_error_fails_create_and_keeps_the_template(store: Store, fault: BaseException) -> None:
    create(Hosts(store), request("a"))
    before = names_of_templates(store)
    for name in ("b", "c", "d"):
        Copying.machine_fault.append(fault)
        Copying.done.clear()
        with pytest.raises(type(fault)):
            create(Hosts(store), request(name))
        assert Copying.done == ["resume", "remove"]
        assert not store.exists(name)
    assert names_of_templates(store) == before
    assert set(Copying.world) == {"a"}
    Copying.machine_fault.clear()
    create(Hosts(store), request("e"))
    assert Copying.done[-1] == "resume"


@pytest.mark.parametrize(
    ("fault", "then"),
    [
        (TlsError("127.0.0.1:2376", "dial tcp 127.0.0.1:2376: i/o timeout"), ["resume", "remove", "cold"]),
        (EngineError("127.0.0.1:2376 does not speak HTTP"), ["resume", "remove", "cold"]),
        (CertificateRefusedError("127.0.0.1:2376", "x509: certificate has expired"), ["resume", "remove"]),
    ],
)
def test_a_template_is_blamed_if_the_engine_does_not_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch, fault: PymachineError, then: list[str]
) -> None:
    traits = Copying.info.traits | Trait.IDENTITY
    monkeypatch.setattr(Copying, "info", dataclasses.replace(Copying.info, traits=traits))
    create(Hosts(store), request("a"))
    Copying.done.clear()
    faults = [fault]

    def wait_for_engine(self: Host, *, seconds: float) -> None:
        if faults:
            raise faults.pop()

    monkeypatch.setattr(Host, "wait_for_engine", wait_for_engine)
    with contextlib.suppress(CertificateRefusedError):
        create(Hosts(store), request("b"))
    assert Copying.done == then
    assert bool(names_of_templates(store)) == (then[-1] == "remove")


def test_a_shape_that_fails_twice_is_not_tried_until_a_template_build(store: Store) -> None:
    Copying.broken["resume"] = 9
    for name in ("a", "b"):
        Copying.done.clear()
        create(Hosts(store), request(name))
        assert Copying.done == ["freeze", "resume", "remove", "cold"]
        assert Copying.world[name] is State.RUNNING
    Copying.done.clear()
    create(Hosts(store), request("c"))
    assert Copying.done == ["cold"]
    Copying.broken.clear()
    assert build_template(Hosts(store), "remembering", {}).shape == {"cpus": 2}
    create(Hosts(store), request("d"))
    assert Copying.done[-1] == "resume"


def test_a_template_that_cannot_be_made_is_a_warning_and_the_machine_boots(store: Store) -> None:
    Copying.broken["freeze"] = 3
    says = RecordingReporter()
    create(Hosts(store, reporter=says), request("a"))
    assert Copying.done == ["freeze", "cold"]
    assert any("cannot be made (freeze does not work): booting from power-on." in line for line in says.lines)
    create(Hosts(store), request("b"))
    create(Hosts(store), request("c"))
    assert Copying.done[2:] == ["freeze", "cold", "cold"]


def test_a_template_is_tried_again_if_no_machine_could_boot(store: Store) -> None:
    for name in ("a", "b", "c"):
        Copying.broken.update({"freeze": 1, "cold": 1})
        with pytest.raises(DriverError, match="cold does not work"):
            create(Hosts(store), request(name))
    Copying.done.clear()
    create(Hosts(store), request("d"))
    assert Copying.done == ["freeze", "resume"]


def test_invalid_options_and_names_are_refused_before_any_work(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    traits = Copying.info.traits | Trait.IDENTITY
    monkeypatch.setattr(Copying, "info", dataclasses.replace(Copying.info, traits=traits))
    for changed, said in (
        ({"engine": EngineOptions(arbitrary_flags=["mtu=x"])}, "mtu=x"),
        ({"engine": EngineOptions(env=["A-B=1"])}, "A-B=1"),
        ({"sans": ("b\u00fccher.example",)}, "cher.example"),
    ):
        with pytest.raises(PymachineError, match=said):
            create(Hosts(store), request("a", **changed))
    assert Copying.done == []
    assert store.names() == []


def test_a_failed_create_leaves_nothing(store: Store) -> None:
    Copying.broken.update({"resume": 9, "cold": 1})
    with pytest.raises(DriverError, match="cold does not work"):
        create(Hosts(store), request())
    assert not store.exists("intro")
    assert Copying.world == {}


def test_a_driver_without_templates_refuses_template_build(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda name: Remembering)
    with pytest.raises(TemplateError, match="has no templates"):
        build_template(Hosts(store), "remembering", {})
    assert templates.find_all(store.root) == []


# -- snapshots and clones ----------------------------------------------------------------------------------------


def test_a_machine_runs_again_after_its_snapshot(store: Store) -> None:
    hosts = Hosts(store)
    create(hosts, request())
    snapshot_operations.save_snapshot(hosts, "intro", "warm")
    lifecycle.stop(hosts, "intro")
    snapshot_operations.save_snapshot(hosts, "intro", "cold")
    assert snapshot_operations.restore_snapshot(hosts, "intro", "warm") is State.RUNNING
    assert snapshot_operations.restore_snapshot(hosts, "intro", "cold") is State.STOPPED
    assert snapshot_operations.restore_snapshot(hosts, "intro", "warm", disk_only=True) is State.STOPPED
    snapshot_operations.remove_snapshot(hosts, "intro", "warm")
    assert [found.name for found in snapshots.find_all(store.machine_dir("intro"))] == ["cold"]
    with pytest.raises(snapshots.SnapshotError, match='no snapshot "warm"'):
        snapshot_operations.restore_snapshot(hosts, "intro", "warm")


def test_a_snapshot_is_removed_even_if_the_record_is_damaged(store: Store) -> None:
    hosts = Hosts(store)
    create(hosts, request())
    snapshot_operations.save_snapshot(hosts, "intro", "warm")
    (store.machine_dir("intro") / "config.json").write_text("{")
    snapshot_operations.remove_snapshot(hosts, "intro", "warm")
    assert snapshots.find_all(store.machine_dir("intro")) == []
    with pytest.raises(snapshots.SnapshotError, match='machine "nobody" has no snapshot "warm"'):
        snapshot_operations.remove_snapshot(hosts, "nobody", "warm")


def test_a_clone_has_its_own_identity(store: Store) -> None:
    hosts = Hosts(store)
    made = create(hosts, request(sans=("db.local",)))
    copy = clone(hosts, "intro", "second")
    assert Copying.done[-1] == "copy of intro"
    record = json.loads((store.machine_dir("second") / "config.json").read_text())
    assert record["Driver"]["MachineName"] == "second"
    assert record["Driver"]["StorePath"] == str(store.root)
    assert record["Endpoint"]["Address"] == "127.9.8.2"
    assert (copy.engine, copy.auth.server_cert_sans) == (made.engine, ["db.local"])
    assert (store.machine_dir("second") / "id_rsa").read_text() != (store.machine_dir("intro") / "id_rsa").read_text()


def test_a_failed_clone_leaves_nothing_and_the_machine_unchanged(store: Store) -> None:
    hosts = Hosts(store)
    create(hosts, request())
    before = (store.machine_dir("intro") / "config.json").read_bytes()
    Copying.broken["copy of intro"] = 1
    with pytest.raises(DriverError, match="does not work"):
        clone(hosts, "intro", "second")
    assert store.names() == ["intro"]
    assert (store.machine_dir("intro") / "config.json").read_bytes() == before
    with pytest.raises(MachineExistsError):
        clone(hosts, "intro", "intro")
    with pytest.raises(MachineNotFoundError):
        clone(hosts, "nobody", "third")
    with pytest.raises(PymachineError):
        clone(hosts, "intro", "../x")
    assert store.names() == ["intro"]


def test_drivers_without_snapshots_or_clones_refuse_them(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda name: Remembering)
    hosts = Hosts(store)
    create(hosts, request())
    with pytest.raises(UnsupportedError, match="does not support snapshots"):
        snapshot_operations.save_snapshot(hosts, "intro", "x")
    with pytest.raises(UnsupportedError, match="does not support copies"):
        clone(hosts, "intro", "second")
    assert store.names() == ["intro"]


# -- expired machines ---------------------------------------------------------------------------------------------


def test_a_machine_whose_time_to_live_ended_is_removed(store: Store) -> None:
    hosts, now = Hosts(store), int(time.time())
    for name, expires in (("late", now - 120), ("early", now + 3600), ("forever", None)):
        create(hosts, request(name, expires=expires))
    (expired,) = prune.find(store)
    assert (expired.name, expired.reason) == ("late", "its time to live ended 2 minutes ago")
    says = RecordingReporter()
    hosts = Hosts(store, reporter=says)
    assert prune.remove_expired(hosts, expired)
    assert says.lines == ['Removed "late": its time to live ended 2 minutes ago.']
    assert store.names() == ["early", "forever"]
    assert prune.remove_expired(hosts, expired)  # another process removed it first
    assert prune.find(store) == []


def test_a_machine_of_a_run_expires_when_the_run_is_gone(store: Store) -> None:
    create(Hosts(store), request(owner=prune.RUN))
    with prune.hold(store, "intro"):
        assert prune.find(store) == []
        with pytest.raises(TimeoutError):
            prune.hold(store, "intro")
    (expired,) = prune.find(store)
    assert expired.reason == "the run that it was made for is gone"


def test_an_expired_machine_that_cannot_be_removed_is_a_warning_and_stays(store: Store) -> None:
    create(Hosts(store), request(expires=1))
    Copying.broken["remove"] = 1
    says = RecordingReporter()
    (expired,) = prune.find(store)
    assert not prune.remove_expired(Hosts(store, reporter=says), expired)
    assert "Could not remove" in says.lines[0]
    assert store.names() == ["intro"]


def test_prune_continues_past_unreadable_records(store: Store) -> None:
    create(Hosts(store), request("late", expires=1))
    create(Hosts(store), request("broken", expires=1))
    (store.machine_dir("broken") / "config.json").write_text("{")
    assert [expired.name for expired in prune.find(store)] == ["late"]
