"""Commands that are killed at any step: the next command finishes or undoes the work.

The driver of these tests keeps its state in files, outside the process as a hypervisor would, and ends its process at
the step that a test names, as SIGKILL would.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from pymachine.docker import contexts
from pymachine.driver import registry
from pymachine.driver.contract import (
    BootRequest,
    Config,
    Driver,
    DriverInfo,
    Endpoint,
    Health,
    ImageFiles,
    ImageRequest,
    Json,
    MachineRef,
    State,
    Trait,
)
from pymachine.driver.kit import transactions
from pymachine.driver.options import Option
from pymachine.errors import DriverError, MachineNotFoundError, PymachineError, StoreError, WrongStateError
from pymachine.hosts import certificates, lifecycle, recovery, snapshot_operations
from pymachine.hosts.create import CreateRequest, create
from pymachine.hosts.docker_context import make_context
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.remove import remove
from pymachine.hosts.rename import rename
from pymachine.hosts.sweep import sweep
from pymachine.hosts.upgrade import upgrade
from pymachine.store.record import Machine
from pymachine.store.store import Store
from pymachine.system import atomic_dirs, files
from pymachine.system.progress import Silent
from pymachine.system.run import Result

KILLED = 9
NAME = "m"


class Killed(Driver):
    """Ends the process at the step `dies_at`. The machine's run is a file next to the store."""

    info = DriverInfo("killed", "for tests", Trait.FIXED_ADDRESS | Trait.IDENTITY)
    dies_at: ClassVar[str] = ""

    @classmethod
    def options(cls) -> Sequence[Option]:
        return []

    @classmethod
    def health(cls) -> Health:
        return Health(usable=True)

    @classmethod
    def configure(cls, machine: MachineRef, options: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
        return {"IPAddress": "127.9.9.9", "Image": "old", "Memory": 1}

    def step(self, name: str) -> None:
        if name == self.dies_at:
            os._exit(KILLED)

    @property
    def run(self) -> Path:
        return self.machine.store.parent / f"{self.machine.name}.run"

    def precreate_check(self) -> None:
        self.step("precreate")

    def create(self, request: BootRequest) -> None:
        (self.machine.directory / "disk").write_text("new")
        self.start(request)

    def start(self, request: BootRequest) -> None:
        self.step("before start")
        self.run.write_text(State.RUNNING.word)
        self.step("started")

    def stop(self, timeout: float) -> None:
        self.run.unlink(missing_ok=True)

    def kill(self) -> None:
        self.run.unlink(missing_ok=True)

    def remove(self) -> None:
        self.kill()

    def state(self) -> State:
        return State[self.run.read_text().upper()] if self.run.exists() else State.STOPPED

    def endpoint(self) -> Endpoint:
        return Endpoint("127.9.9.9")

    def recover(self) -> None:
        held = [change.name for change in transactions.changes(self.machine.directory)]
        if self.run.exists() and transactions.HOLD in held:
            self.run.write_text(State.RUNNING.word)
        (self.machine.directory / "forwarded").touch()

    def renamed(self, before: MachineRef) -> None:
        self.step("renamed")

    def image_request(self) -> ImageRequest:
        return ImageRequest()

    def image_digest(self) -> str:
        return str(self.config["Image"])

    def swap_image(self, image: ImageFiles) -> None:
        disk = self.machine.directory / "image"
        disk.with_name("image.aside").write_text(str(self.config["Image"]))
        self.step("set aside")
        self.config["Image"] = image.digest
        disk.write_text(image.digest)
        self.step("swapped")

    def commit_image(self) -> None:
        self.step("settling")
        (self.machine.directory / "image.aside").unlink(missing_ok=True)

    def rollback_image(self) -> None:
        aside = self.machine.directory / "image.aside"
        self.step("settling")
        if aside.exists():
            aside.rename(self.machine.directory / "image")

    def save_snapshot(self, folder: Path, *, memory: bool = True) -> Mapping[str, Json]:
        if self.state() is State.RUNNING:
            transactions.note(self.machine.directory, transactions.HOLD)
            self.run.write_text(State.PAUSED.word)
        self.step("held")
        (folder / "disk").write_text((self.machine.directory / "disk").read_text())
        self.recover()
        transactions.clear(self.machine.directory, transactions.HOLD)
        return {"Memory": False}

    def restore_snapshot(self, folder: Path, facts: Mapping[str, Json], request: BootRequest) -> None:
        own = self.machine.directory / "disk"
        self.step("before restore")
        self.kill()
        own.rename(own.with_name("disk.aside"))
        self.step("between renames")
        own.write_text((folder / "disk").read_text())
        self.config["Memory"] = 2
        self.step("restored")

    def commit_restore(self) -> None:
        self.step("settling")
        (self.machine.directory / "disk.aside").unlink(missing_ok=True)

    def rollback_restore(self) -> None:
        aside = self.machine.directory / "disk.aside"
        self.step("settling")
        if aside.exists():
            self.kill()
            aside.rename(self.machine.directory / "disk")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(registry, "load", lambda name: Killed)
    monkeypatch.setattr(registry, "load_for_machine", lambda name, program: Killed)
    monkeypatch.setattr(Host, "wait_for_engine", lambda self, *, seconds: None)
    monkeypatch.setattr(Killed, "dies_at", "")
    image = ImageFiles("first", "amd64", Path("/i"), Path("/k"), Path("/r"))
    monkeypatch.setattr("pymachine.image.provide.find_or_build", lambda request, *, store, reporter: image)
    return Store(tmp_path / "store")


def make(store: Store, name: str = NAME) -> None:
    create(Hosts(store), CreateRequest(name=name, driver_name="killed", options={}))


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(step: str, act: Callable[[], object]) -> None:
    """Do `act` in a process that is killed at `step` of the driver's."""
    child = os.fork()
    if child == 0:
        Killed.dies_at = step
        try:
            act()
        finally:
            os._exit(0)
    assert exit_code(child) == KILLED, f"no step called {step}"


class Client:
    """A stand-in for the docker client: its contexts are in a file, and what changes them may be killed."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.file.write_text("{}")

    @property
    def contexts(self) -> dict[str, str]:
        """Names, with the descriptions of their contexts."""
        return json.loads(self.file.read_text())  # type: ignore[no-any-return]

    def __call__(self, *words: str, check: bool = True) -> Result:
        found, verb, name = self.contexts, words[1], words[-1]
        if verb == "inspect":
            said = json.dumps([{"Metadata": {"Description": found.get(name)}}])
            return Result(words, 0 if name in found else 1, said, "")
        self._step(f"before {verb}")
        if verb == "rm":
            del found[name]
        else:
            found[name] = words[words.index("--description") + 1]
        self.file.write_text(json.dumps(found))
        self._step(f"after {verb}")
        return Result(words, 0, "", "")

    @staticmethod
    def _step(name: str) -> None:
        if name == Killed.dies_at:
            os._exit(KILLED)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client(tmp_path / "contexts")
    monkeypatch.setattr(contexts, "_docker", made)
    return made


class RecordingReporter(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def notes(store: Store, name: str = NAME) -> list[str]:
    return [change.name for change in transactions.changes(store.machine_dir(name))]


@pytest.mark.parametrize("step", ["precreate", "before start", "started"])
def test_a_killed_create_is_undone_by_the_next(store: Store, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_at(step, lambda: make(store))
    assert notes(store)[0] == transactions.CREATE
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "engine_answers", lambda host: False)
        sweep(Hosts(store))
    assert store.names() == []
    assert not (store.root.parent / f"{NAME}.run").exists()
    make(store)
    assert notes(store) == []
    assert Hosts(store).open(NAME).state() is State.RUNNING


def test_other_commands_find_no_machine_after_a_killed_create(store: Store) -> None:
    killed_at("before start", lambda: make(store))
    with pytest.raises(MachineNotFoundError):
        lifecycle.start(Hosts(store), NAME)


def test_a_create_killed_after_its_engine_answered_is_complete(store: Store) -> None:
    """The user may have used the machine since."""
    killed_at("started", lambda: make(store))
    sweep(Hosts(store))
    assert Hosts(store).open(NAME).state() is State.RUNNING
    assert notes(store) == []


def test_after_a_power_cut_a_leftover_note_removes_no_machine(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store)
    transactions.note(store.machine_dir(NAME), transactions.CREATE)
    (store.root.parent / f"{NAME}.run").unlink()
    monkeypatch.setattr(transactions, "_boot_id", lambda: "another")
    sweep(Hosts(store))
    assert store.names() == [NAME]
    assert notes(store) == []


def test_a_machine_of_a_killed_create_can_be_removed(store: Store) -> None:
    killed_at("started", lambda: make(store))
    remove(Hosts(store), NAME)
    assert store.names() == []


def test_a_start_killed_before_the_machine_was_up_is_undone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store)
    lifecycle.stop(Hosts(store), NAME)
    killed_at("started", lambda: lifecycle.start(Hosts(store), NAME))

    def silent(*args: object, **options: object) -> None:
        raise PymachineError("no engine")

    monkeypatch.setattr(Host, "wait_for_engine", silent)
    sweep(Hosts(store))
    assert Hosts(store).open(NAME).state() is State.STOPPED
    assert notes(store) == []


def test_a_start_killed_after_the_machine_was_up_is_finished(store: Store) -> None:
    make(store)
    lifecycle.stop(Hosts(store), NAME)
    killed_at("started", lambda: lifecycle.start(Hosts(store), NAME))
    heard = RecordingReporter()
    lifecycle.start(Hosts(store, reporter=heard), NAME)
    assert heard.lines == [f'The last start of "{NAME}" was interrupted: the machine is up.']
    assert (store.machine_dir(NAME) / "forwarded").exists()
    with pytest.raises(WrongStateError, match="already running"):
        lifecycle.start(Hosts(store), NAME)
    assert notes(store) == []


class Booting(Killed):
    """A guest that waits for its identity when the start of its machine is killed."""

    taken: ClassVar[list[bytes]] = []
    answers: ClassVar[bool] = True

    def apply_identity(self, request: BootRequest) -> None:
        if not self.answers:
            raise DriverError("the guest hangs")
        self.taken.append(request.identity(self.endpoint()))


@pytest.fixture
def booting(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose start was killed before its guest had an identity."""
    monkeypatch.setattr(registry, "load_for_machine", lambda name, program: Booting)
    monkeypatch.setattr(Booting, "taken", [])
    # The engine answers once the guest has its identity.
    monkeypatch.setattr(recovery, "engine_answers", lambda host: bool(Booting.taken))
    make(store)
    lifecycle.stop(Hosts(store), NAME)
    killed_at("started", lambda: lifecycle.start(Hosts(store), NAME))


def lines_of_start(store: Store) -> list[str]:
    """Start the machine, and return what was reported about the interrupted start."""
    heard = RecordingReporter()
    lifecycle.start(Hosts(store, reporter=heard), NAME)
    assert Hosts(store).open(NAME).state() is State.RUNNING
    return heard.lines


@pytest.mark.usefixtures("booting")
def test_an_interrupted_boot_is_finished_by_the_next_start(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Killed, "kill", None)
    assert lines_of_start(store) == [f'The last start of "{NAME}" was interrupted: the machine is up.']
    assert len(Booting.taken) == 1
    assert (store.machine_dir(NAME) / "forwarded").exists()


@pytest.mark.usefixtures("booting")
def test_a_guest_that_hangs_is_switched_off_and_started(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Booting, "answers", False)
    assert lines_of_start(store) == [f'The last start of "{NAME}" was interrupted: the machine is switched off.']


@pytest.mark.usefixtures("booting")
@pytest.mark.parametrize(
    "act", [lifecycle.stop, lifecycle.kill, lambda hosts, name: sweep(hosts)], ids=["stop", "kill", "sweep"]
)
def test_stop_kill_and_cleanup_do_not_wait_for_a_boot(store: Store, act: Callable[[Hosts, str], None]) -> None:
    with contextlib.suppress(WrongStateError):  # the boot was ended, so the machine is stopped already
        act(Hosts(store), NAME)
    assert Booting.taken == []
    assert Hosts(store).open(NAME).state() is State.STOPPED


def test_a_machine_paused_by_a_killed_snapshot_is_resumed(store: Store) -> None:
    make(store)
    killed_at("held", lambda: snapshot_operations.save_snapshot(Hosts(store), NAME, "s"))
    assert Hosts(store).open(NAME).state() is State.PAUSED
    heard = RecordingReporter()
    sweep(Hosts(store, reporter=heard))
    assert Hosts(store).open(NAME).state() is State.RUNNING
    assert heard.lines == [f'The last snapshot or clone of "{NAME}" was interrupted: the machine goes on.']
    assert list((store.machine_dir(NAME) / "snapshots").iterdir()) == []


def test_start_resumes_a_machine_paused_by_a_killed_snapshot(store: Store) -> None:
    make(store)
    killed_at("held", lambda: snapshot_operations.save_snapshot(Hosts(store), NAME, "s"))
    lifecycle.start(Hosts(store), NAME)
    assert Hosts(store).open(NAME).state() is State.RUNNING


@pytest.mark.parametrize("step", ["before restore", "between renames", "restored"])
def test_a_killed_restore_is_undone(store: Store, step: str) -> None:
    make(store)
    snapshot_operations.save_snapshot(Hosts(store), NAME, "s")
    disk = store.machine_dir(NAME) / "disk"
    disk.write_text("today")
    killed_at(step, lambda: snapshot_operations.restore_snapshot(Hosts(store), NAME, "s"))
    sweep(Hosts(store))
    assert disk.read_text() == "today"
    assert store.load(NAME).driver["Memory"] == 1
    assert Hosts(store).open(NAME).state() is (State.RUNNING if step == "before restore" else State.STOPPED)
    assert not disk.with_name("disk.aside").exists()
    assert notes(store) == []


def test_a_restore_killed_after_its_last_step_is_finished(store: Store) -> None:
    make(store)
    snapshot_operations.save_snapshot(Hosts(store), NAME, "s")
    disk = store.machine_dir(NAME) / "disk"
    disk.write_text("today")
    killed_at("settling", lambda: snapshot_operations.restore_snapshot(Hosts(store), NAME, "s"))
    sweep(Hosts(store))
    assert disk.read_text() == "new"
    assert store.load(NAME).driver["Memory"] == 2
    assert not disk.with_name("disk.aside").exists()


@pytest.mark.parametrize("step", ["set aside", "swapped", "before start", "started", "settling"])
def test_a_killed_upgrade_leaves_one_image(store: Store, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymachine.image import provide

    image = ImageFiles("newer", "amd64", Path(), Path(), Path())
    monkeypatch.setattr(provide, "refresh", lambda *args, **options: image)
    make(store)
    killed_at(step, lambda: upgrade(Hosts(store), NAME))
    sweep(Hosts(store))
    wanted = "newer" if step in ("started", "settling") else "old"
    assert (store.machine_dir(NAME) / "image").read_text() == wanted
    assert store.load(NAME).driver["Image"] == wanted
    assert not (store.machine_dir(NAME) / "image.aside").exists()
    assert notes(store) == []


def test_a_killed_rename_is_finished(store: Store) -> None:
    make(store)
    lifecycle.stop(Hosts(store), NAME)
    killed_at("renamed", lambda: rename(Hosts(store), NAME, "other"))
    sweep(Hosts(store))
    assert store.names() == ["other"]
    assert store.load("other").driver["MachineName"] == "other"
    assert notes(store, "other") == []


def test_a_machine_of_a_killed_rename_is_removed_by_its_current_name(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hypervisor may still have the old name."""
    make(store)
    lifecycle.stop(Hosts(store), NAME)
    killed_at("renamed", lambda: rename(Hosts(store), NAME, "other"))
    followed: list[tuple[str, str]] = []
    monkeypatch.setattr(Killed, "renamed", lambda self, before: followed.append((before.name, self.machine.name)))
    remove(Hosts(store), "other")
    assert followed == [(NAME, "other")]
    assert store.names() == []


def test_an_import_killed_before_its_record_can_be_removed(store: Store) -> None:
    folder = store.machine_dir(NAME)
    folder.mkdir(parents=True)
    (folder / "disk.raw").touch()
    transactions.note(folder, transactions.CREATE)
    remove(Hosts(store), NAME)
    assert not folder.exists()
    with pytest.raises(MachineNotFoundError):
        remove(Hosts(store), NAME)


RENAMES = pytest.mark.parametrize("step", ["before rm", "after rm", "before create", "after create"])


def rename_killed_at(step: str, store: Store) -> None:
    name = "first"
    make(store, name)
    make_context(Hosts(store), name, name)
    lifecycle.stop(Hosts(store), name)
    killed_at(step, lambda: rename(Hosts(store), name, "other"))


@RENAMES
def test_a_context_is_renamed_with_its_machine_after_a_kill(store: Store, client: Client, step: str) -> None:
    rename_killed_at(step, store)
    sweep(Hosts(store))
    assert store.load("other").context == "other"
    assert client.contexts == {"other": "pymachine: other"}
    assert notes(store, "other") == []


@RENAMES
def test_a_context_of_a_killed_rename_is_removed_with_its_machine(store: Store, client: Client, step: str) -> None:
    rename_killed_at(step, store)
    remove(Hosts(store), "other")
    assert store.names() == []
    assert client.contexts == {}


@RENAMES
def test_a_context_of_a_killed_replacement_is_removed_with_its_machine(store: Store, client: Client, step: str) -> None:
    make(store)
    make_context(Hosts(store), NAME, "one")
    killed_at(step, lambda: make_context(Hosts(store), NAME, "two"))
    remove(Hosts(store), NAME)
    assert client.contexts == {}


def test_an_undone_create_leaves_no_context(store: Store, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    request = CreateRequest(name="first", driver_name="killed", options={}, context="first")
    killed_at("after create", lambda: create(Hosts(store), request))
    assert client.contexts == {"first": "pymachine: first"}
    monkeypatch.setattr(recovery, "engine_answers", lambda host: False)
    sweep(Hosts(store))
    assert store.names() == []
    assert client.contexts == {}


def test_an_interrupted_create_leaves_no_context(store: Store, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*words: object, **options: object) -> None:
        client("context", "create", "--description", "pymachine: first", "--", "first")
        raise KeyboardInterrupt

    monkeypatch.setattr(contexts, "put", interrupt)
    with pytest.raises(KeyboardInterrupt):
        create(Hosts(store), CreateRequest(name="first", driver_name="killed", options={}, context="first"))
    assert store.names() == []
    assert client.contexts == {}


def test_a_context_that_cannot_be_created_is_not_in_the_record(
    store: Store, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store)

    def refuse(*words: object, **options: object) -> None:
        raise PymachineError("no docker")

    monkeypatch.setattr(contexts, "put", refuse)
    with pytest.raises(PymachineError, match="no docker"):
        make_context(Hosts(store), NAME, "one")
    assert store.load(NAME).context == ""


def test_a_rename_that_fails_late_is_undone_at_the_hypervisor(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store)
    lifecycle.stop(Hosts(store), NAME)
    followed: list[tuple[str, str]] = []
    monkeypatch.setattr(Killed, "renamed", lambda self, before: followed.append((before.name, self.machine.name)))
    save = Store.save

    def full(self: Store, machine: Machine) -> None:
        if machine.name == "other":
            raise StoreError("the disk is full")
        save(self, machine)

    monkeypatch.setattr(Store, "save", full)
    with pytest.raises(StoreError):
        rename(Hosts(store), NAME, "other")
    assert followed == [(NAME, "other"), ("other", NAME)]
    assert store.names() == [NAME]
    assert notes(store) == []


def test_start_leaves_a_note_of_a_newer_version_alone(store: Store) -> None:
    make(store)
    transactions.note(store.machine_dir(NAME), "teleport")
    with pytest.raises(WrongStateError, match="already running"):
        lifecycle.start(Hosts(store), NAME)
    assert notes(store) == ["teleport"]


def test_a_rename_killed_before_its_first_step_changes_nothing(store: Store) -> None:
    make(store)
    transactions.note(store.machine_dir(NAME), transactions.RENAME, {"Before": NAME})
    sweep(Hosts(store))
    assert store.names() == [NAME]
    assert notes(store) == []


def test_a_machine_in_use_by_a_command_is_left_alone(store: Store) -> None:
    make(store)
    transactions.note(store.machine_dir(NAME), transactions.BOOT)
    with store.lock(NAME):
        sweep(Hosts(store))
    assert notes(store) == [transactions.BOOT]


def test_a_fresh_temporary_file_is_left_alone(store: Store) -> None:
    make(store)
    fresh = store.machine_dir(NAME) / f".config.json.{'0' * 12}{files.TEMPORARY}"
    fresh.write_text("{}")
    sweep(Hosts(store))
    assert fresh.exists()


@pytest.mark.parametrize("state", [State.PAUSED, State.SAVED])
def test_a_machine_paused_after_a_killed_start_stays_paused(store: Store, state: State) -> None:
    make(store)
    transactions.note(store.machine_dir(NAME), transactions.BOOT)
    (store.root.parent / f"{NAME}.run").write_text(state.word)
    sweep(Hosts(store))
    assert Hosts(store).open(NAME).state() is state
    assert notes(store) == []


def test_a_machine_can_be_stopped_whatever_is_unfinished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store)
    transactions.note(store.machine_dir(NAME), transactions.RENAME, {"Before": "other"})

    def fails(*args: object) -> None:
        raise PymachineError("cannot follow")

    monkeypatch.setattr(recovery, "follow_name", fails)
    with pytest.raises(PymachineError, match="cannot follow") as caught:
        certificates.regenerate(Hosts(store), NAME)
    assert f"remove the note: {store.machine_dir(NAME)}/.unfinished-rename" in caught.value.hint
    lifecycle.stop(Hosts(store), NAME)
    assert Hosts(store).open(NAME).state() is State.STOPPED


def test_an_import_killed_before_its_record_is_cleaned_up(store: Store) -> None:
    make(store)
    folder = store.machine_dir("half")
    folder.mkdir()
    transactions.note(folder, transactions.CREATE)
    sweep(Hosts(store))
    assert store.names() == [NAME]


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_an_unreadable_note_counts_as_one_without_facts(store: Store, text: bytes) -> None:
    make(store)
    (store.machine_dir(NAME) / f"{transactions.PREFIX}{transactions.RESTORE}").write_bytes(text)
    sweep(Hosts(store))
    assert notes(store) == []
    assert store.load(NAME).driver["Memory"] == 1


def test_a_note_of_a_newer_version_stays(store: Store) -> None:
    make(store)
    transactions.note(store.machine_dir(NAME), "teleport")
    sweep(Hosts(store))
    assert notes(store) == ["teleport"]


def test_only_files_of_killed_commands_are_cleaned_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    make(store)
    machine, machines = store.machine_dir(NAME), store.machine_dir(NAME).parent
    for name in (f".tmp-1-{'a' * 16}", ".tmp-1-abc_de12", f".removed-{'1' * 16}", f".import-{'1' * 16}"):
        (machines / name).mkdir()
        (machines / name / "id_rsa").write_text("secret")
    users = machines.parent.parent / "users"
    (users / f".tmp-1-{'b' * 16}").mkdir(parents=True)
    (machines / "odd").mkdir()
    (machines / "odd" / "snapshots").symlink_to(users)
    for name in (".tmp-work", ".import-stuff"):
        (users / name).mkdir()
        (machines / name).mkdir()
    old = machine / f".config.json.{'0' * 12}{files.TEMPORARY}"
    old.write_text("{}")
    (machine / ".users.tmp").write_text("")
    monkeypatch.setattr(transactions, "_TEMPORARY_SECONDS", -1.0)
    for name in ("gone.lock", "gone.run.lock", f"{NAME}.lock"):
        (store.root / "locks" / name).touch()
        os.utime(store.root / "locks" / name, (0, 0))
    with atomic_dirs.making(machines, private=True) as being_made:
        sweep(Hosts(store))
        assert being_made.is_dir()
    assert sorted(path.name for path in machines.iterdir()) == [".import-stuff", ".tmp-work", NAME, "odd"]
    assert len(list(users.iterdir())) == 3
    assert not old.exists()
    assert (machine / ".users.tmp").exists()
    assert sorted(path.name for path in (store.root / "locks").iterdir()) == [".store.lock", f"{NAME}.lock"]


def test_a_lock_file_that_is_removed_each_time_is_never_held_twice(store: Store) -> None:
    marker = store.root.parent / "held"

    def take() -> None:
        for _ in range(50):
            with store.lock(NAME):  # of a machine that does not exist: the file is removed at the end
                marker.touch(exist_ok=False)
                marker.unlink()

    children = []
    for _ in range(4):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                take()
            except BaseException:  # noqa: BLE001 (the exit code says so)
                os._exit(1)
            os._exit(0)
    assert [exit_code(child) for child in children] == [0, 0, 0, 0]
    assert list((store.root / "locks").iterdir()) == []
