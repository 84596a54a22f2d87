"""Changes to existing machines, exports and imports, with a driver that records its calls."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pymachine.cli import main as main_module
from pymachine.driver import registry
from pymachine.driver.abilities import HardwareChange, PortableField
from pymachine.driver.contract import (
    BootRequest,
    Config,
    Driver,
    DriverInfo,
    Endpoint,
    ImageFiles,
    ImageRequest,
    Json,
    MachineRef,
    State,
    Trait,
)
from pymachine.errors import (
    DriverError,
    DriverNotFoundError,
    InvalidNameError,
    MachineExistsError,
    MachineNotFoundError,
    PymachineError,
    UnsupportedError,
    UsageError,
    WrongStateError,
)
from pymachine.hosts import certificates, lifecycle, modify as modify_module
from pymachine.hosts.archive_format import ExportError
from pymachine.hosts.create import CreateRequest, create
from pymachine.hosts.export import export, export_connection
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.import_ import import_
from pymachine.hosts.modify import Changes, modify
from pymachine.hosts.rename import rename
from pymachine.hosts.upgrade import upgrade
from pymachine.image import provide
from pymachine.ssh.target import Target
from pymachine.store.origins import Origin
from pymachine.store.proxies import Proxies
from pymachine.store.store import Store
from pymachine.system import files as files_module
from pymachine.system.run import Result
from pymachine.tls.certs import CertificateError
from support import archives
from support.drivers import InMemory
from support.reporters import RecordingReporter

VALIDATE = modify_module._validate
NAME = "intro"


class Bare(InMemory):
    """Has none of the abilities."""

    info = DriverInfo("bare", "for tests", Trait.IDENTITY | Trait.FIXED_ADDRESS)
    fails: ClassVar[dict[str, list[BaseException]]] = {}
    identities: ClassVar[list[bytes]] = []

    @classmethod
    def configure(cls, machine: MachineRef, options: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
        return {**super().configure(machine, options, siblings), "Memory": 1024, "Image": "first"}

    def maybe_fail(self, step: str) -> None:
        if self.fails.get(step):
            raise self.fails[step].pop(0)

    def start(self, request: BootRequest) -> None:
        self.maybe_fail("start")
        self.identities.append(request.identity(self.endpoint()))
        super().start(request)


class Able(Bare):
    """Has all of them."""

    info = DriverInfo("able", "for tests", Bare.info.traits)

    def apply_identity(self, request: BootRequest) -> None:
        self.identities.append(request.identity(self.endpoint()))
        self.maybe_fail("apply")

    def check_resize(self, change: HardwareChange) -> None:
        self.maybe_fail("check")

    def resize(self, change: HardwareChange) -> None:
        self.maybe_fail("resize")
        assert self.state() is State.STOPPED
        self.config["Memory"] = change.memory_mib

    def renamed(self, before: MachineRef) -> None:
        assert not before.directory.exists()
        assert self.machine.directory.exists()
        self.maybe_fail("renamed")

    def exported(self) -> Sequence[str]:
        if not (self.machine.directory / "disk").exists():
            raise DriverError("no disk")
        return ["disk"]

    @classmethod
    def portable_fields(cls) -> Mapping[str, PortableField | None]:
        return {
            "Memory": PortableField(kind=int, least=512, most=4096),
            "Image": PortableField(kind=str, pattern="[a-z]+"),
        }

    def portable_files(self) -> Mapping[str, int]:
        return {"disk": 1000}

    def imported(self, siblings: Sequence[Config]) -> None:
        self.maybe_fail("imported")
        self.config["IPAddress"] = f"127.9.9.{len(siblings) + 1}"

    def image_request(self) -> ImageRequest:
        return ImageRequest()

    def image_digest(self) -> str:
        return str(self.config["Image"])

    def swap_image(self, image: ImageFiles) -> None:
        self.config["Old"] = self.config["Image"]
        self.maybe_fail("swap")
        self.config["Image"] = image.digest

    def commit_image(self) -> None:
        del self.config["Old"]

    def rollback_image(self) -> None:
        self.config["Image"] = self.config.pop("Old")


class Foreign(Bare):
    """A driver of others that can be exported, and declares no fields."""

    info = DriverInfo("foreign", "for tests", Bare.info.traits)

    def exported(self) -> Sequence[str]:
        return ["disk"]

    def imported(self, siblings: Sequence[Config]) -> None:
        self.config["IPAddress"] = f"127.9.9.{len(siblings) + 1}"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    for known in (Bare.world, Bare.fails, Bare.identities):
        known.clear()
    kinds = {"bare": Bare, "able": Able, "foreign": Foreign}

    def load(name: str) -> type[Driver]:
        if name not in kinds:
            raise DriverNotFoundError(name)
        return kinds[name]

    monkeypatch.setattr(registry, "load", load)
    monkeypatch.setattr(registry, "names", lambda: sorted(kinds))
    # There is no engine behind these drivers; with a real one the tests with a machine do all this again.
    monkeypatch.setattr(Host, "wait_for_engine", lambda self, *, seconds: None)
    monkeypatch.setattr("pymachine.hosts.modify._validate", lambda host, options: None)
    image = ImageFiles("first", "amd64", Path("/i"), Path("/k"), Path("/r"))
    monkeypatch.setattr("pymachine.image.provide.find_or_build", lambda request, *, store, reporter: image)
    return Store(tmp_path / "store")


def create_machine(store: Store, driver: str = "able", name: str = NAME) -> Hosts:
    hosts = Hosts(store)
    create(hosts, CreateRequest(name=name, driver_name=driver, options={}))
    return hosts


def files(store: Store, name: str = NAME) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.machine_dir(name).iterdir() if path.is_file()}


# -- certificates ------------------------------------------------------------------------------------------------


def test_new_certificates_reach_a_running_machine(store: Store) -> None:
    hosts = create_machine(store)
    before = files(store)
    certificates.regenerate(hosts, NAME)
    after = files(store)
    assert after["server.pem"] != before["server.pem"]
    assert after["server.pem"] in Bare.identities[-1]
    assert (after["ca.pem"], after["cert.pem"]) == (before["ca.pem"], before["cert.pem"])
    assert store.load(NAME).certificates_expire


def test_a_new_authority_reaches_a_running_machine(store: Store) -> None:
    hosts = create_machine(store)
    before = files(store)
    certificates.renew_authority(hosts)
    certificates.regenerate(hosts, NAME)
    after = files(store)
    assert all(after[name] != before[name] for name in ("ca.pem", "cert.pem", "key.pem", "server.pem"))
    assert (store.root / "certs" / "ca.pem.old").read_bytes() == before["ca.pem"]
    assert (store.root / "certs" / "key.pem.old").read_bytes() == before["key.pem"]


def authority(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (store.root / "certs").glob("*.pem")}


def certificate_files(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.machine_dir(NAME).glob("*.pem")}


@pytest.mark.parametrize("why", ["no engine of ours", "no driver", "does not answer"])
def test_no_new_authority_is_made_for_a_machine_that_cannot_use_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: str
) -> None:
    create_machine(store)
    before = authority(store), certificate_files(store)
    words = ["regenerate-certs", "-f", "--client-certs", NAME]
    if why == "no engine of ours":
        monkeypatch.setattr(Able, "info", DriverInfo("able", "for tests", Trait.FIXED_ADDRESS))
    elif why == "no driver":
        monkeypatch.setattr(registry, "load", lambda name: (_ for _ in ()).throw(DriverNotFoundError(name)))
    else:
        Bare.fails["apply"] = [DriverError("no"), DriverError("no")]
    monkeypatch.setattr(main_module.signals, "exit_on_termination", lambda: None)
    assert main_module.main(["pymachine", "--storage-path", str(store.root), *words]) == 1
    assert (authority(store), certificate_files(store)) == before
    said = capsys.readouterr().out
    assert ("Creating CA" in said) == (why == "does not answer")
    Bare.fails.clear()
    monkeypatch.undo()


def test_a_new_authority_stays_once_one_machine_has_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = create_machine(store)
    before = authority(store)
    with pytest.raises(DriverError), certificates.renewed_authority(hosts) as keep:
        certificates.regenerate(hosts, NAME)
        keep()
        raise DriverError("another one cannot")
    assert authority(store)["ca.pem"] != before["ca.pem"]
    assert files(store)["ca.pem"] == authority(store)["ca.pem"]


def test_the_users_own_ca_is_never_replaced(store: Store, tmp_path: Path) -> None:
    create_machine(store)
    theirs = tmp_path / "theirs.pem"
    theirs.write_bytes((store.root / "certs" / "ca.pem").read_bytes())
    key = store.root / "certs" / "ca-key.pem"
    certificates.renew_authority(Hosts(store, authority={"ca_cert": theirs, "ca_key": key}))
    assert theirs.read_bytes() == (store.root / "certs" / "ca.pem").read_bytes()
    assert not theirs.with_name("theirs.pem.old").exists()


def test_a_stopped_machine_gets_new_certificates_when_it_starts(store: Store) -> None:
    hosts = create_machine(store)
    lifecycle.stop(hosts, NAME)
    certificates.regenerate(hosts, NAME)
    new = files(store)["server.pem"]
    lifecycle.start(hosts, NAME)
    assert new in Bare.identities[-1]
    assert files(store)["server.pem"] == new


def test_the_old_certificates_stay_if_the_guest_refuses_new_ones(store: Store) -> None:
    hosts = create_machine(store)
    before = files(store)
    Bare.fails["apply"] = [DriverError("no")]
    with pytest.raises(DriverError, match="no"):
        certificates.regenerate(hosts, NAME)
    after = files(store)
    assert {name: after[name] for name in before if name != "config.json"} == {
        name: content for name, content in before.items() if name != "config.json"
    }
    assert before["server.pem"] in Bare.identities[-1]


def test_a_full_disk_leaves_the_certificates_unchanged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = create_machine(store)
    lifecycle.stop(hosts, NAME)
    before = certificate_files(store)
    write = files_module.atomic_write

    def until_full(path: Path, data: bytes | str, **options: Any) -> None:
        if path.name in ("config.json", "pymachine.json"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data, **options)

    monkeypatch.setattr(files_module, "atomic_write", until_full)
    with pytest.raises(PymachineError, match="No space left"):
        certificates.regenerate(hosts, NAME)
    assert certificate_files(store) == before


def test_start_renews_certificates_that_expire_soon(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymachine.tls import certs

    monkeypatch.setattr(certs, "VALID_DAYS", 20)
    hosts = create_machine(store)
    lifecycle.stop(hosts, NAME)
    before = files(store)
    monkeypatch.setattr(certs, "VALID_DAYS", 1080)
    lifecycle.start(hosts, NAME)
    after = files(store)
    assert all(after[name] != before[name] for name in ("ca.pem", "cert.pem", "server.pem"))
    assert store.load(NAME).certificates_expire == int(certs.first_expiry(store.machine_dir(NAME)).timestamp())


def test_without_the_ability_a_running_machine_is_refused(store: Store) -> None:
    hosts = create_machine(store, "bare")
    before = files(store)
    with pytest.raises(UnsupportedError, match="bare driver does not support new certificates"):
        certificates.regenerate(hosts, NAME)
    assert files(store)["server.pem"] == before["server.pem"]
    lifecycle.stop(hosts, NAME)
    certificates.regenerate(hosts, NAME)
    assert files(store)["server.pem"] != before["server.pem"]


# -- modify ------------------------------------------------------------------------------------------------------


def test_engine_options_change_at_once(store: Store) -> None:
    hosts = create_machine(store)
    modify(hosts, NAME, Changes(engine={"labels": ["a=b"], "storage_driver": "vfs"}))
    options = store.load(NAME).engine
    assert (options.labels, options.storage_driver) == (["a=b"], "vfs")
    assert b'"a=b"' in Bare.identities[-1]
    assert Bare.world[NAME] is State.RUNNING


def test_modify_checks_engine_options_over_native_ssh_if_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    create_machine(store)
    native_clients: list[bool] = []

    class FakeClient:
        def __init__(self, target: Target, *, native: bool = False) -> None:
            native_clients.append(native)

        def run(self, command: str, **options: object) -> Result:
            return Result((command,), 0, "", "")

    monkeypatch.setattr("pymachine.ssh.client.Client", FakeClient)
    monkeypatch.setattr("pymachine.hosts.modify._validate", VALIDATE)
    modify(Hosts(store, native_ssh=True), NAME, Changes(engine={"labels": ["a=b"]}))
    assert native_clients == [True]


def test_server_names_in_the_certificate_change_at_once(store: Store) -> None:
    hosts = create_machine(store)
    before = files(store)["server.pem"]
    modify(hosts, NAME, Changes(sans=["other.example"]))
    assert store.load(NAME).auth.server_cert_sans == ["other.example"]
    assert files(store)["server.pem"] != before


def test_hardware_is_changed_while_the_machine_is_stopped(store: Store) -> None:
    hosts = create_machine(store)
    change = Changes(hardware=HardwareChange(memory_mib=2048))
    with pytest.raises(WrongStateError, match="can only change while it is stopped"):
        modify(hosts, NAME, change)
    assert store.load(NAME).driver["Memory"] == 1024
    modify(hosts, NAME, change, restart=True)
    assert store.load(NAME).driver["Memory"] == 2048
    assert Bare.world[NAME] is State.RUNNING
    lifecycle.stop(hosts, NAME)
    modify(hosts, NAME, Changes(hardware=HardwareChange(memory_mib=4096)))
    assert store.load(NAME).driver["Memory"] == 4096
    assert Bare.world[NAME] is State.STOPPED


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        (Changes(engine={"env": ["no equals sign"]}), UsageError),
        (Changes(engine={"arbitrary_flags": ["mtu=many"]}), UsageError),
    ],
)
def test_invalid_values_change_nothing(store: Store, changes: Changes, error: type[Exception]) -> None:
    hosts = create_machine(store)
    before = files(store)
    with pytest.raises(error):
        modify(hosts, NAME, changes)
    assert files(store) == before
    assert len(Bare.identities) == 1


def test_settings_that_a_machine_has_already_need_no_stop(store: Store) -> None:
    hosts = create_machine(store, "bare")
    changes = Changes(proxies=Proxies(), ipv6_ports=False)
    modify(hosts, NAME, changes)
    assert len(Bare.identities) == 1
    assert store.load(NAME).origins["no-host-proxy"].kind == "modify"
    with pytest.raises(WrongStateError):
        modify(hosts, NAME, Changes(proxies=Proxies("http://proxy")))


def test_a_change_that_fails_is_undone(store: Store) -> None:
    hosts = create_machine(store)
    Bare.fails["apply"] = [DriverError("engine did not start")]
    with pytest.raises(DriverError, match="did not start"):
        modify(hosts, NAME, Changes(engine={"labels": ["a=b"]}))
    assert store.load(NAME).engine.labels == []
    assert b"a=b" not in Bare.identities[-1]
    lifecycle.stop(hosts, NAME)
    Bare.fails["resize"] = [UsageError("a disk cannot shrink")]
    with pytest.raises(UsageError):
        modify(hosts, NAME, Changes(hardware=HardwareChange(disk_mb=1), engine={"labels": ["a=b"]}))
    assert store.load(NAME).engine.labels == []


def test_a_change_that_fails_is_undone_in_all_fields_of_the_record(store: Store) -> None:
    hosts = create_machine(store)
    record = store.load(NAME)
    record.socket = record.context_socket = True
    record.origins = {"socket": Origin("flag", "--socket")}
    store.save(record)
    before = store.load(NAME)
    Bare.fails["apply"] = [DriverError("engine did not start")]
    changes = Changes(engine={"labels": ["a=b"]}, socket=False, container_proxy=True, sans=["x"])
    with pytest.raises(DriverError, match="did not start"):
        modify(hosts, NAME, changes)
    assert store.load(NAME) == before


def test_a_machine_runs_again_if_its_change_fails(store: Store) -> None:
    hosts = create_machine(store)
    Bare.fails["check"] = [UsageError("a disk cannot shrink")]
    with pytest.raises(UsageError):
        modify(hosts, NAME, Changes(hardware=HardwareChange(disk_mb=1)), restart=True)
    assert len(Bare.identities) == 1  # it was not even stopped
    Bare.fails["resize"] = [DriverError("disk full")]
    with pytest.raises(DriverError):
        modify(hosts, NAME, Changes(hardware=HardwareChange(disk_mb=1)), restart=True)
    assert Bare.world[NAME] is State.RUNNING
    Bare.fails["start"] = [DriverError("not enough memory")]
    with pytest.raises(DriverError, match="not enough memory"):
        modify(
            hosts, NAME, Changes(hardware=HardwareChange(memory_mib=1 << 20), engine={"labels": ["a=b"]}), restart=True
        )
    assert Bare.world[NAME] is State.RUNNING
    assert store.load(NAME).driver["Memory"] == 1024
    assert store.load(NAME).engine.labels == []


def test_a_driver_without_the_ability_refuses_modify(store: Store) -> None:
    hosts = create_machine(store, "bare")
    with pytest.raises(UnsupportedError, match="other hardware"):
        modify(hosts, NAME, Changes(hardware=HardwareChange(cpus=1)))
    with pytest.raises(WrongStateError):
        modify(hosts, NAME, Changes(engine={"labels": ["a=b"]}))
    modify(hosts, NAME, Changes(engine={"labels": ["a=b"]}), restart=True)
    assert b'"a=b"' in Bare.identities[-1]


# -- rename ------------------------------------------------------------------------------------------------------


def test_a_stopped_machine_is_renamed_with_its_paths_and_host_key(store: Store) -> None:
    hosts = create_machine(store)
    with pytest.raises(WrongStateError, match="must be stopped"):
        rename(hosts, NAME, "new")
    lifecycle.stop(hosts, NAME)
    before = files(store)
    rename(hosts, NAME, "new")
    assert store.names() == ["new"]
    machine = store.load("new")
    folder = store.machine_dir("new")
    assert machine.driver["MachineName"] == "new"
    assert (machine.ssh_key, machine.auth.store_path) == (folder / "id_rsa", str(folder))
    assert (folder / "known_hosts").read_text().startswith("new ssh-ed25519 ")
    assert files(store, "new")["id_rsa"] == before["id_rsa"]
    lifecycle.start(hosts, "new")
    assert b"new\n" in Bare.identities[-1]
    assert str(folder) in (folder / "config.json").read_text()
    assert NAME not in json.dumps(json.loads((folder / "config.json").read_text()))


@pytest.mark.parametrize(
    ("new", "error"), [("../x", InvalidNameError), (NAME, MachineExistsError), ("taken", MachineExistsError)]
)
def test_invalid_new_names_are_refused(store: Store, new: str, error: type[Exception]) -> None:
    hosts = create_machine(store)
    create_machine(store, name="taken")
    lifecycle.stop(hosts, NAME)
    with pytest.raises(error):
        rename(hosts, NAME, new)
    assert store.names() == [NAME, "taken"]
    with pytest.raises(MachineNotFoundError):
        rename(hosts, "nosuch", "new")


def test_a_rename_that_fails_is_undone(store: Store) -> None:
    hosts = create_machine(store)
    lifecycle.stop(hosts, NAME)
    before = files(store)
    Bare.fails["renamed"] = [DriverError("no")]
    with pytest.raises(DriverError):
        rename(hosts, NAME, "new")
    assert store.names() == [NAME]
    assert files(store) == before


def test_a_driver_without_the_ability_refuses_rename(store: Store) -> None:
    hosts = create_machine(store, "bare")
    lifecycle.stop(hosts, NAME)
    with pytest.raises(UnsupportedError):
        rename(hosts, NAME, "new")


# -- upgrade -----------------------------------------------------------------------------------------------------


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> ImageFiles:
    image = ImageFiles("second", "amd64", Path("/i"), Path("/k"), Path("/r"))
    monkeypatch.setattr(provide, "refresh", lambda request, *, store, reporter: image)
    return image


def test_upgrade_replaces_the_image(store: Store, newer: ImageFiles) -> None:
    create_machine(store)
    heard = RecordingReporter()
    upgrade(Hosts(store, reporter=heard), NAME)
    assert store.load(NAME).driver["Image"] == "second"
    assert "Old" not in store.load(NAME).driver
    assert Bare.world[NAME] is State.RUNNING
    assert heard.lines[:4] == [
        "Upgrading docker...",
        "Stopping machine to do the upgrade...",
        f'Upgrading machine "{NAME}"...',
        "Starting machine back up...",
    ]
    heard.lines.clear()
    upgrade(Hosts(store, reporter=heard), NAME)
    assert heard.lines == [f'Machine "{NAME}" has the newest image already.']


@pytest.mark.parametrize("state", [State.STOPPED, State.SAVED])
def test_the_machine_runs_after_every_upgrade(store: Store, newer: ImageFiles, state: State) -> None:
    create_machine(store)
    heard = RecordingReporter()
    hosts = Hosts(store, reporter=heard)
    for _ in ("another image", "the newest already"):
        Bare.world[NAME] = state
        upgrade(hosts, NAME)
        assert store.load(NAME).driver["Image"] == "second"
        assert Bare.world[NAME] is State.RUNNING
    assert "Starting machine so machine can be upgraded..." in heard.lines
    assert heard.lines[-1] == f'Machine "{NAME}" has the newest image already.'


def test_the_old_image_returns_if_the_new_one_does_not_answer(store: Store, newer: ImageFiles) -> None:
    hosts = create_machine(store)
    Bare.fails["start"] = [DriverError("kernel panic")]
    with pytest.raises(DriverError, match="has its old image again: kernel panic"):
        upgrade(hosts, NAME)
    assert store.load(NAME).driver["Image"] == "first"
    assert Bare.world[NAME] is State.RUNNING


def test_a_stopped_machine_stays_stopped_when_its_upgrade_fails(store: Store, newer: ImageFiles) -> None:
    hosts = create_machine(store)
    lifecycle.stop(hosts, NAME)
    for step in ("start", "swap"):
        Bare.fails[step] = [DriverError("kernel panic")]
        with pytest.raises(DriverError, match="has its old image again"):
            upgrade(hosts, NAME)
        assert store.load(NAME).driver["Image"] == "first"
        assert Bare.world[NAME] is State.STOPPED


def test_an_interrupted_upgrade_keeps_the_old_image(store: Store, newer: ImageFiles) -> None:
    hosts = create_machine(store)
    Bare.fails["start"] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        upgrade(hosts, NAME)
    assert store.load(NAME).driver["Image"] == "first"
    assert Bare.world[NAME] is State.STOPPED


def test_a_driver_without_the_ability_refuses_upgrade(store: Store, newer: ImageFiles) -> None:
    with pytest.raises(UnsupportedError, match="bare driver does not support upgrade"):
        upgrade(create_machine(store, "bare"), NAME)


# -- export and import -------------------------------------------------------------------------------------------


def test_an_exported_machine_is_imported_into_another_store(store: Store, tmp_path: Path) -> None:
    hosts = create_machine(store)
    file = tmp_path / "file"
    with pytest.raises(WrongStateError, match="only a stopped one can be exported"):
        export(Hosts(store), NAME, file)
    lifecycle.stop(hosts, NAME)
    record = store.load(NAME)
    record.expires, record.owner, record.context = 1, "somebody", "context"
    store.save(record)
    export(Hosts(store), NAME, file)
    assert file.stat().st_mode & 0o777 == 0o600
    other = Store(tmp_path / "other")
    import_(Hosts(other), file, connection_driver="none")
    machine = other.load(NAME)
    folder = other.machine_dir(NAME)
    assert (folder / "disk").read_text() == "data"
    assert (folder / "id_rsa").read_bytes() == (store.machine_dir(NAME) / "id_rsa").read_bytes()
    assert machine.ssh_key == folder / "id_rsa"
    assert (machine.expires, machine.owner, machine.context) == (None, "", "")
    assert str(store.root) not in (folder / "config.json").read_text()
    # The key that opens all machines of the first store stays there.
    assert not (folder / "key.pem").exists()
    lifecycle.start(Hosts(other), NAME)
    assert (folder / "key.pem").read_bytes() == (other.root / "certs" / "key.pem").read_bytes()


def test_an_export_with_the_password_of_a_proxy_is_a_warning(store: Store, tmp_path: Path) -> None:
    hosts = create_machine(store)
    lifecycle.stop(hosts, NAME)
    for url, warnings in (("http://proxy", 0), ("http://ann:s3cret@proxy", 1)):
        record = store.load(NAME)
        record.proxies = Proxies(url)
        store.save(record)
        reporter = RecordingReporter()
        export(Hosts(store, reporter=reporter), NAME, tmp_path / f"file{warnings}")
        found = [line for line in reporter.lines if "password of the machine's proxy" in line]
        assert len(found) == warnings
        assert "s3cret" not in "".join(found)


def test_an_export_can_be_imported_next_to_the_original(store: Store, tmp_path: Path) -> None:
    hosts = create_machine(store)
    lifecycle.stop(hosts, NAME)
    export(Hosts(store), NAME, tmp_path / "file")
    with pytest.raises(MachineExistsError):
        import_(Hosts(store), tmp_path / "file", connection_driver="none")
    import_(Hosts(store), tmp_path / "file", name="copy", connection_driver="none")
    assert store.load("copy").driver["IPAddress"] != store.load(NAME).driver["IPAddress"]
    assert store.load("copy").endpoint == Endpoint(store.load("copy").driver["IPAddress"])
    assert (store.machine_dir("copy") / "known_hosts").read_text().startswith("copy ")
    assert sorted(path.name for path in (store.root / "machines").iterdir()) == ["copy", NAME]


def test_an_import_that_fails_leaves_nothing(store: Store, tmp_path: Path) -> None:
    hosts = create_machine(store)
    lifecycle.stop(hosts, NAME)
    export(Hosts(store), NAME, tmp_path / "file")
    Bare.fails["imported"] = [DriverError("no")]
    with pytest.raises(DriverError):
        import_(Hosts(store), tmp_path / "file", name="copy", connection_driver="none")
    assert sorted(path.name for path in (store.root / "machines").iterdir()) == [NAME]
    (store.machine_dir(NAME) / "disk").unlink()
    with pytest.raises(DriverError, match="no disk"):
        export(Hosts(store), NAME, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_fields_that_an_import_leaves_out_are_reported(store: Store, tmp_path: Path) -> None:
    hosts = create_machine(store)
    lifecycle.stop(hosts, NAME)
    machine = store.load(NAME)
    machine.driver.update({"QemuBinary": "/tmp/evil", "SSHUser": "evil", "\x1b[2J": 1})
    machine.driver["SSHKeyPath"] = str(store.machine_dir(NAME) / "id_rsa")
    machine.owner, machine.context, machine.install_script = "somebody", "context", "http://evil"
    machine.engine.labels, machine.raw["Odd"] = ["a=b"], {"x": 1}
    store.save(machine)
    export(Hosts(store), NAME, tmp_path / "file")
    heard = RecordingReporter()
    import_(Hosts(Store(tmp_path / "other"), reporter=heard), tmp_path / "file", connection_driver="none")
    imported = Store(tmp_path / "other").load(NAME)
    assert imported.engine.labels == ["a=b"]
    assert (imported.driver["Memory"], imported.driver["Image"], imported.driver["SSHUser"]) == (
        1024,
        "first",
        "docker",
    )
    record = (tmp_path / "other/machines" / NAME / "config.json").read_text()
    assert "evil" not in record
    assert '"Odd"' not in record
    said = next(line for line in heard.lines if line.startswith("Left out"))
    for key in ("DockerContext", "Owner", "InstallScript", "Odd", "Driver.QemuBinary", "Driver.SSHUser"):
        assert key in said
    assert "\x1b" not in said
    assert "Memory" not in said


def test_fields_that_a_driver_does_not_declare_are_not_exported(store: Store, tmp_path: Path) -> None:
    lifecycle.stop(create_machine(store, "foreign"), NAME)
    export(Hosts(store), NAME, tmp_path / "file")
    machine = import_(Hosts(Store(tmp_path / "other")), tmp_path / "file", connection_driver="none")
    assert "Memory" not in machine.driver
    assert machine.endpoint == Endpoint("127.9.9.1")


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ("Driver.Memory", 100, r"Driver.Memory in the export is 100, expected a whole number of 512 to 4096"),
        ("Driver.Memory", True, r"Driver.Memory in the export is True"),
        ("Driver.Memory", "1024", r"Driver.Memory in the export is '1024'"),
        ("Driver.Memory", 1e300, r"Driver.Memory in the export is 1e\+300"),
        ("Driver.Image", "-x", r"Driver.Image in the export is '-x', expected a text like"),
        ("Driver", [], r"Driver in the export is|config.json"),
        ("DriverName", "bare", r"DriverName in the export is 'bare', expected 'able'"),
        ("ConfigVersion", 2, r"ConfigVersion in the export is 2, expected 3"),
        ("HostOptions.EngineOptions.Labels", "a", r"EngineOptions.Labels is 'a'"),
        ("HostOptions.EngineOptions.Env", ["a\nb"], r"--engine-env"),
        ("HostOptions.AuthOptions.ServerCertSANs", ["x"] * 1000, r"at most 100 names"),
        ("HostOptions.EngineOptions", 7, r"EngineOptions in the export is 7"),
        ("HostOptions", "x", r"HostOptions in the export is 'x'"),
    ],
)
def test_values_are_checked_before_an_import_is_kept(
    store: Store, tmp_path: Path, where: str, value: Json, says: str
) -> None:
    lifecycle.stop(create_machine(store), NAME)
    export(Hosts(store), NAME, tmp_path / "file")

    def change(record: dict[str, Json]) -> None:
        *folders, last = where.split(".")
        for folder in folders:
            record = record[folder]
        record[last] = value

    source = archives.with_record(tmp_path / "file", tmp_path / "changed", change)
    other = tmp_path / "other"
    if value == []:  # an empty list is as good as none
        import_(Hosts(Store(other)), source, connection_driver="none")
        return
    with pytest.raises(PymachineError, match=says):
        import_(Hosts(Store(other)), source, connection_driver="none")
    assert not other.exists()


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("id_rsa", b"no key", "id_rsa in the export cannot be used"),
        ("machine-id", b"../../x", "machine-id in the export is not 32"),
        ("disk", b"x" * 1001, "disk has 1001 bytes; by the machine's record it has at most 1000"),
        ("disk", b"QFI\xfb" + (3).to_bytes(4, "big") + (1).to_bytes(8, "big") + bytes(64), "leads to another file"),
        ("disk", b"QFI\xfb" + (3).to_bytes(4, "big") + bytes(71 - 7) + (4).to_bytes(8, "big"), "leads to another file"),
        ("disk", b"QFI\xfb" + (2).to_bytes(4, "big") + bytes(16) + (1 << 40).to_bytes(8, "big"), "qcow2 image of 1099"),
        ("server.pem", b"x", "which no able machine has"),
    ],
)
def test_files_are_checked_before_an_import_is_kept(
    store: Store, tmp_path: Path, file: str, content: bytes, says: str
) -> None:
    lifecycle.stop(create_machine(store), NAME)
    export(Hosts(store), NAME, tmp_path / "file")
    contents = {Path(info.name).name: data for info, data in archives.unpack(tmp_path / "file")}
    kept = {name: data for name, data in contents.items() if not name.startswith("pymachine.")}
    archives.forge(tmp_path / "forged", archives.valid_entries({**kept, file: content}, driver="able", name=NAME))
    with pytest.raises(ExportError, match=says):
        import_(Hosts(Store(tmp_path / "other")), tmp_path / "forged", connection_driver="none")
    assert not (tmp_path / "other").exists()


def test_damaged_exports_are_refused_and_leave_nothing(store: Store, tmp_path: Path) -> None:
    lifecycle.stop(create_machine(store), NAME)
    export(Hosts(store), NAME, tmp_path / "file")
    attempts = [
        *archives.damaged((tmp_path / "file").read_bytes(), rounds=200, seed=7),
        *archives.hostile(64 << 20),
    ]
    found = archives.faults(
        iter(attempts),
        lambda file: import_(Hosts(store), file, name="copy", connection_driver="none"),
        file=tmp_path / "damaged",
        root=store.root,
    )
    assert list(found) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_import_leaves_nothing(store: Store, tmp_path: Path, stop: type[BaseException]) -> None:
    lifecycle.stop(create_machine(store), NAME)
    export(Hosts(store), NAME, tmp_path / "file")
    Bare.fails["imported"] = [stop()]
    with pytest.raises(stop):
        import_(Hosts(Store(tmp_path / "other")), tmp_path / "file", name="copy", connection_driver="none")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "url", ["unix:///var/run/docker.sock", "-Hx", "tcp://h:99999", "ssh://h", "tcp://h/x", "tcp://a b"]
)
def test_a_connection_that_is_not_over_tcp_is_refused(store: Store, tmp_path: Path, url: str) -> None:
    create_machine(store)
    export_connection(Hosts(store), NAME, tmp_path / "file")
    contents = {Path(info.name).name: data for info, data in archives.unpack(tmp_path / "file")}
    kept = {name: data for name, data in contents.items() if not name.startswith("pymachine.")}
    archives.forge(tmp_path / "forged", archives.valid_entries(kept, kind="connection", name=NAME, url=url))
    with pytest.raises(ExportError, match="url in the export is .*, expected tcp://HOST:PORT"):
        import_(Hosts(Store(tmp_path / "other")), tmp_path / "forged", connection_driver="none")
    assert not (tmp_path / "other").exists()


def test_a_connection_export_needs_certificates(store: Store, tmp_path: Path) -> None:
    create_machine(store)
    (store.machine_dir(NAME) / "key.pem").unlink()
    # Without a copy of its own it has the store's.
    export_connection(Hosts(store), NAME, tmp_path / "file")
    (store.root / "certs" / "key.pem").unlink()
    with pytest.raises(Exception, match="no certificates to connect with: .*key.pem is missing"):
        export_connection(Hosts(store), NAME, tmp_path / "file")


def test_an_unreadable_certificate_is_named(store: Store) -> None:
    hosts = create_machine(store)
    (store.root / "certs" / "ca.pem").write_text("x")
    with pytest.raises(CertificateError, match=r"ca\.pem"):
        certificates.regenerate(hosts, NAME)
