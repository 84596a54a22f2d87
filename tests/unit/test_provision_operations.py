"""Create, provision and remove an existing host: changes that are kept or undone, and the connection."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from pymachine.docker import api
from pymachine.driver import registry
from pymachine.driver.contract import (
    BootRequest,
    Config,
    Driver,
    DriverInfo,
    Endpoint,
    Health,
    Json,
    MachineRef,
    State,
    Trait,
)
from pymachine.driver.options import Option
from pymachine.errors import DriverError, HostNotRunningError, UnsupportedError
from pymachine.hosts import boot, connection, lifecycle
from pymachine.hosts.create import CreateRequest, create
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.provision import provision
from pymachine.hosts.remove import remove
from pymachine.provision import session
from pymachine.provision.errors import InterruptedStepError, SudoError
from pymachine.ssh.target import Target
from pymachine.store.record import EngineOptions, Machine
from pymachine.store.store import Store
from pymachine.system.progress import Silent
from pymachine.system.stream_reporter import StreamReporter
from pymachine.tls import certs
from pymachine.tls.handshake import TlsError

WAIT_FOR_ENGINE = Host.wait_for_engine


class Far(Driver):
    """A host that exists; `running` says whether it can be reached."""

    info = DriverInfo("far", "for tests", Trait.PROVISION | Trait.FIXED_ADDRESS)
    running = True

    @classmethod
    def options(cls) -> Sequence[Option]:
        return []

    @classmethod
    def health(cls) -> Health:
        return Health(usable=True)

    @classmethod
    def configure(cls, machine: MachineRef, options: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
        return {"IPAddress": "192.0.2.9", **options}

    def precreate_check(self) -> None:
        pass

    def create(self, request: BootRequest) -> None:
        pass

    def start(self, request: BootRequest) -> None:
        raise self.unsupported("start")

    def stop(self, timeout: float) -> None:
        pass

    def kill(self) -> None:
        pass

    def remove(self) -> None:
        pass

    def state(self) -> State:
        return State.RUNNING if self.running else State.STOPPED

    def endpoint(self) -> Endpoint:
        return Endpoint("192.0.2.9", ssh_user="admin", ssh_port=2222)


class Standalone(Far):
    info = DriverInfo("far", "for tests", Trait.FIXED_ADDRESS)


class Rented(Far):
    """A host that the driver makes, whose address may change."""

    info = DriverInfo("far", "for tests", Trait.PROVISION)
    address = "192.0.2.9"

    def start(self, request: BootRequest) -> None:
        type(self).running = True

    def endpoint(self) -> Endpoint:
        return Endpoint(self.address)


class FakeSession:
    """A replacement for the session; it fails before or after the host was changed."""

    def __init__(self) -> None:
        self.targets: list[Target] = []
        self.before: Exception | None = None
        self.after: Exception | None = None
        self.restored = 0

    @contextmanager
    def opened(self, target: Target, **_: Any) -> Iterator[FakeSession]:
        self.targets.append(target)
        yield self

    def provision(self, wanted: Any, *, before_changes: Callable[[], object] | None = None, **_: Any) -> None:
        assert wanted.certificates["server.pem"].startswith("-----BEGIN CERTIFICATE")
        if self.before:
            raise self.before
        if before_changes:
            before_changes()
        if self.after:
            raise self.after

    def restore(self) -> bool:
        self.restored += 1
        return True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSession:
    made = FakeSession()
    monkeypatch.setattr(session, "opened", made.opened)
    monkeypatch.setattr(registry, "load", lambda name: Far)
    monkeypatch.setattr(Far, "running", True)
    monkeypatch.setattr(Host, "wait_for_engine", lambda self, *, seconds: None)
    return made


@pytest.fixture
def hosts(tmp_path: Path, fake: FakeSession) -> Hosts:
    return Hosts(Store(tmp_path))


def create_far(hosts: Hosts, **options: str) -> None:
    create(hosts, CreateRequest(name="far", driver_name="far", options=options))


def test_a_create_that_fails_before_the_host_is_changed_leaves_nothing(hosts: Hosts, fake: FakeSession) -> None:
    fake.before = SudoError("no")
    with pytest.raises(SudoError, match="Error creating machine: Error running provisioning: no"):
        create_far(hosts)
    assert hosts.store.names() == []


@pytest.mark.parametrize("error", [InterruptedStepError("lost"), KeyboardInterrupt()])
def test_a_create_that_fails_on_the_host_can_be_finished_by_provision(
    hosts: Hosts, fake: FakeSession, error: Exception
) -> None:
    fake.after = error
    with pytest.raises(type(error)):
        create_far(hosts)
    assert hosts.store.names() == ["far"]
    fake.after = None
    provision(hosts, "far")


def test_an_interrupted_create_says_how_to_finish_it(tmp_path: Path, fake: FakeSession) -> None:
    said = io.StringIO()
    hosts = Hosts(Store(tmp_path), reporter=StreamReporter(said))
    for when in ("before", "after"):
        setattr(fake, when, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            create_far(hosts)
        setattr(fake, when, None)
        assert ("pymachine provision far" in said.getvalue()) is (when == "after")


class TestHostThatTheDriverMakes:
    @pytest.fixture(autouse=True)
    def _rented(self, fake: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "load", lambda name: Rented)
        monkeypatch.setattr(Rented, "running", True)
        monkeypatch.setattr(Rented, "address", "192.0.2.9")

    @pytest.mark.parametrize("error", [InterruptedStepError("lost"), KeyboardInterrupt()])
    def test_a_create_that_fails_leaves_nothing(self, tmp_path: Path, fake: FakeSession, error: Exception) -> None:
        """It would cost money."""
        said = io.StringIO()
        hosts = Hosts(Store(tmp_path), reporter=StreamReporter(said))
        fake.after = error
        with pytest.raises(type(error)):
            create_far(hosts)
        assert hosts.store.names() == []
        assert "pymachine provision" not in said.getvalue()

    def test_its_address_is_that_of_a_running_machine(self, hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
        create_far(hosts)
        assert connection.ip(hosts.open("far")) == "192.0.2.9"
        assert hosts.store.load("far").endpoint is None
        monkeypatch.setattr(Rented, "running", False)
        with pytest.raises(HostNotRunningError):
            connection.ip(hosts.open("far"))

    def test_a_new_address_after_a_start_gets_a_certificate(
        self, hosts: Hosts, fake: FakeSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create_far(hosts)
        certificate = hosts.store.machine_dir("far") / "server.pem"
        monkeypatch.setattr(Rented, "running", False)
        lifecycle.start(hosts, "far")
        assert len(fake.targets) == 1  # nothing has changed, so there was no login
        monkeypatch.setattr(Rented, "address", "192.0.2.10")
        monkeypatch.setattr(Rented, "running", False)
        lifecycle.start(hosts, "far")
        assert [target.host for target in fake.targets] == ["192.0.2.9", "192.0.2.10"]
        assert certs.is_for(certificate, "192.0.2.10")
        assert not certs.is_for(certificate, "192.0.2.9")


def test_the_wait_for_an_engine_behind_a_firewall_is_short(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Host, "wait_for_engine", WAIT_FOR_ENGINE)
    monkeypatch.setattr(boot, "PROVISIONED_SECONDS", 0.1)
    hidden = TlsError("192.0.2.9:2376", "dial tcp 192.0.2.9:2376: i/o timeout", hint="It does not answer.")
    monkeypatch.setattr(api, "ping", Mock(side_effect=hidden))
    with pytest.raises(TlsError) as caught:
        create_far(hosts)
    assert "port 2376 of the host: is it open to you in the host's firewall" in caught.value.hint
    assert "It does not answer." in caught.value.hint
    assert hosts.store.names() == ["far"]


def test_the_hosts_state_is_not_queried_at_every_attempt(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each query is a connection to its sshd, which blocks clients that make many."""
    monkeypatch.setattr(Host, "wait_for_engine", WAIT_FOR_ENGINE)
    refused = [TlsError("192.0.2.9:2376", "dial tcp 192.0.2.9:2376: connect: connection refused")] * 10
    monkeypatch.setattr(api, "ping", Mock(side_effect=[*refused, None]))
    state = Mock(return_value=State.RUNNING)
    monkeypatch.setattr(Far, "state", state)
    create_far(hosts)
    assert state.call_count < 5


def test_the_host_key_is_pinned_and_a_login_key_created(hosts: Hosts, fake: FakeSession) -> None:
    create_far(hosts)
    (target,) = fake.targets
    folder = hosts.store.machine_dir("far")
    assert target.learn
    assert target.known_hosts == folder / "known_hosts"
    assert target.key == folder / "id_rsa"
    assert (folder / "id_rsa.pub").exists()
    # Nobody but the host knows its host key.
    assert not (folder / "known_hosts").exists()
    assert not (folder / "ssh_host_ed25519_key").exists()


def test_a_driver_with_its_own_key_gets_none(hosts: Hosts) -> None:
    create_far(hosts, SSHKeyPath="/somewhere/key")
    assert not (hosts.store.machine_dir("far") / "id_rsa").exists()


def test_provision_needs_a_running_host(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    create_far(hosts)
    monkeypatch.setattr(Far, "running", False)
    with pytest.raises(HostNotRunningError):
        provision(hosts, "far")


def test_a_driver_without_provisioning_cannot_be_provisioned(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    create_far(hosts)
    monkeypatch.setattr(registry, "load", lambda name: Standalone)
    with pytest.raises(UnsupportedError, match="far driver does not support provision"):
        provision(hosts, "far")
    with pytest.raises(UnsupportedError, match="far driver does not support --restore"):
        remove(hosts, "far", restore=True)
    assert hosts.store.names() == ["far"]


def test_rm_changes_the_host_only_on_request(hosts: Hosts, fake: FakeSession) -> None:
    create_far(hosts)
    remove(hosts, "far")
    assert (fake.restored, len(fake.targets)) == (0, 1)
    create_far(hosts)
    remove(hosts, "far", restore=True)
    assert fake.restored == 1
    assert hosts.store.names() == []


def test_a_command_in_a_guest_that_fails_names_the_machine(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    create_far(hosts)
    # An SSH program that reaches no host.
    (tmp_path / "ssh").write_text("#!/bin/sh\necho 'ssh: connect to host: No route to host' >&2\nexit 255\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    driver = hosts.open("far").driver
    with pytest.raises(DriverError, match="SSH to far failed: ssh: connect to host: No route to host"):
        driver.run_in_guest(driver.endpoint(), "true")
    (tmp_path / "ssh").write_text("#!/bin/sh\necho 'not today' >&2\nexit 3\n")
    with pytest.raises(DriverError, match='a command on "far" failed with exit code 3: true') as caught:
        driver.run_in_guest(driver.endpoint(), "true")
    assert caught.value.details == "not today"


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"<html>", "is not a shell script"), (b"#!/bin/sh\n\xff\n", "is not text"), (b"#!" + b"x" * (1 << 20), "is not")],
)
def test_a_download_that_is_not_a_script_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, says: str
) -> None:
    from support import apt

    with apt.serving({"get.sh": content}) as server, pytest.raises(session.ProvisionError, match=says):
        session.fetch_script(f"{server.url}/get.sh", keep=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_script_that_cannot_be_fetched_is_named_by_its_url(tmp_path: Path) -> None:
    from support import apt

    with (
        apt.serving({}) as server,
        pytest.raises(session.ProvisionError, match=f"the install script {server.url}/get.sh cannot be fetched"),
    ):
        session.fetch_script(f"{server.url}/get.sh", keep=tmp_path / "kept")


def test_an_install_script_is_fetched_only_on_request(tmp_path: Path) -> None:
    machine = Machine("far", "far", {}, engine=EngineOptions(install_url="https://get.example.org"))
    assert session.install_script(machine, keep=tmp_path / "kept") is None


def test_fingerprints_are_written_as_openssh_does() -> None:
    """The expected value is from ssh-keygen -lf."""
    key = "AAAAC3NzaC1lZDI1NTE5AAAAIIHOeAOxXJpTtVLSUwYrCU1fHCnuCVbC2NPAVWrHHaRD"
    assert session.fingerprint(key) == FINGERPRINT


def test_the_session_waits_for_a_booting_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tries = []

    class Open:
        commands = 0

    @contextmanager
    def connected(target: Target, *, native: bool) -> Iterator[Open]:
        tries.append(target)
        if len(tries) < 3:
            raise session.UnreachableError("not yet")
        yield Open()

    monkeypatch.setattr(session, "connected", connected)
    monkeypatch.setattr(session, "RETRY_SECONDS", 0.01)
    target = Target("far", "192.0.2.9", 22, "root", None, tmp_path / "known_hosts", learn=True)
    with session.opened(target, reporter=Silent(), timeout=10):
        pass
    assert len(tries) == 3
    tries.clear()
    with pytest.raises(session.UnreachableError), session.opened(target, reporter=Silent(), timeout=0):
        pass


FINGERPRINT = "SHA256:cko0fi29oid/H0POb2+SPHjhPCaC8vDklfGZbWjNKXk"
