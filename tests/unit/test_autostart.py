"""`autostart`: the services of systemd and launchd, and the commands that keep them true.

Programs in the place of systemctl and loginctl note their calls. The unit is checked by the real systemd-analyze
here, and runs in tests/integration/test_autostart_at_boot.py.
"""

from __future__ import annotations

import json
import os
import plistlib
import pwd
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pymachine.driver.kit import transactions
from pymachine.hosts import autostart_services, change_notes
from pymachine.hosts.host import Hosts
from pymachine.store.store import Store
from pymachine.system import user_services
from pymachine.system.user_services import UserService, UserServiceError
from support import cli_calls, sharing
from support.cli_calls import Call

ODD = ["/a b/it's", "100%h", "$HOME ${PATH}", 'a "quote"', "back\\slash\\n", ";", "#", "ü", "'single'", ""]


class Manager:
    """Programs called systemctl and loginctl, which fail if their file of faults has a line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for program in ("systemctl", "loginctl"):
            script = folder / program
            script.write_text(
                f'#!/bin/sh\necho "{program} $*" >> {shlex.quote(str(folder / "calls"))}\n'
                f'line=$(grep -h "^$3 \\|^$2 " {shlex.quote(str(folder / "faults"))} | head -n 1)\n'
                '[ -z "$line" ] || { echo "${line#* }" >&2; exit 1; }\n'
            )
            script.chmod(0o755)
        self.fail()

    def fail(self, *faults: str) -> None:
        """Have calls fail: each fault is a subcommand and a message."""
        (self._folder / "faults").write_text("".join(f"{fault}\n" for fault in faults))

    def calls(self) -> list[str]:
        """Return the calls since the last time."""
        log = self._folder / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line.replace("--user --no-ask-password ", "").replace("--no-ask-password ", "") for line in lines]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manager:
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(user_services, "_LINGERING", tmp_path / "linger")
    return Manager(folder)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    sharing.install(monkeypatch)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("MACHINE_STORAGE_PATH", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return Store(home / ".docker" / "machine")


@pytest.fixture
def call(store: Store, capsys: pytest.CaptureFixture[str], manager: Manager) -> Call:
    run = cli_calls.expecting_code(capsys)
    run("create", "-d", "plain", "dev")
    return run


def unit(store: Store, name: str = "dev") -> Path:
    return store.root.parent.parent / ".config" / "systemd" / "user" / f"pymachine-{name}.service"


def settings(file: Path) -> dict[str, str]:
    lines = [line.partition("=") for line in file.read_text().splitlines()]
    return {key: value for key, equals, value in lines if equals}


def service(**fields: object) -> UserService:
    values = {"name": "dev", "description": "d", "start": ["/bin/echo", *ODD], "stop": ["/bin/echo", *ODD]}
    return UserService(**{**values, **fields})  # type: ignore[arg-type]


# -- services ------------------------------------------------------------------------------------------------------


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    file = tmp_path / "pymachine-dev.service"
    file.write_text(user_services.unit(service(environment={"PATH": "/a b:100%:/$x", "QUOTES": "\"'\\"})))
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    assert file.name not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


def test_a_unit_quotes_specifiers_and_variables() -> None:
    text = user_services.unit(service(start=["/$p 5%", "100%h", "$HOME", 'a "b" \\'], environment={"X": "$5 100%"}))
    assert 'ExecStart="/$p 5%%" "100%%h" "$$HOME" "a \\"b\\" \\\\"\n' in text
    assert 'Environment="X=$5 100%%"\n' in text


@pytest.mark.parametrize("text", ["a\nExecStart=/bin/evil", "a\rb", "\x00"])
def test_control_characters_are_refused(text: str) -> None:
    for wrong in (
        service(start=["/bin/echo", text]),
        service(environment={"PATH": text}),
    ):
        with pytest.raises(UserServiceError, match="control characters"):
            user_services.unit(wrong)
        with pytest.raises(UserServiceError, match="control characters"):
            user_services.plist(wrong)
    with pytest.raises(UserServiceError, match="control characters"):
        user_services.unit(service(description=text))


def test_names_of_units() -> None:
    assert user_services.unit_name("dev-1.x") == "pymachine-dev-1.x.service"
    assert user_services.unit_name("a b/ü@%") == "pymachine-a\\x20b\\x2f\\xc3\\xbc\\x40\\x25.service"


def test_launchd_gets_the_command_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted = service(environment={"PATH": "/a b"})
    assert user_services.enable(wanted)
    file = tmp_path / "Library" / "LaunchAgents" / "pymachine-dev.plist"
    agent = plistlib.loads(file.read_bytes())
    assert agent["Label"] == file.stem
    assert agent["ProgramArguments"] == ["/bin/echo", *ODD]
    assert agent["EnvironmentVariables"] == {"PATH": "/a b"}
    assert agent["RunAtLoad"] is True
    assert agent["AbandonProcessGroup"] is True
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert user_services.is_enabled("dev")
    assert user_services.disable("dev")
    assert not file.exists()
    assert not user_services.disable("dev")


def test_windows_has_no_such_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert not user_services.is_enabled("dev")
    with pytest.raises(UserServiceError, match="no user services"):
        user_services.enable(service())


# -- commands ------------------------------------------------------------------------------------------------------


def test_enable_and_disable(call: Call, store: Store, manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYMACHINE_CACHE", "/big disk/cache")
    monkeypatch.setenv("DOCKER_CONFIG", "/docker")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy")
    manager.calls()
    assert 'Machine "dev" starts when this host boots.' in call("autostart", "enable", "dev")[1]
    assert manager.calls() == [
        "systemctl show --property=Version",
        "systemctl daemon-reload",
        "systemctl enable pymachine-dev.service",
        "loginctl enable-linger",
    ]
    found = settings(unit(store))
    start = shlex.split(found["ExecStart"])
    assert start == [sys.executable, "-P", "-m", "pymachine", "--storage-path", str(store.root), *start[6:]]
    assert start[6:] == ["autostart", "run", "dev"]
    assert shlex.split(found["ExecStop"].removeprefix("-"))[6:] == ["stop", "dev"]
    assert found["RemainAfterExit"] == "yes"
    assert 'Environment="PYMACHINE_CACHE=/big disk/cache"\n' in unit(store).read_text()
    assert 'Environment="DOCKER_CONFIG=/docker"\n' in unit(store).read_text()
    assert "secret" not in unit(store).read_text()

    assert json.loads(call("autostart", "ls", "--json")[1]) == [{"Name": "dev", "Autostart": True}]
    assert call("autostart", "ls")[1] == "dev\n"
    assert json.loads(call("inspect", "dev")[1])["Autostart"] is True
    assert [row["Autostart"] for row in json.loads(call("ls", "--json")[1])] == [True]
    assert call("ls", "-f", "{{.Name}} {{.Autostart}}")[1] == "dev true\n"

    assert "does not start when this host boots any more" in call("autostart", "disable", "dev")[1]
    assert manager.calls() == ["systemctl disable pymachine-dev.service", "systemctl daemon-reload"]
    assert not unit(store).exists()
    assert call("autostart", "ls")[1] == ""
    assert "Autostart" not in json.loads(call("inspect", "dev")[1])
    assert "and did not before" in call("autostart", "disable", "dev")[1]
    assert manager.calls() == []


def test_the_service_uses_the_users_own_ca(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MACHINE_TLS_CA_KEY", "/keys/a b.pem")
    monkeypatch.setenv("MACHINE_TLS_CLIENT_CERT", "/c.pem")
    call("--tls-ca-cert", "ca.pem", "--tls-client-key", "/k.pem", "autostart", "enable", "dev")
    found = settings(unit(store))
    ca = str(tmp_path / "ca.pem")
    files = {"ca-cert": ca, "ca-key": "/keys/a b.pem", "client-cert": "/c.pem", "client-key": "/k.pem"}
    options = [word for name, path in files.items() for word in (f"--tls-{name}", path)]
    assert shlex.split(found["ExecStart"])[6:] == [*options, "autostart", "run", "dev"]
    assert shlex.split(found["ExecStop"].removeprefix("-"))[6:] == [*options, "stop", "dev"]


def test_the_service_starts_a_stopped_machine_and_leaves_a_running_one(call: Call, store: Store) -> None:
    call("autostart", "enable", "dev")
    boots = len(sharing.Plain.boots)
    call("autostart", "run", "dev")
    assert len(sharing.Plain.boots) == boots
    call("stop", "dev")
    call("autostart", "run", "dev")
    assert len(sharing.Plain.boots) == boots + 1
    assert unit(store).exists()


def test_rename_and_rm_keep_it_true(call: Call, store: Store, manager: Manager) -> None:
    call("autostart", "enable", "dev")
    call("stop", "dev")
    call("rename", "dev", "new")
    assert not unit(store).exists()
    assert shlex.split(settings(unit(store, "new"))["ExecStart"])[-1] == "new"
    assert autostart_services.is_enabled(store, "new")
    call("rm", "-y", "new")
    assert not unit(store, "new").exists()
    assert manager.calls()[-2:] == ["systemctl disable pymachine-new.service", "systemctl daemon-reload"]


def test_a_killed_rename_is_completed(call: Call, store: Store) -> None:
    call("autostart", "enable", "dev")
    call("stop", "dev")
    change_notes.begin(Hosts(store).open("dev"), transactions.RENAME, {"Before": "dev"}, durable=True)
    store.rename("dev", "new")
    call("start", "new")
    assert not unit(store).exists()
    assert unit(store, "new").exists()


def test_a_record_that_cannot_be_read_is_removed_with_its_service(call: Call, store: Store) -> None:
    call("autostart", "enable", "dev")
    (store.machine_dir("dev") / "config.json").write_text("{")
    call("rm", "-f", "-y", "dev")
    assert not unit(store).exists()


def test_the_service_goes_even_without_systemd(call: Call, store: Store, manager: Manager) -> None:
    call("autostart", "enable", "dev")
    manager.fail("disable no", "daemon-reload no")
    call("autostart", "disable", "dev")
    assert not unit(store).exists()


def test_no_user_session(call: Call, store: Store, manager: Manager) -> None:
    manager.fail("show Failed to connect to bus: No medium found")
    _, _, errors = call("autostart", "enable", "dev", code=1)
    assert "there is no systemd user session here" in errors
    assert "No medium found" in errors
    assert not unit(store).exists()


def test_no_systemd(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no systemd user session here" in call("autostart", "enable", "dev", code=1)[2]
    assert not unit(store).exists()


def test_a_unit_that_systemd_refuses_is_not_left(call: Call, store: Store, manager: Manager) -> None:
    manager.fail("enable Unit not found")
    assert "systemd refuses" in call("autostart", "enable", "dev", code=1)[2]
    assert not unit(store).exists()


@pytest.mark.parametrize("fault", ["daemon-reload No such device", "enable Unit not found"])
def test_a_refused_change_keeps_the_service_that_was_enabled(
    call: Call, store: Store, manager: Manager, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    call("autostart", "enable", "dev")
    before = unit(store).read_bytes()
    monkeypatch.setenv("PYMACHINE_CACHE", "/other")
    manager.fail(fault)
    assert "systemd refuses" in call("autostart", "enable", "dev", code=1)[2]
    assert unit(store).read_bytes() == before
    assert [path.name for path in unit(store).parent.iterdir()] == [unit(store).name]


def test_lingering_that_is_refused_is_a_warning(call: Call, store: Store, manager: Manager) -> None:
    manager.fail("enable-linger Could not enable linger: Access denied")
    _, out, errors = call("autostart", "enable", "dev")
    assert "cannot start before you log in: Could not enable linger: Access denied" in out + errors
    assert 'Machine "dev" starts when you log in.' in out
    assert unit(store).exists()


def test_lingering_that_an_administrator_turned_on(call: Call, manager: Manager, tmp_path: Path) -> None:
    (tmp_path / "linger").mkdir()
    (tmp_path / "linger" / pwd.getpwuid(os.getuid()).pw_name).touch()
    call("autostart", "enable", "dev")
    assert "loginctl enable-linger" not in manager.calls()


def test_a_missing_machine_changes_nothing(call: Call, store: Store, manager: Manager) -> None:
    manager.calls()
    assert "does not exist" in call("autostart", "enable", "dev", "gone", code=1)[2]
    assert manager.calls() == []
    assert not unit(store).exists()


def test_a_machine_that_pymachine_cannot_start(call: Call, store: Store) -> None:
    call("create", "-d", "none", "--url", "tcp://127.0.0.1:1", "far")
    assert "does not support starting a machine" in call("autostart", "enable", "far", code=1)[2]
    assert not unit(store, "far").exists()


def test_other_stores_have_services_of_their_own(call: Call, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    call("--storage-path", other, "create", "-d", "plain", "dev")
    call("--storage-path", other, "autostart", "enable", "dev")
    assert call("autostart", "ls")[1] == ""
    assert call("--storage-path", other, "autostart", "ls")[1] == "dev\n"
    call("rm", "-y", "dev")
    assert call("--storage-path", other, "autostart", "ls")[1] == "dev\n"
