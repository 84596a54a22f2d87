"""`up`, `down` and `run` with a project file, `inspect --origin`, and what a file may not do unasked."""

from __future__ import annotations

import io
import json
import os
import pwd
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pymachine.cli import project_trust
from pymachine.driver.contract import State
from pymachine.errors import DriverError
from pymachine.hosts import project as projects
from pymachine.ssh.local_socket import place
from pymachine.store.store import Store
from support import cli_calls, local_sockets, projects as fakes
from support.cli_calls import Call
from support.local_sockets import Sockets
from support.projects import Sized

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs" / "reference" / "json-schema.json").read_text())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a project, which is the current one. Its user's home is in the same folder as it."""
    return fakes.enter_folder(tmp_path, monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def call(folder: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    return cli_calls.any_code(capfd)


@pytest.fixture
def succeed(call: Call) -> Callable[..., str]:
    def run(*words: str) -> str:
        code, out, err = call(*words)
        assert code == 0, out + err
        return out

    return run


def enter(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PWD", str(folder))


def write(folder: Path, *lines: str) -> Path:
    path = folder / "pymachine.toml"
    path.write_text("\n".join(["[machine]", *lines, ""]))
    return path


def origins(call: Call, name: str = "shop") -> dict[str, tuple[Any, str, str]]:
    code, out, _ = call("inspect", "--origin", "--json", name)
    rows = json.loads(out)
    assert code == 0
    jsonschema.validate(rows, {**SCHEMA["properties"]["inspect --origin"], "$defs": SCHEMA["$defs"]})
    return {row["Option"]: (row["Value"], row["From"], row["Where"]) for row in rows}


# -- up and down ------------------------------------------------------------------------------------------------


def test_up_creates_starts_and_keeps_a_machine(
    call: Call, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder, "memory = 2048", "cpus = 3", 'engine.label = ["a=b"]')
    (folder / "deep" / "er").mkdir(parents=True)
    enter(monkeypatch, folder / "deep" / "er")
    code, out, err = call("up")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"Using {path}"
    assert out.endswith('The machine "shop" is up. To connect your docker client, run: pymachine env shop\n')
    machine = store.load("shop")
    assert machine.driver["Memory"] == 2048
    assert machine.driver["CPU"] == 3
    assert machine.engine.labels == ["a=b"]
    assert [str(share) for share in machine.shares] == [str(folder)]
    assert Sized.boots == [("shop", [str(folder)])]

    before = (store.machine_dir("shop") / "config.json").read_bytes()
    code, out, err = call("up")
    assert (code, err) == (0, "")
    assert "Starting" not in out
    assert (store.machine_dir("shop") / "config.json").read_bytes() == before
    assert len(Sized.boots) == 1

    assert 'Machine "shop" was stopped.' in call("down")[1]
    assert call("down") == (0, f'Using {path}\nThe machine "shop" is stopped.\n', "")
    assert Sized.world["shop"] is State.STOPPED
    assert 'Starting "shop"...' in call("up")[1]
    assert Sized.world.get("shop") is State.RUNNING

    code, out, _ = call("down", "--remove", "--json")
    assert (code, json.loads(out)) == (0, [{"Name": "shop", "Removed": True}])
    code, out, err = call("down", "--remove", "--json")
    assert (code, json.loads(out)) == (0, [{"Name": "shop", "Removed": False}])
    assert 'There is no machine "shop".' in err


@pytest.mark.parametrize(
    ("folder_name", "name"),
    [
        ("shop", "shop"),
        ("My Shop (2)", "My-Shop-2"),
        ("café_x", "caf-x"),
        ("-.-", "project"),
        (".hidden", "hidden"),
        ("店", "project"),
        ("a.b", "a.b"),
        ("x" * 80, "x" * 63),
        ("x" * 62 + "--y", "x" * 62),
    ],
)
def test_the_default_name_is_the_folders_made_valid(folder_name: str, name: str) -> None:
    from pymachine.driver.names import check_new_name

    assert projects.default_name(Path("/work") / folder_name) == name
    check_new_name(name)


def test_the_name_of_the_file_and_of_the_command_line(succeed: Callable[..., str], folder: Path, store: Store) -> None:
    write(folder, 'name = "web"')
    succeed("up")
    succeed("up", "--name", "other")
    assert set(store.names()) == {"web", "other"}
    succeed("down", "--remove", "--name", "other")
    assert set(store.names()) == {"web"}


def test_a_name_that_no_machine_can_have_names_its_key(call: Call, folder: Path) -> None:
    path = write(folder, 'name = "a b"')
    for command in ("up", "down"):
        code, _, err = call(command)
        assert code == 1
        assert f"machine.name in {path}: " in err


@pytest.mark.parametrize("command", ["up", "down"])
def test_without_a_file_there_is_nothing_to_do(call: Call, command: str) -> None:
    code, out, err = call(command)
    assert (code, out) == (1, "")
    assert err.startswith("there is no pymachine.toml in this folder")


def test_another_file_can_be_named(succeed: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder.parent / "other" / "machine.toml"
    other.parent.mkdir()
    other.write_text("[machine]\nmemory = 4096\n")
    assert f"Using {other}" in succeed("up", "--file", "../other/machine.toml")
    monkeypatch.setenv("PYMACHINE_FILE", str(other))
    assert f"Using {other}" in succeed("up")
    assert 'Stopping "other"' in succeed("down")


@pytest.mark.parametrize("name", ["a\nb", "a b", "quote\"'", "\x1b[31m", os.fsdecode(b"caf\xe9"), "\u202e", "a:b"])
def test_a_project_may_be_in_a_folder_of_any_name(
    succeed: Callable[..., str], folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    odd = folder / name
    odd.mkdir()
    path = write(odd, "cpus = 1", 'name = "odd"')
    enter(monkeypatch, odd)
    for _ in range(2):
        out = succeed("up")
        assert "\x1b" not in out
        assert "\u202e" not in out
        assert "but the machine" not in out
    machine = store.load("odd")
    assert machine.project is not None
    assert machine.project.file == path
    assert machine.origins["sized-cpu-count"].where == f"machine.cpus in {path}"
    table = succeed("inspect", "--origin", "odd")
    assert len(table.splitlines()) == 6
    assert "\x1b" not in table
    succeed("down", "--remove")


def test_arguments_are_refused(call: Call, folder: Path) -> None:
    write(folder)
    code, _, err = call("up", "shop")
    assert code == 1
    assert "Too many arguments" in err


def test_help_and_completion_need_no_file(call: Call, folder: Path) -> None:
    (folder / "pymachine.toml").write_text("broken")
    code, out, err = call("up", "--help")
    assert (code, err) == (0, "")
    assert "--apply" in out


# -- where values come from -------------------------------------------------------------------------------------


def test_flags_win_over_variables_over_the_file_over_defaults(
    call: Call, succeed: Callable[..., str], folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder, "memory = 2000", "options.sized-quick = true", 'engine.registry-mirror = ["https://file"]')
    succeed("up")
    assert origins(call) == {
        "driver": ("sized", "default", ""),
        "engine-registry-mirror": (["https://file"], "file", f"machine.engine.registry-mirror in {path}"),
        "share": ([str(folder)], "default", ""),
        "sized-cpu-count": (2, "default", ""),
        "sized-memory": (2000, "file", f"machine.memory in {path}"),
        "sized-mode": ("auto", "default", ""),
        "sized-quick": (True, "file", f"machine.options.sized-quick in {path}"),
    }
    monkeypatch.setenv("SIZED_MEMORY", "3000")
    monkeypatch.setenv("ENGINE_REGISTRY_MIRROR", "https://env")
    succeed("up", "--name", "two")
    found = origins(call, "two")
    assert found["sized-memory"] == (3000, "variable", "SIZED_MEMORY")
    assert found["engine-registry-mirror"] == (["https://env"], "variable", "ENGINE_REGISTRY_MIRROR")
    succeed("up", "--name", "three", "--sized-memory", "4000", "--sized-quick=false")
    found = origins(call, "three")
    assert found["sized-memory"] == (4000, "flag", "--sized-memory")
    assert found["sized-quick"] == (False, "flag", "--sized-quick")
    assert store.load("three").driver["Memory"] == 4000


def test_shares_of_flags_variables_file_config_and_default(
    call: Call, succeed: Callable[..., str], folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "src").mkdir()
    data = folder.parent / "data"
    data.mkdir()
    path = write(folder)

    def shares(name: str, *words: str) -> tuple[Any, str, str]:
        succeed("up", "--name", name, *words)
        assert [str(share) for share in store.load(name).shares] == origins(call, name)["share"][0]
        return origins(call, name)["share"]

    assert shares("a") == ([str(folder)], "default", "")
    config = store.root / "config.toml"
    config.write_text(f'[shares]\ncreate = ["{data}"]\n')
    assert shares("b") == ([str(data)], "config.toml", f"[shares] create in {config}")
    path = write(folder, 'shares = ["src:/code", "."]')
    assert shares("c") == ([f"{folder}/src:/code", str(folder)], "file", f"machine.shares in {path}")
    monkeypatch.setenv("PYMACHINE_SHARE", str(data))
    assert shares("d") == ([str(data)], "variable", "PYMACHINE_SHARE")
    assert shares("e", "--share", "src") == ([f"{folder}/src"], "flag", "--share")
    assert shares("f", "--no-share") == ([], "flag", "--no-share")
    monkeypatch.setenv("PYMACHINE_NO_SHARE", "1")
    assert shares("g") == ([], "variable", "PYMACHINE_NO_SHARE")
    monkeypatch.delenv("PYMACHINE_SHARE")
    monkeypatch.delenv("PYMACHINE_NO_SHARE")
    path = write(folder, "shares = []")
    assert shares("h") == ([], "file", f"machine.shares in {path}")


def test_the_home_folder_is_not_shared_by_a_file_in_it(
    succeed: Callable[..., str], folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    path = write(folder)
    assert f"shares no folder with this host: your home folder is in the folder of {path}" in succeed("up")
    assert store.load("shop").shares == []


def test_create_and_modify_record_origins(call: Call, succeed: Callable[..., str], store: Store) -> None:
    succeed("create", "--sized-memory", "600", "--engine-label", "a=b", "m")
    assert origins(call, "m")["sized-memory"] == (600, "flag", "--sized-memory")
    succeed("modify", "--restart", "--memory", "700", "--engine-label", "c=d", "--tls-san", "x", "m")
    found = origins(call, "m")
    assert found["sized-memory"] == (700, "modify", "")
    assert found["engine-label"] == (["c=d"], "modify", "")
    assert found["tls-san"] == (["x"], "modify", "")
    assert found["sized-cpu-count"] == (2, "default", "")
    record = json.loads(call("inspect", "m")[1])
    jsonschema.validate(record, {**SCHEMA["properties"]["inspect"], "$defs": SCHEMA["$defs"]})


def test_origins_are_a_table(call: Call, succeed: Callable[..., str], folder: Path, store: Store) -> None:
    path = write(folder, "cpus = 1", "shares = []")
    succeed("up", "--sized-memory", "600")
    assert re.split(r" {3,}|\n", succeed("inspect", "--origin", "shop").strip()) == [
        *("OPTION", "VALUE", "ORIGIN"),
        *("driver", "sized", "default"),
        *("share", "empty", f"machine.shares in {path}"),
        *("sized-cpu-count", "1", f"machine.cpus in {path}"),
        *("sized-memory", "600", "flag --sized-memory"),
        *("sized-mode", "auto", "default"),
    ]
    assert call("inspect", "--origin", "-f", "{{.Name}}", "shop")[0] == 1
    machine = store.load("shop")
    machine.origins = {}
    store.save(machine)
    code, _, err = call("inspect", "--origin", "shop")
    assert code == 1
    assert "does not say where its values came from" in err


def test_docker_machines_rewrite_keeps_origins_and_project(
    succeed: Callable[..., str], folder: Path, store: Store
) -> None:
    write(folder, "share-events = false")
    succeed("up")
    machine = store.load("shop")
    path = store.machine_dir("shop") / "config.json"
    known = ("ConfigVersion", "Driver", "DriverName", "HostOptions", "Name")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key in known}))
    again = store.load("shop")
    assert (again.origins, again.project) == (machine.origins, machine.project)
    assert again.share_events is False


# -- errors name the key ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["memory = 100"], "machine.memory in {path} is 100, expected at least 512 MB"),
        (['memory = "4x"'], 'invalid value "4x" for machine.memory in {path}: '),
        (["options.sized-memory = 100"], "machine.options.sized-memory in {path} is 100, expected at least"),
        (["disk = 1"], "machine.disk in {path} is set, but the driver sized has no such option"),
        (["memory = 1", "options.sized-memory = 2"], "machine.memory in {path} and options.sized-memory are the same"),
        (["options.sized-quick = 1"], "machine.options.sized-quick in {path} is 1, expected true or false"),
        (['options.sized-patch = "x"'], "machine.options.sized-patch in {path} is 'x', expected a list of texts"),
        (["options.sized-mode = 1"], "machine.options.sized-mode in {path} is 1, expected a line of text"),
        (["options.sized-mod = 1"], "{path}: there is no option of the driver sized called machine.options.sized-mod"),
        (['engine.label = ["x"]'], "machine.engine.label in {path} 'x': expected KEY=VALUE"),
        (['shares = ["none"]'], "machine.shares in {path}: {folder}/none cannot be shared: it does not exist"),
        (['shares = [".:rel"]'], "machine.shares in {path}: .:rel cannot be shared"),
        (['shares = [".", "."]'], "machine.shares in {path}: {folder} is given twice"),
        (['shares = [".:/usr"]'], "machine.shares in {path}: .:/usr cannot be shared"),
        (['driver = "bogus"'], "machine.driver in {path}: bogus"),
        (['provision = ["none.sh"]'], "cannot read the provision script {folder}/none.sh"),
        (['provision = ["."]'], "cannot read the provision script {folder}: Is a directory"),
        (['provision = ["pymachine.toml", "./pymachine.toml"]'], "machine.provision in {path} names a script twice"),
        (['driver = "none"', 'provision = ["pymachine.toml"]'], "machine.provision in {path} is set, but "),
    ],
)
def test_a_wrong_value_names_its_key_and_file(
    call: Call, folder: Path, store: Store, lines: list[str], says: str
) -> None:
    path = write(folder, *lines)
    code, _, err = call("up")
    assert code == 1
    assert says.format(path=path, folder=folder) in err
    assert store.names() == []
    assert Sized.boots == []


def test_a_wrong_flag_is_still_the_flags(call: Call, folder: Path) -> None:
    write(folder, "memory = 2048")
    code, _, err = call("up", "--sized-memory", "100")
    assert code == 1
    assert "--sized-memory is 100" in err
    assert "pymachine.toml" not in err


def test_options_of_other_drivers_are_ignored(succeed: Callable[..., str], folder: Path, store: Store) -> None:
    write(folder, 'options.url = "tcp://192.0.2.1:1"', 'options.sized-mode = "auto"')
    succeed("up")
    assert store.load("shop").driver_name == "sized"


def test_a_driver_of_the_command_line_has_its_own_options(call: Call, folder: Path, store: Store) -> None:
    write(folder, 'driver = "sized"', "cpus = 1")
    code, _, err = call("up", "--driver", "plain")
    assert code == 1
    assert "the driver plain has no such option" in err


# -- trust ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "wish"),
    [
        (['shares = [".", ".."]'], "share {parent} with the machine"),
        (['shares = ["~"]'], "share {parent}/home with the machine"),
        (['shares = ["link:/code:ro"]'], "share {folder}/link:/code:ro with the machine"),
        (['options.sized-image = "http://192.0.2.1/image"'], "set sized-image to http://192.0.2.1/image"),
        (['options.sized-patch = ["/etc/shadow"]'], "set sized-patch to /etc/shadow"),
        (['driver = "outside"', "shares = []"], "set up an existing host as root, with the driver outside"),
        (['engine.install-url = "http://192.0.2.1/"'], "install the engine with the script of http://192.0.2.1/"),
        (['template = "work"'], "use what is in the template work"),
        (['tls-san = ["prod.example"]'], "have a certificate of this store for prod.example"),
        (['driver = "outside"', 'provision = ["own"]'], "run {folder}/own as root on an existing host"),
        (['provision = ["../secret"]'], "run {parent}/secret as root in the machine"),
        (['provision = ["link/secret"]'], "run {folder}/link/secret as root in the machine"),
    ],
)
@pytest.mark.parametrize("command", [("up",), ("run", "true")])
def test_what_reaches_beyond_the_folder_needs_trust(
    call: Call, folder: Path, store: Store, lines: list[str], wish: str, command: tuple[str, ...]
) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "own").touch()
    (folder / "link").symlink_to("..")
    path = write(folder, *lines)
    code, _, err = call(*command)
    assert code == 1
    assert f"{path} reaches beyond its own folder, which was not allowed" in err
    assert f"- {wish.format(folder=folder, parent=folder.parent)}\n" in err
    assert "--trust" in err
    assert store.names() == []
    assert not (store.root / "machines").exists()


def test_scripts_on_the_users_own_host_need_trust(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHINE_DRIVER", "outside")
    (folder / "own").touch()
    write(folder, "shares = []", 'provision = ["own"]')
    code, _, err = call("up")
    assert code == 1
    assert f"- run {folder}/own as root on an existing host" in err
    assert "with the driver" not in err


def test_scripts_on_a_host_that_the_machine_is_need_trust_whatever_the_file_says_now(
    call: Call, succeed: Callable[..., str], folder: Path, store: Store
) -> None:
    write(folder)
    succeed("up")
    machine = store.load("shop")
    machine.driver_name = "outside"
    store.save(machine)
    (folder / "own").touch()
    write(folder, 'driver = "sized"', 'provision = ["own"]')
    code, _, err = call("up")
    assert code == 1
    assert f"- run {folder}/own as root on an existing host" in err


def test_permission_for_a_long_text_allows_no_similar_one(
    call: Call, succeed: Callable[..., str], folder: Path
) -> None:
    write(folder, f'options.sized-image = "{"a" * 100}x{"b" * 100}"')
    succeed("up", "--trust")
    write(folder, f'options.sized-image = "{"a" * 100}y{"b" * 100}"')
    code, _, err = call("up")
    assert code == 1
    assert f"{'a' * 100}y{'b' * 100}" in err


def test_what_the_user_names_needs_no_trust(
    succeed: Callable[..., str], folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, 'shares = [".."]', 'options.sized-image = "x"')
    monkeypatch.setenv("SIZED_IMAGE", "mine")
    succeed("up", "--share", "..", "--sized-patch", "/etc/shadow")
    assert [str(share) for share in store.load("shop").shares] == [str(folder.parent)]


def test_trust_is_remembered_for_what_was_allowed(
    call: Call, succeed: Callable[..., str], folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder, 'options.sized-image = "x"')
    succeed("up", "--trust")
    succeed("up")
    write(folder, 'options.sized-image = "x"', 'options.sized-patch = ["y"]')
    code, _, err = call("up")
    assert code == 1
    assert "sized-patch" in err
    assert "sized-image" not in err
    monkeypatch.setenv("PYMACHINE_TRUST", "1")
    succeed("up")
    monkeypatch.delenv("PYMACHINE_TRUST")
    succeed("up")
    machine = store.load("shop")
    assert machine.project is not None
    assert machine.project.file == path
    assert machine.project.trusted == ["set sized-image to x", "set sized-patch to y"]


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("yes\n", 0), ("\n", 1), ("n\n", 1), ("", 1), ("yo\n", 1)])
def test_a_terminal_is_asked(
    call: Call, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", shown)
    path = write(folder, 'options.sized-image = "a\u202eb"')
    assert call("up")[0] == code
    question = shown.getvalue()
    assert f"{path} reaches beyond its own folder. It wants to:\n- set sized-image to " in question
    assert "\u202e" not in question
    assert "Allow that? (y/N): " in question
    assert store.exists("shop") == (code == 0)


def test_a_file_of_another_user_needs_trust(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(folder)
    real, inode = os.fstat, path.stat().st_ino

    def fstat(handle: int) -> os.stat_result:
        found = real(handle)
        return os.stat_result((*found[:4], 54321, *found[5:])) if found.st_ino == inode else found

    monkeypatch.setattr(os, "fstat", fstat)
    code, _, err = call("up")
    assert code == 1
    assert "- be used although it belongs to another user (user 54321)" in err
    assert project_trust._user(0) == pwd.getpwuid(0).pw_name
    assert call("up", "--trust")[0] == 0


def test_a_machine_of_another_file_is_left_alone(
    call: Call, succeed: Callable[..., str], folder: Path, store: Store
) -> None:
    succeed("create", "mine")
    write(folder, 'name = "mine"')
    other = folder.parent / "other" / "pymachine.toml"
    other.parent.mkdir()
    other.write_text("[machine]\nname = 'theirs'\n")
    succeed("up", "--file", str(other))
    succeed("stop", "mine", "theirs")
    for words in (("up", "--trust"), ("down",), ("down", "--remove"), ("up", "--trust", "--name", "theirs")):
        code, _, err = call(*words)
        assert code == 1
        assert "exists, but it was created" in err
    assert set(store.names()) == {"mine", "theirs"}
    assert [Sized.world[name] for name in ("mine", "theirs")] == [State.STOPPED, State.STOPPED]


def test_a_moved_project_takes_its_machine_over_if_that_is_allowed(
    call: Call, succeed: Callable[..., str], folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, 'name = "web"')
    succeed("up")
    moved = folder.rename(folder.parent / "moved")
    enter(monkeypatch, moved)
    for words in (("up",), ("down",), ("down", "--remove")):
        assert call(*words)[0] == 1
    out = succeed("up", "--trust")
    assert f'--share is {moved}, but the machine "web" has {folder}' in out
    succeed("up", "--apply")
    assert [str(share) for share in store.load("web").shares] == [str(moved)]
    assert "but the machine" not in succeed("up")
    succeed("down", "--remove")


def test_the_same_file_under_another_path_is_the_same(
    succeed: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, 'name = "web"')
    succeed("up")
    (folder.parent / "link").symlink_to("shop")
    enter(monkeypatch, folder.parent / "link")
    succeed("up")
    succeed("down")


# -- differences ------------------------------------------------------------------------------------------------


def test_differences_are_reported_and_applied_only_if_asked(
    call: Call, succeed: Callable[..., str], folder: Path, store: Store
) -> None:
    (folder / "src").mkdir()
    write(folder, "memory = 1000", 'engine.label = ["a=b"]', "options.sized-quick = true")
    succeed("up")
    lines = ("memory = 2000", "cpus = 4", 'engine.label = ["c=d"]', 'shares = ["src"]', "share-events = false")
    path = write(folder, *lines, 'tls-san = ["x.example"]')
    code, out, err = call("up", "--trust")
    assert (code, err) == (0, "")
    assert f'machine.memory in {path} is 2000, but the machine "shop" has 1000.' in out
    assert f'machine.cpus in {path} is 4, but the machine "shop" has 2.' in out
    assert f'machine.shares in {path} is {folder}/src, but the machine "shop" has {folder}.' in out
    assert f'machine.engine.label in {path} is c=d, but the machine "shop" has a=b.' in out
    assert f'machine.share-events in {path} is false, but the machine "shop" has true.' in out
    assert 'the default of --sized-quick is false, but the machine "shop" has true.' in out
    assert "pymachine up --apply" in out
    assert "This needs a new machine: pymachine down --remove && pymachine up" in out
    assert store.load("shop").driver["Memory"] == 1000
    assert len(Sized.boots) == 1

    code, out, _ = call("up", "--apply", "--json", "--trust")
    value = json.loads(out)
    jsonschema.validate(value, {**SCHEMA["properties"]["up"], "$defs": SCHEMA["$defs"]})
    assert value[0]["Differences"] == [{"Option": "sized-quick", "Current": True, "Wanted": False, "Applicable": False}]
    machine = store.load("shop")
    assert (machine.driver["Memory"], machine.driver["CPU"]) == (2000, 4)
    assert machine.engine.labels == ["c=d"]
    assert machine.auth.server_cert_sans == ["x.example"]
    assert [str(share) for share in machine.shares] == [f"{folder}/src"]
    assert machine.share_events is False
    assert Sized.boots[-1] == ("shop", [f"{folder}/src"])
    found = origins(call)
    assert found["sized-memory"] == (2000, "file", f"machine.memory in {path}")
    assert found["share"] == ([f"{folder}/src"], "file", f"machine.shares in {path}")
    assert found["sized-quick"][1] == "file"
    assert "up --apply" not in succeed("up")


def test_a_socket_follows_the_file_but_not_the_users_own(
    call: Call, succeed: Callable[..., str], folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_sockets.install(monkeypatch)
    path = write(folder)
    succeed("up")
    boots = list(Sized.boots)
    write(folder, "socket = true")
    assert f"machine.socket in {path} is true" in call("up")[1]
    assert Sockets.connected == set()
    succeed("up", "--apply")
    assert Sockets.connected == {"shop"}
    assert origins(call)["socket"] == (True, "file", f"machine.socket in {path}")
    Sockets.connected.clear()  # the process has ended
    succeed("up")
    assert Sockets.connected == {"shop"}
    write(folder)
    succeed("up", "--apply")
    assert Sockets.connected == set()
    succeed("modify", "--socket", "shop")
    assert "--apply" not in succeed("up")
    assert Sockets.connected == {"shop"}
    assert Sized.boots == boots


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('[".", ".:/code"]', '[".:/code"]'),
        ('[".", ".:/code"]', '["src"]'),
        ('[".:/code", "."]', "[]"),
        ('["src:/code"]', '[".:/code", "src"]'),
        ('["src", ".:/code"]', '[".:/code:ro", "src:/src:ro"]'),
    ],
)
def test_apply_shares_exactly_the_folders_of_the_file(
    succeed: Callable[..., str], folder: Path, store: Store, before: str, after: str
) -> None:
    (folder / "src").mkdir()
    write(folder, f"shares = {before}")
    succeed("up")
    write(folder, f"shares = {after}")
    succeed("up", "--apply")
    expected = {
        text.replace(".", str(folder), 1) if text[0] == "." else f"{folder}/{text}" for text in json.loads(after)
    }
    assert {str(share) for share in store.load("shop").shares} == expected
    assert "but the machine" not in succeed("up")


def test_a_changed_machine_differs_from_its_file(succeed: Callable[..., str], folder: Path) -> None:
    write(folder, "memory = 1000")
    succeed("up")
    succeed("modify", "--restart", "--memory", "3000", "shop")
    assert 'is 1000, but the machine "shop" has 3000' in succeed("up")
    succeed("up", "--apply")
    assert "but the machine" not in succeed("up")


def test_values_that_no_file_has_are_not_compared(succeed: Callable[..., str], folder: Path) -> None:
    write(folder)
    succeed("up", "--sized-memory", "3000", "--engine-label", "a=b", "--no-share")
    assert "but the machine" not in succeed("up")


def test_a_removed_key_means_the_default(succeed: Callable[..., str], folder: Path, store: Store) -> None:
    write(folder, "memory = 3000", 'engine.label = ["a=b"]', "shares = []")
    succeed("up")
    write(folder)
    out = succeed("up")
    assert 'the default of --sized-memory is 1024, but the machine "shop" has 3000.' in out
    assert 'the default of --engine-label is empty, but the machine "shop" has a=b.' in out
    succeed("up", "--apply")
    machine = store.load("shop")
    assert machine.driver["Memory"] == 1024
    assert machine.engine.labels == []
    assert [str(share) for share in machine.shares] == [str(folder)]
    assert "but the machine" not in succeed("up")


def test_a_size_may_have_a_unit(succeed: Callable[..., str], folder: Path, store: Store) -> None:
    write(folder, 'memory = "1g"')
    succeed("up")
    assert store.load("shop").driver["Memory"] == 1024
    write(folder, "memory = 1024")
    assert "but the machine" not in succeed("up")
    path = write(folder, 'memory = "1.5G"')
    assert f'machine.memory in {path} is 1536, but the machine "shop" has 1024.' in succeed("up")
    succeed("up", "--apply")
    assert store.load("shop").driver["Memory"] == 1536
    assert "but the machine" not in succeed("up", "--sized-memory", "1536M")


def test_another_driver_takes_a_new_machine(succeed: Callable[..., str], folder: Path, store: Store) -> None:
    write(folder)
    succeed("up")
    path = write(folder, 'driver = "plain"')
    out = succeed("up", "--apply")
    assert f'machine.driver in {path} is plain, but the machine "shop" has sized.' in out
    assert "This needs a new machine" in out
    assert "--apply" not in out


def test_a_change_that_fails_changes_nothing(
    call: Call, succeed: Callable[..., str], folder: Path, store: Store
) -> None:
    write(folder, "memory = 1000")
    succeed("up")
    path = write(folder, "memory = 100")
    code, _, err = call("up", "--apply")
    assert code == 1
    assert f"machine.memory in {path} is 100, expected at least 512 MB" in err
    assert store.load("shop").driver["Memory"] == 1000
    assert Sized.world["shop"] is State.RUNNING


# -- run --------------------------------------------------------------------------------------------------------


def test_run_uses_the_file(call: Call, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "deep").mkdir()
    path = write(folder, "memory = 2048", 'name = "web"', "share-events = false")
    enter(monkeypatch, folder / "deep")
    code, out, err = call("run", "--keep", "--name", "temporary", "--", "sh", "-c", "echo $DOCKER_MACHINE_NAME; exit 7")
    assert (code, out) == (7, "temporary\n")
    assert f"Using {path}\n" in err
    machine = store.load("temporary")
    assert machine.driver["Memory"] == 2048
    assert machine.share_events is False
    assert machine.project is None
    assert [str(share) for share in machine.shares] == [str(folder)]
    assert call("run", "true")[0] == 0
    assert store.names() == ["temporary"]


def test_run_connects_through_the_socket_of_the_file(
    call: Call, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_sockets.install(monkeypatch)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    write(folder, "socket = true")
    script = "echo $DOCKER_HOST ${DOCKER_TLS_VERIFY-none} ${DOCKER_CERT_PATH-none}"
    code, out, _ = call("run", "--name", "temporary", "--", "sh", "-c", script)
    assert (code, out) == (0, f"{place.url(store.machine_dir('temporary'))} none none\n")
    assert Sockets.connected == set()


def test_run_without_the_file(call: Call, folder: Path, store: Store) -> None:
    write(folder, "memory = 2048")
    code, _, err = call("run", "--no-file", "--keep", "--name", "a", "true")
    assert code == 0
    assert "Using" not in err
    assert store.load("a").driver["Memory"] == 1024
    (folder / "pymachine.toml").write_text("broken")
    assert call("run", "true")[0] == 1
    assert call("run", "--no-file", "true")[0] == 0
    assert call("run", "--no-file=false", "true")[0] == 1


def test_flags_of_the_command_are_not_runs(call: Call, folder: Path, store: Store) -> None:
    """Neither before nor after `--`: `docker run -d nginx` names no driver of pymachine's."""
    write(folder)
    for words in (["run"], ["run", "--"], ["run", "--sized-quick", "--"], ["run", "--sized-quick"]):
        code, out, _ = call(*words, "echo", "-d", "nginx", "--file", "x", "--no-file", "--help")
        assert (code, out) == (0, "-d nginx --file x --no-file --help\n")


def test_a_failed_create_of_run_leaves_nothing(call: Call, folder: Path, store: Store) -> None:
    path = write(folder, "memory = 100")
    code, _, err = call("run", "true")
    assert code == 1
    assert f"machine.memory in {path} is 100" in err
    write(folder)
    Sized.faults.append(DriverError("no"))
    assert call("run", "true")[0] == 1
    assert store.names() == []


def test_create_does_not_read_the_file(succeed: Callable[..., str], folder: Path, store: Store) -> None:
    write(folder, "memory = 2048", 'driver = "outside"')
    succeed("create", "m")
    assert store.load("m").driver["Memory"] == 1024


def test_copies_do_not_belong_to_the_project(succeed: Callable[..., str], folder: Path, store: Store) -> None:
    write(folder, "memory = 2048")
    succeed("up")
    succeed("clone", "shop", "copy")
    copy = store.load("copy")
    assert copy.project is None
    assert copy.origins == store.load("shop").origins
    succeed("down")
    succeed("export", "shop", str(folder / "exported"))
    out = succeed("import", str(folder / "exported"), "imported")
    assert (store.load("imported").project, store.load("imported").origins) == (None, {})
    assert "Project" not in out
