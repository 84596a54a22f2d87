"""The commands around a machine's local socket, with a driver without machines. Its connection has tests with OpenSSH.

See ``tests/integration/test_local_socket_over_ssh.py`` for these.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pymachine.docker import contexts
from pymachine.driver.contract import Endpoint, Trait
from pymachine.driver.kit.port_forwarding import LARGEST_LOG
from pymachine.errors import UsageError
from pymachine.hosts import local_socket, socket_keeper, watched_record
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.watched_record import WatchedRecord
from pymachine.ssh.local_socket import place, status
from pymachine.ssh.local_socket.process import KEEPER, LocalSocketError
from pymachine.ssh.local_socket.status import SocketState, Status
from pymachine.store.client_files import ClientFiles
from pymachine.store.origins import FLAG, MODIFY
from pymachine.store.record import Machine
from pymachine.store.store import Store
from pymachine.system import run as run_module
from support import cli_calls, local_sockets, sharing
from support.cli_calls import Call
from support.local_sockets import Sockets
from support.sharing import Plain


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    sharing.install(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", "/bin/sh")
    monkeypatch.setenv("PYMACHINE_NO_SHARE", "1")
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(tmp_path / "s"))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    local_sockets.install(monkeypatch)
    return Store(tmp_path / "s")


@pytest.fixture
def call(store: Store, capsys: pytest.CaptureFixture[str]) -> Call:
    return cli_calls.expecting_code(capsys)


def test_create_makes_a_socket_that_lives_as_long_as_the_machine_runs(call: Call, store: Store) -> None:
    call("create", "--socket", "one")
    assert json.loads(call("inspect", "one")[1])["Socket"] is True
    assert store.load("one").origins["socket"].kind == FLAG
    assert Sockets.connected == {"one"}
    call("stop", "one")
    assert Sockets.connected == set()
    call("start", "one")
    call("restart", "one")
    assert Sockets.connected == {"one"}
    call("kill", "one")
    assert Sockets.connected == set()
    call("start", "one")
    call("clone", "one", "copy")
    assert Sockets.connected == {"one", "copy"}
    call("rm", "-y", "one")
    call("rm", "-f", "-y", "copy")
    assert Sockets.connected == set()


def test_start_of_a_running_machine_connects_again(call: Call) -> None:
    call("create", "--socket", "one")
    Sockets.connected.clear()
    call("start", "one", code=1)  # it is running already
    assert Sockets.connected == {"one"}


def test_doctor_reports_a_process_that_has_ended(call: Call) -> None:
    def notes() -> list[str]:
        rows = json.loads(call("doctor", "--json", "-d", "plain")[1])
        return [row["Text"] for row in rows if row["Subject"] == "machine one"]

    call("create", "--socket", "one")
    assert notes() == []
    Sockets.connected.clear()
    assert notes() == ["its local socket is not connected: the process that connects it is not running"]
    call("stop", "one")
    assert notes() == []


def test_machines_have_no_socket_by_default(call: Call, store: Store) -> None:
    call("create", "one")
    assert "Socket" not in json.loads(call("inspect", "one")[1])
    assert Sockets.connected == set()


def test_a_stop_that_fails_keeps_the_socket(store: Store, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    call("create", "--socket", "one")
    host = Hosts(store).open("one")
    started: list[str] = []
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    def start(host: Host) -> subprocess.Popen[bytes]:
        started.append(host.name)
        return process

    monkeypatch.setattr(local_socket, "_start", start)
    with pytest.raises(ValueError, match="no"), local_socket.closed(host):
        raise ValueError("no")
    assert started == ["one"]


@pytest.mark.parametrize("words", [("create", "--socket", "-d", "none", "--url", "tcp://127.0.0.1:1", "one")])
def test_a_driver_without_ssh_is_refused_before_anything_is_made(
    call: Call, store: Store, words: tuple[str, ...]
) -> None:
    assert "does not support SSH, which a local socket needs" in call(*words, code=1)[2]
    assert store.names() == []
    call(*(word for word in words if word != "--socket"))
    for more in (("socket", "one"), ("env", "--socket", "one"), ("modify", "--socket", "one")):
        assert "does not support SSH" in call(*more, code=1)[2]
    assert not store.load("one").socket


def test_a_host_without_openssh_is_refused(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "which", lambda program: None)
    assert "needs OpenSSH's client" in call("create", "--socket", "one", code=1)[2]
    assert store.names() == []


def test_a_fault_is_a_warning_for_a_machine_with_our_image(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sockets, "fault", "broken")
    assert "broken" in call("create", "--socket", "one")[1]
    assert "broken" in call("restart", "one")[1]


def test_a_fault_is_an_error_for_an_existing_host(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    call("create", "--socket", "one")
    monkeypatch.setattr(Sockets, "fault", "broken")
    monkeypatch.setattr(Host, "has", lambda self, trait: trait is not Trait.IDENTITY)
    with pytest.raises(LocalSocketError, match="broken"):
        local_socket.follow_record(Hosts(store).open("one"))


def test_socket_prints_the_path_and_makes_it(call: Call, store: Store) -> None:
    call("create", "one")
    path = str(place.path(store.machine_dir("one")))
    assert call("socket", "one")[1] == f"{path}\n"
    assert store.load("one").socket
    assert store.load("one").origins["socket"].kind == MODIFY
    assert call("socket", "one")[1] == f"{path}\n"
    assert Sockets.events == ["connect one"]
    assert json.loads(call("socket", "--json", "one")[1]) == {"Name": "one", "Socket": path}
    call("stop", "one")
    assert "not running" in call("socket", "one", code=1)[2]


def test_a_socket_that_cannot_be_made_changes_nothing(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("create", "one")
    monkeypatch.setattr(Sockets, "fault", "broken")
    for words in (("socket", "one"), ("modify", "--socket", "one"), ("env", "--socket", "one")):
        assert "broken" in call(*words, code=1)[2]
        assert not store.load("one").socket


def test_modify_makes_and_removes_it(call: Call, store: Store) -> None:
    call("create", "one")
    call("modify", "--socket", "one")  # without --restart
    assert Sockets.connected == {"one"}
    assert store.load("one").origins["socket"].kind == MODIFY
    call("modify", "--no-socket", "one")
    assert Sockets.connected == set()
    call("stop", "one")
    call("modify", "--socket", "one")
    assert Sockets.connected == set()
    call("start", "one")
    assert Sockets.connected == {"one"}
    assert "exclude each other" in call("modify", "--socket", "--no-socket", "one", code=1)[2]


def test_modify_changes_it_with_other_things(call: Call, store: Store) -> None:
    call("create", "one")
    call("modify", "--socket", "--engine-label", "a=b", "--restart", "one")
    assert Sockets.connected == {"one"}
    call("modify", "--no-socket", "--engine-label", "a=c", "--restart", "one")
    assert Sockets.connected == set()
    assert not store.load("one").socket


def evaluated(text: str) -> dict[str, str]:
    """Return the docker client's variables after a shell has evaluated `text` in another machine's environment."""
    before = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/x", "DOCKER_HOST": "tcp://x", "PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", f"{text}\nenv"], env=before, check=True, capture_output=True, text=True)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return {key: value for key, value in found.items() if key.startswith("DOCKER")}


def test_env_uses_the_socket_and_no_tls(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    call("create", "one")
    url = place.url(store.machine_dir("one"))
    wanted = {"DOCKER_HOST": url, "DOCKER_MACHINE_NAME": "one"}
    text = call("env", "--socket", "one")[1]
    assert evaluated(text) == wanted
    assert text.endswith("# eval $(pymachine env --socket one)\n")
    assert "set -e DOCKER_TLS_VERIFY;" in call("env", "--socket", "--shell", "fish", "one")[1]
    assert json.loads(call("env", "--socket", "--json", "one")[1]) == {
        "Name": "one",
        "Variables": wanted,
        "Unset": ["DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"],
    }
    call("env", "--socket", "--swarm", "one", code=1)
    monkeypatch.setenv("DOCKER_HOST", url)
    assert call("active")[1] == "one\n"


def test_a_context_uses_the_socket(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def put(
        name: str, endpoint: Endpoint, *, machine: str, certificates: ClientFiles, formerly: tuple[str, ...] = ()
    ) -> None:
        made.append(endpoint.url)

    monkeypatch.setattr(contexts, "put", put)
    monkeypatch.setattr(contexts, "refuse_taken", lambda name, *, instead: None)
    monkeypatch.setattr(contexts, "remove", lambda name, *, machine: None)
    tls = "tcp://127.9.9.1:2376"
    call("create", "one")
    call("context", "create", "one")
    assert made[-1] == tls
    call("context", "create", "--socket", "one")
    assert made[-1] == place.url(store.machine_dir("one"))
    assert Sockets.connected == {"one"}
    call("stop", "one")
    call("rename", "one", "uno")
    assert made[-1] == place.url(store.machine_dir("uno"))
    call("start", "uno")
    call("modify", "--no-socket", "uno")
    assert made[-1] == tls
    call("context", "create", "--socket", "uno")
    call("context", "create", "uno")
    assert made[-1] == tls
    call("context", "create", "--socket", "uno")
    call("context", "rm", "uno")
    assert (store.load("uno").context, store.load("uno").context_socket) == ("", False)


def test_a_context_of_a_taken_name_makes_no_socket(call: Call, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, *, instead: str) -> None:
        raise UsageError(f"{name} is taken")

    monkeypatch.setattr(contexts, "refuse_taken", refuse)
    call("create", "one")
    assert "one is taken" in call("context", "create", "--socket", "one", code=1)[2]
    assert not store.load("one").socket
    assert Sockets.connected == set()


def test_an_export_leaves_it_out(call: Call, store: Store, tmp_path: Path) -> None:
    call("create", "--socket", "one")
    call("stop", "one")
    call("export", "one", str(tmp_path / "file"))
    assert "Left out" not in call("import", str(tmp_path / "file"), "two")[1]
    assert not store.load("two").socket


def test_the_record_survives_docker_machine(call: Call, store: Store) -> None:
    call("create", "--socket", "one")
    path = store.machine_dir("one") / "config.json"
    known = ("ConfigVersion", "Driver", "DriverName", "HostOptions", "Name")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key in known}))
    assert store.load("one").socket


# -- the parts of the process --------------------------------------------------------------------------------------


def test_the_path_is_short_and_in_a_private_folder(tmp_path: Path) -> None:
    short = Path("/tmp/m")
    assert place.path(short) == short / "docker.sock"
    elsewhere = {place.path(folder) for folder in (short / ("x" * 90), short / "a b", short / "%d", short / "a:b")}
    assert len(elsewhere) == 4
    assert {path.parent for path in elsewhere} == {Path(f"/tmp/pymachine-{os.getuid()}")}
    assert all(len(os.fsencode(place.fresh(path))) < 104 for path in elsewhere)
    open_folder = tmp_path / "copied"
    open_folder.mkdir(mode=0o755)
    place.prepare(open_folder / "docker.sock")
    assert stat.S_IMODE(open_folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["link", "open", "file"])
def test_a_folder_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    folder = tmp_path / "short"
    if kind == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "theirs")
    elif kind == "file":
        folder.touch()
    else:
        folder.mkdir(mode=0o755)
    monkeypatch.setattr(place, "_short_folder", lambda: folder)
    with pytest.raises(LocalSocketError):
        place.prepare(folder / "x.sock")


def test_a_link_in_the_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"x" * (LARGEST_LOG + 1))
    (tmp_path / "socket.log").symlink_to(other)
    with pytest.raises(LocalSocketError, match="cannot start the process that connects the local socket"):
        KEEPER.start(tmp_path, [sys.executable, "-c", ""])
    assert other.stat().st_size == LARGEST_LOG + 1


def test_a_long_log_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "socket.log").write_bytes(b"x" * (LARGEST_LOG + 1))
    assert KEEPER.start(tmp_path, [sys.executable, "-c", "print('new')"]).wait() == 0
    assert (tmp_path / "socket.log").read_text() == "new\n"


def test_a_status_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert status.load(tmp_path) is None
    for text in ("", "[]", '{"Pid": 1}', '{"Pid": 1, "State": "x", "Problem": "", "Attempts": 1}', "[" * 100000):
        (tmp_path / "socket.json").write_text(text)
        assert status.load(tmp_path) is None
    known = Status(pid=7, state=SocketState.REFUSED, problem="why", attempts=3)
    status.save(tmp_path, known)
    assert status.load(tmp_path) == known


def test_the_process_follows_the_record(store: Store, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(watched_record, "log", logged.append)
    call("create", "--socket", "one")
    record = WatchedRecord(Hosts(store), "one", unpinned=LocalSocketError)
    first = socket_keeper.version(record)
    assert first is not None
    assert socket_keeper.version(record) == first
    path = store.machine_dir("one") / "config.json"
    text = path.read_text()
    path.write_text("{")
    assert [socket_keeper.version(record) for _ in range(3)] == [first] * 3  # it is being written, or broken
    assert [text.partition(":")[0] for text in logged] == ["the record cannot be read"]
    path.write_text(text)
    machine: Machine = store.load("one")
    machine.socket = False
    store.save(machine)
    assert socket_keeper.version(record) is None
    with pytest.raises(LocalSocketError, match="not pinned"):
        (store.machine_dir("one") / "known_hosts").unlink()
        record.target()
    store.delete("one")
    assert socket_keeper.version(record) is None
    assert Plain.world  # the machine itself is the driver's
