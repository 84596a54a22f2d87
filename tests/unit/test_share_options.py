"""Shared folders on the command line: defaults, `create`, `run`, `modify`, `clone`, `export` and `import`."""

from __future__ import annotations

import io
import json
import os
import pty
import pwd
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from pymachine.cli import app, main as main_module, run as run_module, share_options
from pymachine.driver.contract import State
from pymachine.driver.shares import ShareEvents
from pymachine.errors import DriverError
from pymachine.hosts import archive_reader, archive_writer
from pymachine.hosts.archive_format import MACHINE, Content, Manifest
from pymachine.hosts.host import Hosts
from pymachine.hosts.modify import Changes
from pymachine.store.store import Store
from support import cli_calls
from support.cli_calls import Call
from support.sharing import Plain, install, share


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, which has the current folder `project`."""
    folder = tmp_path / "home"
    (folder / "project").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    enter(monkeypatch, folder / "project")
    return folder


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Store:
    install(monkeypatch)
    root = tmp_path / "store"
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(root))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    return Store(root)


@pytest.fixture
def call(store: Store, capsys: pytest.CaptureFixture[str]) -> Call:
    return cli_calls.any_code(capsys)


def enter(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Enter a folder as a shell does."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PWD", str(folder))


def configure(store: Store, text: str) -> Path:
    store.root.mkdir(exist_ok=True)
    path = store.root / "config.toml"
    path.write_text(text)
    return path


def shared(store: Store, name: str = "m") -> list[str]:
    """Return the shares in the record of a machine."""
    return [str(each) for each in store.load(name).shares]


def speaks(text: str) -> bool:
    """Return whether a message names the options of shared folders."""
    return "--share" in text or "--no-share" in text


# -- what a new machine shares -----------------------------------------------------------------------------------


def test_create_shares_the_home_and_run_the_current_folder(
    call: Call, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = call("create", "m")
    assert (code, shared(store)) == (0, [str(home)])
    assert not speaks(out)
    assert Plain.boots == [("m", [str(home)])]
    monkeypatch.setattr(run_module, "_call", lambda words, environment: 0)
    assert call("run", "--name", "r", "true")[0] == 0
    assert Plain.boots[1:] == [("r", [str(home / "project")])]


@pytest.mark.parametrize(
    ("value", "is_ci"),
    [(None, False), ("", False), ("0", False), ("false", False), ("False", False), ("true", True), ("1", True)],
)
def test_in_ci_create_shares_the_current_folder(
    call: Call, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, is_ci: bool
) -> None:
    if value is not None:
        monkeypatch.setenv("CI", value)
    call("create", "m")
    assert shared(store) == [str(home / "project" if is_ci else home)]


def test_the_command_line_wins_over_variables_and_they_over_the_configuration(
    call: Call, store: Store, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("c", "v", "w", "l"):
        (tmp_path / name).mkdir()
    configure(store, f'[shares]\ncreate = ["{tmp_path}/c", "~/project:/p:ro"]\nrun = []\n')
    call("create", "configured")
    assert shared(store, "configured") == [f"{tmp_path}/c", f"{home}/project:/p:ro"]

    monkeypatch.setenv("PYMACHINE_SHARE", f"{tmp_path}/v , .:/here")
    call("create", "variable")
    assert shared(store, "variable") == [f"{tmp_path}/v", f"{home}/project:/here"]

    call("create", "--share", f"{tmp_path}/l", "-share=..:/up:ro", "line")
    assert shared(store, "line") == [f"{tmp_path}/l", f"{home}:/up:ro"]
    call("create", "--no-share", "nothing")
    assert shared(store, "nothing") == []

    monkeypatch.setenv("PYMACHINE_NO_SHARE", "1")
    call("create", "no-share-variable")
    assert shared(store, "no-share-variable") == []
    call("create", "--share", f"{tmp_path}/l", "line-again")
    assert shared(store, "line-again") == [f"{tmp_path}/l"]
    call("create", "--no-share=false", "default-again")
    assert shared(store, "default-again") == [f"{tmp_path}/v", f"{home}/project:/here"]


@pytest.mark.parametrize(
    ("value", "shares"), [("yes", False), ("TRUE", False), ("", True), ("0", True), ("false", True), ("F", True)]
)
def test_any_other_value_of_the_variable_shares_nothing(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch, value: str, shares: bool
) -> None:
    monkeypatch.setenv("PYMACHINE_NO_SHARE", value)
    call("create", "m")
    assert bool(shared(store)) == shares


def test_each_command_has_its_own_configuration(
    call: Call, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_call", lambda words, environment: 0)
    configure(store, '[shares]\nrun = []\n[libvirt.hosts]\nx = "qemu:///system"\n')
    call("create", "m")
    call("run", "--name", "r", "true")
    assert Plain.boots == [("m", [str(home)]), ("r", [])]
    configure(store, "[shares]\ncreate = []\n")
    call("create", "n")
    call("run", "--name", "s", "true")
    assert Plain.boots[2:] == [("n", []), ("s", [str(home / "project")])]


def test_an_empty_variable_is_no_variable(
    call: Call, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYMACHINE_SHARE", "")
    call("create", "m")
    assert shared(store) == [str(home)]


def test_share_and_no_share_exclude_each_other(call: Call, store: Store) -> None:
    for command in (["create", "m"], ["run", "true"], ["clone", "m", "n"], ["import", "/no/such"]):
        code, _, err = call(command[0], "--share", ".", "--no-share", *command[1:])
        assert (code, "--share and --no-share exclude each other" in err) == (1, True), command
    assert store.names() == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[shares]\ncreate = "~"\n', "[shares] may only have lists of folders called create, run and without_events"),
        ("[shares]\ncreate = [1]\n", "[shares] may only have lists"),
        ("[shares]\nclone = []\n", "[shares] may only have lists"),
        ("shares = 1\n", "[shares] may only have lists"),
        ("[[shares]]\ncreate = []\n", "[shares] may only have lists"),
        ("[shares\n", "is not TOML"),
        ('[shares]\ncreate = ["work"]\n', "work cannot be shared: its path must be absolute, or begin with ~/"),
        ('[shares]\ncreate = ["."]\n', "its path must be absolute, or begin with ~/"),
        ('[shares]\ncreate = ["/a:b"]\n', "/a:b cannot be shared: expected PATH[:GUEST_PATH][:ro]"),
        ('[shares]\ncreate = ["/usr"]\n', "in the guest it would hide /usr"),
        ('[shares]\ncreate = ["/a\\u0000b"]\n', "control character"),
        ('[shares]\ncreate = [""]\n', "no folder to share in ''"),
    ],
)
def test_mistakes_in_the_configuration_are_errors_that_name_it(
    call: Call, store: Store, text: str, message: str
) -> None:
    path = configure(store, text)
    code, _, err = call("create", "m")
    assert (code, err.startswith(f"{path}"), message in err) == (1, True, True), err
    assert store.names() == []
    # The file has other settings too, which a file that is not TOML hides.
    assert call("create", "--no-share", "m")[0] == (1 if message == "is not TOML" else 0)


def test_a_configuration_that_cannot_be_read_is_named(call: Call, store: Store) -> None:
    configure(store, "").unlink()
    makers: list[Callable[[Path], None]] = [Path.mkdir, lambda path: path.symlink_to(path.name)]
    for make in makers:
        path = store.root / "config.toml"
        make(path)
        code, _, err = call("create", "m")
        assert (code, f"cannot read {path}" in err) == (1, True), err
        path.unlink() if path.is_symlink() else path.rmdir()
    (store.root / "config.toml").write_bytes(b"\xff")
    assert "is not TOML" in call("create", "m")[2]
    (store.root / "config.toml").unlink()
    (store.root / "config.toml").symlink_to("nowhere")  # as if it did not exist
    assert call("create", "m")[0] == 0


@pytest.mark.parametrize("value", ["/a,,/b", ",", "/usr", "/a:b"])
def test_mistakes_in_the_variable_are_errors_that_name_it(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("PYMACHINE_SHARE", value)
    code, _, err = call("create", "m")
    assert (code, err.startswith("$PYMACHINE_SHARE: "), store.names()) == (1, True, [])


@pytest.mark.parametrize(
    "word", ["", "/", "/usr", "/no/such", "file", "/a:b", "/data:/x:ro:ro", "/a\nb", "x" * 4000, "project:/etc/x"]
)
def test_a_folder_that_was_asked_for_and_cannot_be_shared_leaves_no_machine(
    call: Call, store: Store, home: Path, word: str
) -> None:
    (home / "project" / "file").touch()
    code, out, err = call("create", "--share", word, "m")
    assert (code, store.names(), Plain.boots, out.count("Creating machine")) == (1, [], [], 0)
    assert len(err) < 600
    assert len(err.splitlines()) <= 2


def test_a_driver_that_cannot_share_has_no_default_and_refuses_shares(call: Call, store: Store, home: Path) -> None:
    code, out, err = call("create", "-d", "plain", "m")
    assert (code, shared(store), speaks(out + err)) == (0, [], False)
    code, _, err = call("create", "-d", "plain", "--share", str(home), "n")
    assert (code, "plain driver does not support shared folders" in err) == (1, True)
    assert store.names() == ["m"]


# -- defaults that cannot be had ---------------------------------------------------------------------------------


def warned(call: Call, why: str, *words: str) -> None:
    """Create a machine; check that it shares nothing, and that one line says why."""
    code, out, err = call("create", *(words or ["m"]))
    assert code == 0, err
    lines = [line for line in out.splitlines() if speaks(line)]
    assert [why in line for line in lines] == [True], lines


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("/", "/ is the guest's own root"),
        ("", "/ is the guest's own root"),
        ("/nonexistent", "/nonexistent is not shared with the machine: it does not exist"),
        ("relative", "relative cannot be shared: its path must be absolute"),
        ("/etc", "in the guest it would hide /etc"),
        ("/home/docker", "in the guest it would hide /home/docker"),
        ("/dev/null", "in the guest it would hide /dev"),
        ("/a:b", "its path contains a colon"),
        ("/a\nb", "its path contains a control character"),
    ],
)
def test_a_home_that_cannot_be_shared_fails_no_create(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch, value: str, why: str
) -> None:
    monkeypatch.setenv("HOME", value)
    warned(call, why)
    assert shared(store) == []


def test_a_user_without_a_home_can_create_a_machine(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    warned(call, "the home folder of this user is not known")
    assert shared(store) == []


def test_without_the_variable_the_home_is_that_of_the_system(
    call: Call, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = pwd.struct_passwd(("me", "x", os.getuid(), os.getgid(), "", str(home / "project"), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda user: entry)
    monkeypatch.delenv("HOME")
    call("create", "m")
    assert shared(store) == [f"{home}/project"]


@pytest.mark.parametrize("name", ["a:b", "a:", "b:ro", "x\ny"])
def test_a_current_folder_with_an_odd_name_is_not_shared_in_ci(
    call: Call, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (home / name / "srv").mkdir(parents=True)
    enter(monkeypatch, home / name / "srv")
    monkeypatch.setenv("CI", "true")
    warned(call, "its path ")
    assert shared(store) == []
    assert call("create", "--share", ".", "n")[0] == 1


@pytest.mark.parametrize("where", [".", "..", "link", "link/.."])
def test_the_home_is_not_shared_as_a_part_of_the_current_folder(
    call: Call, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    (home.parent / "link").symlink_to("home")
    enter(monkeypatch, Path(os.path.normpath((home if where.startswith(".") else home.parent) / where)))
    monkeypatch.setattr(run_module, "_call", lambda words, environment: 0)
    monkeypatch.setenv("CI", "true")
    warned(call, "your home folder is in the current folder")
    code, _, err = call("run", "--name", "r", "true")
    assert (code, "your home folder is in the current folder" in err, Plain.boots) == (0, True, [("m", []), ("r", [])])
    assert call("create", "--share", "~", "n")[0] == 0
    assert shared(store, "n") == [str(home)]
    monkeypatch.delenv("CI")
    call("create", "o")
    assert shared(store, "o") == [str(home)]


def test_a_current_folder_that_was_removed_is_no_default(
    call: Call, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "gone").mkdir()
    enter(monkeypatch, home / "gone")
    (home / "gone").rmdir()
    monkeypatch.setenv("CI", "1")
    warned(call, "the current folder was removed")
    assert shared(store) == []
    code, _, err = call("create", "--share", "x", "n")
    assert (code, "the current folder was removed" in err) == (1, True)
    assert call("create", "--share", str(home), "n")[0] == 0
    call("stop", "n")
    assert call("modify", "--share", f"{home}/project", "--unshare", str(home), "n")[0] == 0
    assert "x is not shared" in call("modify", "--unshare", "x", "n")[2]
    os.chdir(home)


def test_one_missing_folder_of_the_users_default_does_not_cost_the_others(
    call: Call, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(store, '[shares]\ncreate = ["/no/such", "~/project"]\n')
    warned(call, "/no/such is not shared with the machine: it does not exist")
    assert shared(store) == [f"{home}/project"]
    monkeypatch.setenv("PYMACHINE_SHARE", "/no/such,/no/such/either")
    code, out, _ = call("create", "n")
    assert (code, out.count("is not shared"), shared(store, "n")) == (0, 2, [])


def test_more_default_folders_than_the_driver_can_share_are_none(call: Call, store: Store, home: Path) -> None:
    configure(store, f"[shares]\ncreate = {json.dumps([f'~/project:/p{number}' for number in range(4)])}\n")
    warned(call, "at most 3 folders, not 4")
    assert shared(store) == []
    code, _, err = call("create", *(word for number in range(4) for word in ("--share", f".:/p{number}")), "n")
    assert (code, "at most 3 folders, not 4" in err) == (1, True)


def test_a_create_that_fails_for_another_reason_does_not_speak_of_shares(call: Call, store: Store) -> None:
    Plain.faults.append(DriverError("no hypervisor"))
    code, out, err = call("create", "m")
    assert (code, "no hypervisor" in err, speaks(out + err)) == (1, True, False)


# -- the current folder ------------------------------------------------------------------------------------------


def test_the_current_folder_has_the_name_that_the_shell_shows(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "link").symlink_to("project")
    enter(monkeypatch, home / "link")
    assert share_options.current_folder() == home / "link"
    assert share_options.parsed("x/..") == share(home / "link")
    actual = home / "project"
    for lie in ("/", "/nonexistent", "link", "", str(home), "/a\0b", f"{home}/link/../project", "x" * 5000):
        if "\0" in lie:
            monkeypatch.setattr(os, "environ", {**os.environ, "PWD": lie})
        else:
            monkeypatch.setenv("PWD", lie)
        assert share_options.current_folder() == actual, lie
    monkeypatch.delenv("PWD")
    assert share_options.current_folder() == actual


# -- existing machines -------------------------------------------------------------------------------------------


def test_modify_adds_replaces_and_removes_shares(
    call: Call, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "link").symlink_to("project")
    call("create", "--share", "/:/x", "m")  # refused
    call("create", "--no-share", "m")
    code, _, err = call("modify", "--share", ".", "m")
    assert (code, "--restart" in err, shared(store)) == (1, True, [])
    assert call("modify", "--restart", "--share", "..", "--share", ".:/p:ro", "m")[0] == 1  # read-only in writable
    assert shared(store) == []
    assert call("modify", "--restart", "--share", ".", "m")[0] == 0
    assert Plain.boots[-1] == ("m", [f"{home}/project"])
    call("stop", "m")
    assert call("modify", "--share", f".:{home}/project:ro", "m")[0] == 0
    assert shared(store) == [f"{home}/project:ro"]
    enter(monkeypatch, home / "link")
    assert call("modify", "--share", ".:/w:ro", "m")[0] == 0
    assert shared(store) == [f"{home}/project:ro", f"{home}/link:/w:ro"]
    assert call("modify", "--unshare", ".", "m")[0] == 0
    assert call("modify", "--unshare", f"{home}/project/", "m")[0] == 0
    assert shared(store) == []
    for words, message in (
        (["--unshare", "."], "is not shared with the machine"),
        (["--unshare", ""], "'' is not shared"),
        (["--share", "/no/such"], "does not exist"),
        (["--share", ""], "no folder to share"),
        (["--share", "/usr"], "would hide /usr"),
        ([word for number in range(4) for word in ("--share", f".:/{number}")], "at most 3 folders"),
        ([], "Nothing to change"),
    ):
        code, _, err = call("modify", *words, "m")
        assert (code, message in err, shared(store)) == (1, True, []), err


def test_modify_keeps_folders_that_are_missing_now(call: Call, store: Store, home: Path) -> None:
    for name in ("one", "two"):
        (home / name).mkdir()
    call("create", "--share", "../one", "m")
    call("stop", "m")
    (home / "one").rmdir()
    assert call("modify", "--share", "../two", "m")[0] == 0
    assert shared(store) == [f"{home}/one", f"{home}/two"]
    code, out, _ = call("start", "m")
    assert (code, f"{home}/one is not shared: it does not exist." in out) == (0, True)
    assert Plain.boots[-1] == ("m", [f"{home}/one", f"{home}/two"])  # the driver keeps its place


def test_a_change_that_fails_leaves_the_shares(call: Call, store: Store, home: Path) -> None:
    call("create", "--no-share", "m")
    Plain.faults.append(DriverError("no start"))
    code, _, err = call("modify", "--restart", "--share", ".", "m")
    assert (code, "no start" in err, shared(store)) == (1, True, [])
    assert Plain.boots[-1] == ("m", [])
    assert Plain.world == {"m": State.RUNNING}


def test_modify_of_a_driver_that_cannot_share(call: Call, store: Store) -> None:
    call("create", "-d", "plain", "m")
    call("stop", "m")
    code, _, err = call("modify", "--share", "/no/such", "m")
    assert (code, "plain driver does not support shared folders" in err) == (1, True)
    machine = store.load("m")
    machine.shares = [share("/data")]  # as a record from elsewhere may say
    store.save(machine)
    assert call("modify", "--unshare", "/data", "m")[0] == 0
    assert shared(store) == []


def test_shares_stay_when_a_machine_is_restarted_or_renamed(call: Call, store: Store, home: Path) -> None:
    call("create", "m")
    for command in (["restart", "m"], ["stop", "m"], ["rename", "m", "n"], ["start", "n"], ["kill", "n"]):
        assert call(*command)[0] == 0
    assert shared(store, "n") == [str(home)]
    assert Plain.boots[-1] == ("n", [str(home)])


def test_a_clone_takes_over_the_shares_or_gets_others(call: Call, store: Store, home: Path) -> None:
    (home / "vanishing").mkdir()
    call("create", "--share", "../vanishing", "--share", ".:/p:ro", "m")
    (home / "vanishing").rmdir()
    code, out, _ = call("clone", "m", "same")
    assert (code, f"{home}/vanishing is not shared: it does not exist" in out) == (0, True)
    assert shared(store, "same") == [f"{home}/vanishing", f"{home}/project:/p:ro"]
    assert call("clone", "--share", ".", "m", "other")[0] == 0
    assert shared(store, "other") == [f"{home}/project"]
    assert call("clone", "m", "nothing", "--no-share")[0] == 0
    assert shared(store, "nothing") == []
    assert Plain.boots[-1] == ("nothing", [])
    code, _, err = call("clone", "--share", "/no/such", "m", "refused")
    assert (code, "does not exist" in err, store.exists("refused")) == (1, True, False)


def test_variables_and_configuration_do_not_change_a_clone(
    call: Call, store: Store, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("create", "m")
    configure(store, "[shares]\ncreate = []\n")
    monkeypatch.setenv("PYMACHINE_SHARE", "/no/such")
    monkeypatch.setenv("PYMACHINE_NO_SHARE", "1")
    call("clone", "m", "n")
    assert shared(store, "n") == [str(home)]


# -- export and import -------------------------------------------------------------------------------------------


@pytest.fixture
def file(call: Call, tmp_path: Path) -> str:
    """The export of a machine that shares the home and another folder."""
    (tmp_path / "data").mkdir()
    call("create", "--share", "~", "--share", f"{tmp_path}/data:/data:ro", "m")
    call("stop", "m")
    target = str(tmp_path / "file")
    code, out, _ = call("export", "m", target)
    assert code == 0
    assert "Folders of this host that the machine shares are not in it: " in out
    assert f"{tmp_path}/home, {tmp_path}/data:/data:ro\n" in out
    return target


def test_an_export_has_no_shares(call: Call, file: str, tmp_path: Path) -> None:
    with archive_reader.opened(Path(file)) as archive:
        member = archive.manifest.members[0]
        archive.extract(member, tmp_path / "record")
    text = (tmp_path / "record").read_text()
    assert "Shares" not in json.loads(text)
    assert str(tmp_path / "home") not in text.replace(str(tmp_path / "store"), "")
    call("create", "--no-share", "n")
    call("stop", "n")
    assert "Folders" not in call("export", "n", str(tmp_path / "second"))[1]
    code, out, err = call("export", "--json", "--force", "m", file)
    assert (code, json.loads(out), "are not in it" in err) == (0, {"Name": "m", "File": file}, True)


def test_import_shares_nothing_where_nobody_can_be_asked(call: Call, store: Store, file: str) -> None:
    code, out, _ = call("import", file, "n")
    assert (code, shared(store, "n")) == (0, [])
    assert out.splitlines()[-1] == "It shares no folder of this host. To share one: pymachine modify --share PATH n"
    assert "Left out" not in out
    code, out, err = call("import", "--json", file, "o")
    assert (code, len(json.loads(out)), "It shares no folder" in err) == (0, 1, True)


def test_import_shares_what_the_command_line_says(call: Call, store: Store, home: Path, file: str) -> None:
    code, out, _ = call("import", "--share", ".:/p:ro", file, "n")
    assert (code, shared(store, "n"), "shares no folder" in out) == (0, [f"{home}/project:/p:ro"], False)
    code, out, _ = call("import", "--no-share", file, "o")
    assert (code, shared(store, "o"), "shares no folder" in out) == (0, [], False)
    call("start", "n")
    assert Plain.boots[-1] == ("n", [f"{home}/project:/p:ro"])
    for words in (["--share", "/no/such"], [word for number in range(4) for word in ("--share", f".:/{number}")]):
        code, _, _ = call("import", *words, file, "refused")
        assert (code, store.exists("refused")) == (1, False)
    assert sorted(path.name for path in (store.root / "machines").iterdir()) == ["m", "n", "o"]


def test_import_of_a_machine_that_cannot_share_says_nothing(
    call: Call, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("create", "-d", "plain", "m")
    call("stop", "m")
    call("export", "m", str(tmp_path / "file"))
    code, out, err = call("import", str(tmp_path / "file"), "n")
    assert (code, speaks(out + err)) == (0, False)
    code, _, err = call("import", "--share", ".", str(tmp_path / "file"), "o")
    assert (code, "does not support shared folders" in err, store.exists("o")) == (1, True, False)


def test_a_machine_on_another_host_is_imported_without_a_question(
    call: Call, store: Store, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Plain, "where", "other-host")
    monkeypatch.setattr(share_options, "ask", lambda app, ctx: pytest.fail("asked"))
    code, out, _ = call("import", file, "n")
    assert (code, speaks(out)) == (0, False)


def test_connection_details_have_no_shares(
    call: Call, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("create", "m")
    assert call("export", "--connection", "m", str(tmp_path / "file"))[0] == 0
    monkeypatch.setattr(share_options, "ask", lambda app, ctx: pytest.fail("asked"))
    code, _, err = call("import", "--share", ".", str(tmp_path / "file"), "n")
    assert (code, "none driver does not support shared folders" in err, store.exists("n")) == (1, True, False)
    code, out, _ = call("import", str(tmp_path / "file"), "n")
    assert (code, shared(store, "n"), speaks(out)) == (0, [], False)


@pytest.mark.parametrize(
    "shares",
    [
        [{"Path": "/", "GuestPath": "/host", "ReadOnly": False}],
        [{"Path": "/root/.ssh", "GuestPath": "/keys", "ReadOnly": False}],
        [{"Path": "/data", "GuestPath": "/data", "ReadOnly": "evil"}] * 10_000,
        "evil",
        {"evil": 1},
        1,
    ],
)
def test_shares_in_a_hostile_or_older_export_are_dropped(
    call: Call, store: Store, tmp_path: Path, file: str, shares: Any
) -> None:
    folder = store.machine_dir("m")
    record = json.loads((folder / "config.json").read_text()) | {"Shares": shares}
    files = [folder / name for name in ("id_rsa", "ssh_host_ed25519_key", "disk")]
    parts: list[Path | Content] = [Content("config.json", json.dumps(record).encode()), *files]
    hostile = tmp_path / "hostile"
    archive_writer.write(hostile, Manifest(MACHINE, "m", "sharing"), parts, advance=lambda size: None)
    code, out, err = call("import", str(hostile), "n")
    assert code == 0, err
    assert shared(store, "n") == []
    (line,) = [line for line in out.splitlines() if line.startswith("Left out")]
    assert "Shares" in line
    assert "evil" not in (store.machine_dir("n") / "config.json").read_text() + line
    call("start", "n")
    assert Plain.boots[-1] == ("n", [])


class Terminal:
    """`import` of `file` as machine `n`, in a child process with a terminal of its own."""

    def __init__(self, file: str, *words: str) -> None:
        self.output = b""
        self._child, self._terminal = pty.fork()
        if self._child == 0:
            code = 99
            try:
                sys.stdin, sys.stdout, sys.stderr = (os.fdopen(fd, mode) for fd, mode in enumerate(("r", "w", "w")))
                code = main_module.main(["pymachine", "import", *words, file, "n"])
            finally:
                os._exit(code)

    def wait_for(self, text: str) -> None:
        """Read until `text` was printed. The text before it is dropped."""
        while text.encode() not in self.output:
            data = self._read()
            assert data, self.output.decode()
            self.output += data
        self.output = self.output.partition(text.encode())[2]

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def interrupt(self) -> None:
        """Type Ctrl-C until the program ends. Python loses one that comes just before it begins to wait for input."""
        ended = False
        while not ended:
            self.type("\x03")
            while not ended and select.select([self._terminal], [], [], 1)[0]:
                data = self._read()
                self.output += data
                ended = not data

    def end(self) -> tuple[int, str]:
        """Wait for the end, and return the exit code and the remaining output."""
        while data := self._read():
            self.output += data
        os.close(self._terminal)
        code = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        return code, self.output.decode().replace("\r\n", "\n")

    def _read(self) -> bytes:
        assert select.select([self._terminal], [], [], 60)[0], f"no output after {self.output.decode()}"
        try:
            return os.read(self._terminal, 65536)
        except OSError:  # Linux reports so that the child has closed the terminal
            return b""


@pytest.mark.parametrize(("answer", "shares"), [("y", True), ("YES", True), ("n", False), ("No", False), ("", False)])
def test_import_asks_on_a_terminal(store: Store, home: Path, file: str, answer: str, shares: bool) -> None:
    terminal = Terminal(file)
    terminal.wait_for(f"Share {home} with this machine? Its programs can then read and change the files there. (y/N): ")
    terminal.type(f"{answer}\n")
    code, text = terminal.end()
    assert (code, shared(store, "n")) == (0, [str(home)] if shares else [])
    assert 'Machine "n" was imported.\n' in text
    assert "shares no folder" not in text


def test_import_repeats_its_question_after_another_answer(store: Store, home: Path, file: str) -> None:
    terminal = Terminal(file)
    for answer in ("maybe", "yy", "/data", "0"):
        terminal.wait_for("(y/N): ")
        terminal.type(f"{answer}\n")
    terminal.wait_for("(y/N): ")
    terminal.type("y\n")
    assert terminal.end()[0] == 0
    assert shared(store, "n") == [str(home)]


def test_the_end_of_the_input_means_no(store: Store, file: str) -> None:
    terminal = Terminal(file)
    terminal.wait_for("(y/N): ")
    terminal.type("\x04")
    assert terminal.end()[0] == 0
    assert shared(store, "n") == []


def test_an_interrupted_question_leaves_nothing(store: Store, file: str, interruptible: None) -> None:
    terminal = Terminal(file)
    terminal.wait_for("(y/N): ")
    terminal.interrupt()
    code, text = terminal.end()
    assert (code, "Traceback" in text) == (130, False)
    assert [path.name for path in (store.root / "machines").iterdir()] == ["m"]


def test_the_question_is_about_the_default_of_create(
    store: Store, home: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(store, '[shares]\ncreate = ["/no/such", "~/project:/p:ro"]\n')
    terminal = Terminal(file, "--json")
    terminal.wait_for(f"Share {home}/project:/p:ro with this machine?")
    terminal.wait_for("(y/N): ")
    terminal.type("y\n")
    assert terminal.end()[0] == 0
    assert shared(store, "n") == [f"{home}/project:/p:ro"]


@pytest.mark.parametrize(
    "variables", [{"CI": "true"}, {"PYMACHINE_NO_SHARE": "1"}, {"HOME": "/"}, {"HOME": "/nonexistent"}]
)
def test_import_does_not_ask_in_ci_or_if_there_is_no_folder_to_share(
    store: Store, file: str, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, text = Terminal(file).end()
    assert (code, "(y/N)" in text, shared(store, "n")) == (0, False, [])
    assert "It shares no folder of this host. To share one: pymachine modify --share PATH n\n" in text


def test_import_does_not_ask_if_the_command_line_answers(store: Store, home: Path, file: str) -> None:
    for words, found in ((["--no-share"], []), (["--share", "."], [f"{home}/project"])):
        code, text = Terminal(file, *words).end()
        assert (code, "(y/N)" in text, shared(store, "n")) == (0, False, found)
        main_module.main(["pymachine", "rm", "-y", "n"])


# -- events ------------------------------------------------------------------------------------------------------

DEFAULT = ShareEvents((".git", ".hg", ".svn", "node_modules"))


def test_changes_raise_events_unless_they_are_switched_off(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_call", lambda words, environment: 0)
    call("create", "m")
    call("create", "--no-share", "nothing")
    call("create", "--no-share-events", "n")
    call("run", "--keep", "--no-share-events", "--name", "r", "true")
    call("run", "--keep", "--name", "s", "true")
    monkeypatch.setenv("PYMACHINE_NO_SHARE_EVENTS", "1")
    call("create", "variable")
    call("create", "--no-share-events=false", "line")
    assert Plain.events == [DEFAULT, None, None, None, DEFAULT, None, DEFAULT]
    wanted = {name: store.load(name).share_events for name in store.names()}
    assert [name for name, wants in wanted.items() if not wants] == ["n", "r", "variable"]


def test_the_record_says_only_that_events_are_off(call: Call, store: Store) -> None:
    call("create", "m")
    call("create", "--no-share-events", "n")
    assert "ShareEvents" not in json.loads(call("inspect", "m")[1])
    assert json.loads(call("inspect", "n")[1])["ShareEvents"] is False
    assert call("inspect", "-f", "{{.ShareEvents}}", "n")[1] == "false\n"


def test_modify_switches_events_on_and_off(call: Call, store: Store) -> None:
    call("create", "m")
    code, _, err = call("modify", "--share-events", "--no-share-events", "m")
    assert (code, "--share-events and --no-share-events exclude each other" in err) == (1, True)
    assert call("modify", "--no-share-events", "m")[0] == 1  # it is running
    assert store.load("m").share_events
    assert call("modify", "--restart", "--no-share-events", "m")[0] == 0
    assert (store.load("m").share_events, Plain.events[-1]) == (False, None)
    call("stop", "m")
    assert call("modify", "--share", ".", "m")[0] == 0
    assert not store.load("m").share_events
    assert call("modify", "--share-events", "m")[0] == 0
    call("start", "m")
    assert Plain.events[-1] == DEFAULT


def test_a_running_machine_is_stopped_only_if_its_events_change(call: Call, store: Store) -> None:
    call("create", "m")
    call("create", "--no-share", "n")
    hosts = Hosts(store)
    wanted = [(name, events) for name in "mn" for events in (True, False)]
    stopped = [each for each in wanted if Changes(share_events=each[1]).needs_stop(hosts.open(each[0]))]
    assert stopped == [("m", False)]  # m has events already, and n has no folder


def test_a_clone_wants_the_events_of_its_original(call: Call, store: Store) -> None:
    call("create", "--no-share-events", "m")
    call("stop", "m")
    assert call("clone", "m", "n")[0] == 0
    assert not store.load("n").share_events


def test_the_configuration_names_folders_without_events(call: Call, store: Store) -> None:
    configure(store, '[shares]\nwithout_events = ["target", ".git"]\n')
    call("create", "m")
    configure(store, "[shares]\nwithout_events = []\n")
    call("restart", "m")
    path = configure(store, '[shares]\nwithout_events = "target"\n')
    assert Plain.events == [ShareEvents(("target", ".git")), ShareEvents()]
    code, _, err = call("create", "--no-share", "n")
    assert code == 0, err
    code, _, err = call("create", "o")
    assert (code, err.startswith(str(path))) == (1, True)


def test_a_mistake_in_the_configuration_keeps_no_machine_off(call: Call, store: Store) -> None:
    call("create", "m")
    path = configure(store, "[shares]\nwithout_events = 1\n")
    code, out, err = call("restart", "m")
    assert code == 0, err
    assert str(path) in out + err
    assert Plain.events[-1] == ShareEvents((".git", ".hg", ".svn", "node_modules"))


# -- reports -----------------------------------------------------------------------------------------------------


def test_ls_and_inspect_show_shares(call: Call, store: Store, home: Path) -> None:
    call("create", "--share", ".", "--share", ".:/a b,c", "m")
    call("create", "--no-share", "n")
    expected = [
        {"Path": f"{home}/project", "GuestPath": f"{home}/project", "ReadOnly": False},
        {"Path": f"{home}/project", "GuestPath": "/a b,c", "ReadOnly": False},
    ]
    rows = json.loads(call("ls", "--json", "-t", "1")[1])
    assert {row["Name"]: row["Shares"] for row in rows} == {"m": expected, "n": []}
    record = json.loads(call("inspect", "m")[1])
    assert record["Shares"] == expected
    assert call("inspect", "-f", "{{range .Shares}}{{.GuestPath}};{{end}}", "m")[1] == f"{home}/project;/a b,c;\n"
    assert "Shares" not in json.loads(call("inspect", "n")[1])


def test_templates_of_ls_can_name_shares_and_others_do_not_see_them(call: Call, store: Store, home: Path) -> None:
    call("create", "m")
    call("create", "--share", ".:/p:ro", "--share", ".:/q:ro", "n")
    assert call("ls", "-t", "1", "-f", "{{.Name}} {{.Shares}}")[1] == (
        f"m [{home}]\nn [{home}/project:/p:ro {home}/project:/q:ro]\n"
    )
    assert call("ls", "-t", "1", "-f", '{{join .Shares ","}}')[1].splitlines()[0] == str(home)
    assert call("ls", "-t", "1", "-f", "table {{.Name}}\t{{len .Shares}}")[1].split() == [
        "NAME",
        "6",
        "m",
        "1",
        "n",
        "2",
    ]
    assert call("ls", "-t", "1", "-f", "table {{.Shares}}")[1].splitlines()[0] == "SHARES"
    assert str(home) not in call("ls", "-t", "1", "-f", "{{.}}")[1]
    assert str(home) not in call("ls", "-t", "1")[1]
    assert json.loads(call("ls", "-t", "1", "-f", "{{json .}}")[1].splitlines()[0])["Shares"][0]["Path"] == str(home)


def test_doctor_reports_shares_and_those_that_are_missing(call: Call, store: Store, home: Path) -> None:
    (home / "it's gone").mkdir()
    call("create", "--share", "../it's gone:/x", "--share", ".", "m")
    (home / "it's gone").rmdir()
    rows = json.loads(call("doctor", "--json", "-d", "sharing")[1])
    found = {row["Text"]: (row["Verdict"], row["Fix"]) for row in rows if row["Subject"] == "machine m"}
    assert found[f"shares {home}/project"] == ("ok", "")
    verdict, fix = found[f"{home}/it's gone:/x is not shared: it does not exist"]
    assert verdict == "note"
    assert fix.endswith(f"""pymachine modify --unshare '{home}/it'"'"'s gone' m""")


def test_the_shell_completes_folders(store: Store) -> None:
    for command, options in (("create", ["share"]), ("modify", ["share", "unshare"]), ("clone", ["share"])):
        params: Any = app.group.get_command(click.Context(app.group), command).params  # type: ignore[union-attr]
        for name in options:
            (param,) = [param for param in params if param.name == name]
            assert [item.type for item in param.shell_complete(None, "/da")] == ["dir"]
