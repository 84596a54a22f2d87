"""The store on a real disk: layout, order, locks and broken records."""

from __future__ import annotations

import json
import multiprocessing
import stat
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from pymachine.driver.names import check_new_name
from pymachine.errors import InvalidNameError, LockedError, MachineNotFoundError, RecordError, StoreError
from pymachine.store.record import Machine
from pymachine.store.store import Store, natural_key


def make_machine(name: str = "intro") -> Machine:
    return Machine(name=name, driver_name="none", driver={"URL": "tcp://h:1"})


def test_a_saved_machine_is_loaded_unchanged(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = make_machine()
    made.engine.labels = ["a=b"]
    store.save(made)
    loaded = store.load("intro")
    assert loaded == made
    assert stat.S_IMODE((tmp_path / "machines/intro").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "machines/intro/config.json").stat().st_mode) == 0o600


def test_an_empty_store_has_no_machines_and_creates_no_folder(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert store.names() == []
    assert not store.exists("x")
    assert not (tmp_path / "none").exists()


def test_names_are_in_natural_order_without_hidden_folders(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ["b10", "B2", "a", "b1"]:
        store.save(make_machine(name))
    (tmp_path / "machines/.removed-x").mkdir()
    (tmp_path / "machines/a-file").write_text("")
    assert store.names() == ["a", "b1", "B2", "b10"]


@given(st.lists(st.integers(min_value=0), max_size=8), st.text(alphabet="abcXYZ-.", max_size=4))
def test_numbers_in_names_are_ordered_as_numbers(numbers: list[int], prefix: str) -> None:
    names = [f"{prefix}{number}" for number in numbers]
    assert sorted(names, key=natural_key) == [f"{prefix}{number}" for number in sorted(numbers)]


@given(st.lists(st.text(max_size=12)))
def test_any_names_can_be_ordered(names: list[str]) -> None:
    assert len(sorted(names, key=natural_key)) == len(names)


@pytest.mark.parametrize("name", ["", "../x", "-rf", ".hidden", "a/b", "a b", "x" * 64, "x\n", "ä", "x" * 300])
def test_names_that_are_not_host_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidNameError, match="Invalid hostname specified"):
        check_new_name(name)
    store = Store(tmp_path)
    assert not store.exists(name)
    with pytest.raises((MachineNotFoundError, StoreError)):
        store.load(name)


@pytest.mark.parametrize("name", ["intro", "a", "0", "runner-x7-1699999999-deadbeef", "a.b-c", "x" * 63])
def test_host_names_are_accepted_as_names(name: str) -> None:
    check_new_name(name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "^Error getting migrated host: unexpected end of JSON input$"),
        ("{", "^Error getting migrated host: unexpected end of JSON input$"),
        ('{"a', "^Error getting migrated host: unexpected end of JSON input$"),
        ("{not}", "invalid character 'n' looking for beginning of object key string$"),
        ('{"a": 1,}', "invalid character '}' looking for beginning of object key string$"),
        ('{"a": 1 , }', "invalid character '}' looking for beginning of object key string$"),
        ('{"a": [1,]}', "invalid character ']' looking for beginning of value$"),
        ('{"a" 1}', "invalid character '1' after object key$"),
        ('{"a": x}', "invalid character 'x' looking for beginning of value$"),
        ("{} {}", "invalid character '{' after top-level value$"),
        ("[]", "is not a JSON object"),
        ('{"ConfigVersion": 4}', "config version is from the future"),
        ('{"ConfigVersion": 3}', "names no driver"),
        ('{"ConfigVersion": 3, "DriverName": "none", "Driver": []}', None),
        ('{"ConfigVersion": 3, "DriverName": "none", "Driver": "x"}', "Driver is not a JSON object"),
        (
            '{"ConfigVersion": 3, "DriverName": "none", "HostOptions": {"EngineOptions": {"Labels": "x"}}}',
            "EngineOptions.Labels is 'x'",
        ),
    ],
)
def test_the_problem_of_a_broken_record_is_named(tmp_path: Path, text: str, says: str | None) -> None:
    store = Store(tmp_path)
    store.save(make_machine())
    (tmp_path / "machines/intro/config.json").write_text(text)
    if says is None:
        assert store.load("intro").driver == {}
        return
    with pytest.raises(RecordError, match=says):
        store.load("intro")
    assert store.exists("intro")


def test_unknown_fields_survive_a_rewrite(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(make_machine())
    path = tmp_path / "machines/intro/config.json"
    record = json.loads(path.read_text())
    record["Novel"] = {"a": [1]}
    record["HostOptions"]["EngineOptions"]["Newer"] = True
    record["HostOptions"]["Disk"] = 7
    path.write_text(json.dumps(record))
    store.save(store.load("intro"))
    assert json.loads(path.read_text()) == record


def test_delete_removes_only_the_machines_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(make_machine("a"))
    store.save(make_machine("b"))
    store.delete("a")
    assert store.names() == ["b"]
    assert [entry.name for entry in (tmp_path / "machines").iterdir()] == ["b"]
    with pytest.raises(MachineNotFoundError):
        store.delete("a")


def test_a_held_lock_is_an_error_after_the_timeout(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.lock("intro"), pytest.raises(LockedError, match='"intro" is in use'), store.lock("intro", timeout=0.1):
        pass
    with store.lock("intro", timeout=0.1):
        pass


def test_a_store_that_is_a_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.write_text("")
    with pytest.raises(StoreError, match="store"):
        Store(path).save(make_machine())


def _increment(root: str, rounds: int) -> None:
    store = Store(Path(root))
    for _ in range(rounds):
        with store.lock("intro"):
            loaded = store.load("intro")
            loaded.driver["Count"] = loaded.driver.get("Count", 0) + 1
            store.save(loaded)


def test_two_processes_lose_no_update(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(make_machine())
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_increment, args=(str(tmp_path), 100)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert store.load("intro").driver["Count"] == 200


@pytest.mark.parametrize(
    "text",
    [
        '{"ConfigVersion": 3, "DriverName": "none", "Driver": {"SSHPort": NaN}}',
        '{"ConfigVersion": 3, "DriverName": "none", "Driver": {"IPAddress": "\\ud800"}}',
        '{"ConfigVersion": 3, "DriverName": "none", "Driver": {"SSHPort": -Infinity}}',
        '{"ConfigVersion": 3, "DriverName": "none", "Driver": {"x": ' + "[" * 60 + "]" * 60 + "}}",
        '{"ConfigVersion": 3, "DriverName": "none", "Driver": {"SSHPort": ' + "9" * 5000 + "}}",
    ],
)
@pytest.mark.parametrize("file", ["config.json", "pymachine.json"])
def test_extreme_json_values_are_record_errors(tmp_path: Path, text: str, file: str) -> None:
    store = Store(tmp_path)
    folder = store.machine_dir("m")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"ConfigVersion": 3, "DriverName": "none", "Driver": {}}')
    (folder / file).write_text(text)
    with pytest.raises(RecordError):
        store.load("m")


@pytest.mark.parametrize("file", ["config.json", "pymachine.json"])
def test_a_record_over_the_size_limit_is_not_read(tmp_path: Path, file: str) -> None:
    store = Store(tmp_path)
    folder = store.machine_dir("m")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"ConfigVersion": 3, "DriverName": "none", "Driver": {}}')
    with (folder / file).open("ab") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(StoreError, match="Larger than 4194304 bytes"):
        store.load("m")
