"""Stray entries among the machines' folders stop no command on the other machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pymachine.cli import machine_args
from pymachine.driver import names
from pymachine.driver.contract import Json
from pymachine.errors import MachineNotFoundError, RecordError, StoreError
from pymachine.hosts import prune
from pymachine.hosts.host import Hosts
from pymachine.store.record import Machine
from pymachine.store.store import Store
from pymachine.system.progress import Silent
from support import unprivileged
from support.runner import PROGRAM, Outcome, Pymachine, private_store

Placer = Callable[[Path], None]
GARBAGE = {"IPAddress": {"a": 1}, "EnginePort": "x", "SSHPort": [], "MachineName": 7, "ConnectionURI": 3, "URL": None}


def _place_folder(name: str | bytes) -> Placer:
    return lambda machines: os.mkdir(os.path.join(os.fsencode(machines), os.fsencode(name)))  # noqa: PTH102, PTH118


def _place_record(name: str, record: Any) -> Placer:
    def place(machines: Path) -> None:
        (machines / name).mkdir()
        content = record if isinstance(record, str | bytes) else json.dumps(record)
        (machines / name / "config.json").write_bytes(content.encode() if isinstance(content, str) else content)

    return place


def _place_closed(name: str, part: str) -> Placer:
    def place(machines: Path) -> None:
        _place_record(name, {})(machines)
        unprivileged.close_off(machines / name / part)

    return place


def _place_pipe(machines: Path) -> None:
    (machines / "pipe").mkdir()
    os.mkfifo(machines / "pipe" / "config.json")


def _place_folder_as_record(machines: Path) -> None:
    (machines / "deep" / "config.json").mkdir(parents=True)


def _place_machine_of(driver: str) -> Placer:
    return _place_record(f"{driver}-", {"ConfigVersion": 3, "DriverName": driver, "Driver": GARBAGE, "HostOptions": {}})


# How each entry is placed, and the name under which `ls` shows it.
STRAY: dict[str, tuple[Placer, str]] = {
    "lost+found": (_place_folder("lost+found"), "lost+found"),
    "blank": (_place_folder("New Folder"), "New Folder"),
    "underscore": (_place_folder("_old"), "_old"),
    "not UTF-8": (_place_folder(b"caf\xe9"), "caf\udce9"),
    "new line": (_place_folder("a\nb"), "a"),
    "long": (_place_folder("x" * 255), "x" * 255),
    "not JSON": (_place_record("torn", '{"Dri'), "torn"),
    "not UTF-8 inside": (_place_record("b", b"\xff\xfe{"), "b"),
    "deeply nested": (_place_record("nested", "[" * 100_000), "nested"),
    "closed folder": (_place_closed("sudo", "."), "sudo"),
    "closed record": (_place_closed("sudo2", "config.json"), "sudo2"),
    "pipe": (_place_pipe, "pipe"),
    "folder for a record": (_place_folder_as_record, "deep"),
    "link to nowhere": (lambda m: (m / "away").symlink_to("/nowhere/at/all"), "away"),
    "link to itself": (lambda m: (m / "round").symlink_to("round"), "round"),
    **{
        f"garbage of {name}": (_place_machine_of(name), f"{name}-")
        for name in ("qemu", "virtualbox", "generic", "none")
    },
}


@pytest.fixture
def program() -> Iterator[Pymachine]:
    with private_store() as made:
        (made.store / "machines").mkdir(parents=True)
        yield made


def run(program: Pymachine, *words: str, code: int | None = 0) -> Outcome:
    """Run pymachine as a user to whom permissions apply."""
    done = program.run(unprivileged.command([str(PROGRAM), *words]), code=code)
    assert "Traceback" not in done.text, done.text
    return done


def completions(program: Pymachine, start: str) -> str:
    """Return what a shell would offer for ``pymachine start START``."""
    words = {"_PYMACHINE_COMPLETE": "bash_complete", "COMP_WORDS": f"pymachine start {start}", "COMP_CWORD": "2"}
    return program.run(unprivileged.command([str(PROGRAM)]), env=words).text.strip()


def test_stray_entries_stop_no_command_on_other_machines(program: Pymachine) -> None:
    machines = program.store / "machines"
    for place, _ in STRAY.values():
        place(machines)
    (machines / "notes.txt").write_text("")
    for name in ("good", "better"):
        assert f"env {name}" in run(program, "create", "-d", "none", "--url", "tcp://127.0.0.1:1", name).stdout
    listed = run(program, "ls", "-t", "5").stdout
    for shown in ("good", "better", *(shown for _, shown in STRAY.values())):
        assert f"\n{shown}" in listed
    assert "notes.txt" not in listed
    assert {"better", "good"} <= set(run(program, "ls", "-q").stdout.split())
    found = run(program, "doctor", "--driver", "none", code=None).stdout
    for _, shown in STRAY.values():
        assert f"machine {shown}" in found or shown.endswith("-")
    assert "notes.txt is a file, not a machine" in found
    assert len(json.loads(run(program, "ls", "--json").stdout)) == len(STRAY) + 2
    run(program, "prune")
    run(program, "context", "ls")
    assert run(program, "url", "good").stdout == "tcp://127.0.0.1:1\n"
    assert completions(program, "go") == "plain,good"
    removed = run(program, "rm", "-y", "good", "better").stdout
    assert removed.count("Successfully removed") == 2


@pytest.mark.parametrize("stray", STRAY)
def test_each_stray_entry_is_an_error_of_its_own(tmp_path: Path, stray: str) -> None:
    place, shown = STRAY[stray]
    store = Store(tmp_path)
    (tmp_path / "machines").mkdir()
    place(tmp_path / "machines")
    [name] = store.names()
    assert name.startswith(shown)
    if "closed" in stray or "garbage" in stray:  # root reads it, and a driver alone knows what is wrong with it
        return
    with pytest.raises((RecordError, StoreError)):
        store.load(name)


@pytest.mark.parametrize("driver", ["qemu", "virtualbox", "no-such-driver"])
def test_an_expired_machine_that_cannot_be_removed_stops_no_create(program: Pymachine, driver: str) -> None:
    record = {"ConfigVersion": 3, "DriverName": driver, "Driver": {"CPU": "x"}, "HostOptions": {}, "Expires": 1}
    _place_record("late", record)(program.store / "machines")
    made = run(program, "create", "-d", "none", "--url", "tcp://127.0.0.1:1", "good")
    assert "env good" in made.stdout
    assert "late" in made.stdout


@pytest.mark.parametrize("fault", [TypeError("no"), OSError("no"), StoreError("no")])
def test_a_driver_error_on_an_expired_machine_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    store = Store(tmp_path)
    store.save(Machine(name="late", driver_name="none", driver={}, expires=1))

    def remove(hosts: Hosts, name: str) -> None:
        raise fault

    monkeypatch.setattr(prune, "remove", remove)
    said: list[str] = []

    class Lines(Silent):
        def warn(self, text: str) -> None:
            said.append(text)

    [expired] = prune.find(store)
    assert not prune.remove_expired(Hosts(store, reporter=Lines()), expired)
    assert said[0].startswith('Could not remove "late" (its time to live ended')
    assert said[0].endswith("no")


@pytest.mark.parametrize("driver", ["qemu", "generic", "virtualbox"])
def test_a_new_machine_is_configured_despite_wrong_records_of_the_same_driver(driver: str, tmp_path: Path) -> None:
    from pymachine.driver import registry
    from pymachine.driver.testing import defaults, reference

    kind = registry.load(driver)
    changed = {"generic-ip-address": "127.0.0.1"} if driver == "generic" else {}
    wrong: list[dict[str, Any]] = [
        GARBAGE,
        {"IPAddress": "x", "EnginePort": 1e400, "SSHPort": 1e400},
        {},
        {"IPAddress": None},
    ]
    assert kind.configure(reference(tmp_path, "new"), defaults(kind, **changed), wrong)["IPAddress"]


UNUSUAL_NAMES = [
    "my_box",
    "New Folder",
    "_old",
    "-rf",
    "büchse",
    "箱",
    "a'b\"c",
    "$(id)",
    "x" * 64,
    "a\nb",
    "caf\udce9",
    "~",
]


@pytest.mark.parametrize("path", [-1, True, [1], "a\0b", "a\ud800"])
@pytest.mark.parametrize("place", ["SSHKeyPath", "CaCertPath"])
def test_an_invalid_path_is_an_error_of_its_record_only(tmp_path: Path, place: str, path: Json) -> None:
    auth = {"CaCertPath": path} if place == "CaCertPath" else {}
    driver = {"URL": "tcp://127.0.0.1:1"} | ({"SSHKeyPath": path} if place == "SSHKeyPath" else {})
    record = {"ConfigVersion": 3, "DriverName": "none", "Driver": driver, "HostOptions": {"AuthOptions": auth}}
    with pytest.raises(RecordError, match=place):
        Machine.from_json(record, name="odd")


def test_an_unexpected_error_of_one_machine_does_not_affect_the_others() -> None:
    def act(name: str) -> None:
        if name == "odd":
            raise TypeError("what nobody thought of")

    found = dict(machine_args.outcomes(["good", "odd", "better"], act))
    assert (found["good"], found["better"]) == (None, None)
    assert found["odd"] is not None
    assert "TypeError" in found["odd"].brief


@pytest.mark.parametrize("name", UNUSUAL_NAMES)
def test_machines_with_unusual_names_are_used_and_removed(program: Pymachine, name: str) -> None:
    """docker-machine once accepted ``_``, blanks and letters of any script; only `create` checks names."""
    store = Store(program.store)
    store.save(Machine(name=name, driver_name="none", driver={"URL": "tcp://127.0.0.1:1"}))
    assert store.names() == [name]
    assert store.exists(name)
    assert store.load(name).driver["URL"] == "tcp://127.0.0.1:1"
    words = ["--", name]
    assert run(program, "url", *words).stdout == "tcp://127.0.0.1:1\n"
    run(program, "rename", *words, "better")
    assert store.names() == ["better"]
    store.rename("better", name)
    shown = name.replace("\n", "\\n")  # a message is one line
    assert f"Successfully removed {shown}" in run(program, "rm", "-y", *words).stdout
    assert store.names() == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a\0b", "../certs", ".hidden"])
def test_a_name_that_is_not_a_single_folder_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "store" / "machines" / "a" / "b").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    assert not store.exists(name)
    for act in (store.load, store.delete, store.machine_dir, lambda name: store.lock(name).__enter__()):
        with pytest.raises(MachineNotFoundError):
            act(name)
    assert sorted(tmp_path.rglob("*")) == before


@given(st.text(min_size=1, max_size=300))
def test_any_name_has_a_host_name(name: str) -> None:
    host = names.host_name(name)
    assert 1 <= len(host) <= names.NAME_LENGTH
    assert host.isascii()
    assert not set(host) & set(" \t\n,*?!:/\"'\\$%")
    assert not host.startswith(("-", "."))
    if names.NAME_PATTERN.match(name) and len(name) <= names.NAME_LENGTH:
        assert host == name


def test_different_names_have_different_host_names() -> None:
    assert (
        len({names.host_name(name) for name in [*UNUSUAL_NAMES, "New-Folder", "New Folder "]}) == len(UNUSUAL_NAMES) + 2
    )


def test_a_linked_machine_folder_works_and_only_the_link_is_removed(program: Pymachine) -> None:
    run(program, "create", "-d", "none", "--url", "tcp://127.0.0.1:1", "here")
    elsewhere = program.home / "disk"
    (program.store / "machines/here").rename(elsewhere)
    (program.store / "machines/here").symlink_to(elsewhere)
    assert run(program, "ls", "-q").stdout == "here\n"
    removed = run(program, "rm", "-y", "here").stdout
    assert f'The folder {elsewhere}, to which "here" was a link, stays' in removed
    assert removed.endswith("Successfully removed here\n")
    assert os.listdir(program.store / "machines") == []  # noqa: PTH208 (hidden ones too)
    assert (elsewhere / "config.json").exists()


def test_a_dangling_link_is_removed_by_force(program: Pymachine) -> None:
    (program.store / "machines/away").symlink_to("/nowhere/at/all")
    assert "is a link to /nowhere/at/all, which does not exist" in run(program, "ls").stdout
    assert (
        "already exists" in run(program, "create", "-d", "none", "--url", "tcp://127.0.0.1:1", "away", code=None).text
    )
    run(program, "rm", "-y", "-f", "away")
    assert os.listdir(program.store / "machines") == []  # noqa: PTH208


def test_a_folder_that_cannot_be_removed_stays_under_its_name(program: Pymachine) -> None:
    _place_closed("sudo", ".")(program.store / "machines")
    said = program.run(unprivileged.command([str(PROGRAM), "rm", "-y", "-f", "sudo"]), code=None)
    assert "Permission denied" in said.text
    assert os.listdir(program.store / "machines") == ["sudo"]  # noqa: PTH208


def test_a_lock_of_another_user_does_not_stop_pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.save(Machine(name="a", driver_name="none", driver={}, owner=prune.RUN))
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "a.run.lock").mkdir()  # cannot be opened as a file, root or not
    assert prune.find(store) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for other users")
def test_lock_files_made_by_root_belong_to_the_stores_owner(tmp_path: Path) -> None:
    """Otherwise the user could not create a machine of that name again after `sudo pymachine rm NAME`."""
    unprivileged.close_off(tmp_path)
    owner = tmp_path.stat().st_uid
    secret = tmp_path.parent / f"{tmp_path.name}-secret"
    secret.write_text("")
    store = Store(tmp_path)
    with store.lock("a"), store.reserving():
        assert {path.stat().st_uid for path in [tmp_path / "locks", *(tmp_path / "locks").iterdir()]} == {owner}
    (tmp_path / "locks" / "b.lock").hardlink_to(secret)
    with store.lock("b"):
        assert secret.stat().st_uid == 0


def test_an_unreadable_machine_is_reported_with_its_owner(program: Pymachine) -> None:
    _place_closed("sudo", ".")(program.store / "machines")
    said = program.run(unprivileged.command([str(PROGRAM), "inspect", "sudo"]), code=None)
    assert "Permission denied" in said.stderr
    assert f"{program.store}/machines/sudo belongs to" in said.stderr


def _manifest(folder: Path, text: str | bytes) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())


def _place_stray_images(images: Path) -> None:
    """Place entries that are not images in an image cache."""
    whole: dict[str, Any] = {"digest": "d", "architecture": "amd64"}
    texts: list[str | bytes] = ["{", "[]", "null", b"\xff", "[" * 100_000, json.dumps(whole)]
    texts += [json.dumps({**whole, "files": []}), json.dumps({**whole, "files": {"boot2docker.iso": {"size": "x"}}})]
    for number, text in enumerate(texts):
        _manifest(images / f"amd64-{number}", text)
    (images / "amd64-file").write_text("")
    (images / "amd64-away").symlink_to("/nowhere/at/all")
    (images / "lost+found").mkdir()
    (images / "amd64-pipe").mkdir()
    os.mkfifo(images / "amd64-pipe" / "manifest.json")


def test_stray_entries_among_the_images_stop_no_command(program: Pymachine, tmp_path: Path) -> None:
    program.env["PYMACHINE_CACHE"] = str(tmp_path / "cache")
    images = tmp_path / "cache" / "images"
    images.mkdir(parents=True)
    _place_stray_images(images)
    files = {name: {"sha256": "0", "size": 1} for name in ("boot2docker.iso", "vmlinuz", "initrd.img")}
    good = {"digest": "d" * 64, "architecture": "amd64", "engine": "1", "kernel": "6", "files": files, "packages": []}
    _manifest(images / "amd64-good", json.dumps(good))
    listed = run(program, "image", "ls").stdout
    assert "amd64-good" in listed
    assert len(listed.splitlines()) == 2
    images.chmod(0o555)
    refused = run(program, "image", "rm", "--json", "amd64-good", code=1)
    assert json.loads(refused.stderr)["error"]["code"] == "system"
    images.chmod(0o755)
    run(program, "image", "rm", "amd64-good")


def test_a_cache_folder_of_another_user_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "manifest.json").write_text("{}")
    unprivileged.close_off(tmp_path / "image")
    script = (
        "import sys; from pathlib import Path\n"
        "from pymachine.system import atomic_dirs; root = Path(sys.argv[1])\n"
        "with atomic_dirs.making(root, private=False) as new:\n"
        "    (new / 'whole').touch(); atomic_dirs.publish(new, root / 'image')"
    )
    subprocess.run(unprivileged.command([sys.executable, "-c", script, str(tmp_path)]), check=True)
    assert (tmp_path / "image" / "whole").exists()


def test_a_file_among_the_machines_is_not_a_machine(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "machines").mkdir()
    (tmp_path / "machines/notes").write_text("")
    assert store.names() == []
    assert store.strays() == ["notes"]
    with pytest.raises(RecordError, match="is a file, not a machine"):
        store.load("notes")
    assert store.exists("notes")


def test_a_store_that_cannot_be_listed_gives_no_completions(program: Pymachine) -> None:
    (program.store / "machines").rmdir()
    (program.store / "machines").write_text("")
    with pytest.raises(StoreError, match="cannot list"):
        Store(program.store).names()
    assert completions(program, "go") == ""
