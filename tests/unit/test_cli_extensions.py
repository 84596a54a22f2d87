"""Commands that docker-machine does not have, and additions to those that it has."""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pymachine import __main__ as short_path
from pymachine.cli import doctor, logs, ls, main as main_module
from pymachine.cli.context import App
from pymachine.driver import registry
from pymachine.driver.abilities import ForwardedPort
from pymachine.driver.contract import Health
from pymachine.errors import DriverNotFoundError
from pymachine.hosts.host import Hosts
from pymachine.ssh import openssh, scp
from pymachine.ssh.target import Target
from pymachine.store.record import Machine
from pymachine.store.store import Store
from pymachine.tls import certs
from pymachine_driver_none import Driver as NoneDriver
from support import fake_engine, fifty_machines, processes

Call = Callable[..., tuple[int, str, str]]
TARGET = Target("m", "127.1.2.3", 22022, "docker", Path("/s/my, key/id"), Path("/s/known hosts"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("SHELL", "/bin/sh")
    for name in ("MACHINE_DEBUG", "DOCKER_HOST", "MACHINE_DRIVER"):
        monkeypatch.delenv(name, raising=False)
    return Store(tmp_path / "store")


@pytest.fixture
def call(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setattr(main_module.signals, "exit_on_termination", lambda: None)

    def run(*words: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        return main_module.main(["pymachine", *words]), *capsys.readouterr()

    return run


@pytest.fixture
def port(store: Store) -> Iterator[int]:
    with fake_engine.machine(store.root) as number:
        yield number


# -- --native-ssh --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("export.export", ["export", "intro", "file"]),
        ("export.export_connection", ["export", "--connection", "intro", "file"]),
        ("import_.import_", ["import", "file", "intro"]),
        ("modify.modify", ["modify", "--engine-label", "a=b", "intro"]),
    ],
)
def test_native_ssh_reaches_commands_that_import_their_operation_late(
    call: Call,
    store: Store,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    words: list[str],
    is_native: bool,
) -> None:
    received: list[Hosts] = []

    def operation(hosts: Hosts, *args: object, **options: object) -> Machine:
        received.append(hosts)
        return store.load("intro")

    monkeypatch.setattr(f"pymachine.hosts.{function}", operation)
    assert call(*["--native-ssh"] * is_native, *words)[0] == 0
    assert [hosts.native_ssh for hosts in received] == [is_native]


# -- ports ---------------------------------------------------------------------------------------------------------


class Forwarding(NoneDriver):
    """An engine on another host: one of its ports is forwarded, another cannot be."""

    def forwarded_ports(self) -> list[ForwardedPort]:
        return [ForwardedPort("tcp", 80, "127.70.1.2", "taken"), ForwardedPort("udp", 53, "127.70.1.2")]


def test_ports_without_names_lists_all_machines(
    call: Call, store: Store, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store.root / "machines" / "broken").mkdir()
    other = store.load("intro")
    other.name, other.driver_name = "web", "forwarding"
    store.save(other)
    monkeypatch.setattr(registry, "load", {"none": NoneDriver, "forwarding": Forwarding}.__getitem__)
    code, out, err = call("ports")
    assert (code, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["NAME", "PORT", "ADDRESS", "PROBLEM"],
        ["web", "80/tcp", "127.70.1.2", "taken"],
        ["web", "53/udp", "127.70.1.2", "-"],
    ]
    assert call("ports", "web") == (code, out, err)
    code, out, err = call("ports", "intro", "broken")
    assert code == 1
    assert "does not support forwarding ports" in err
    assert "config.json: no such file" in err


# -- certificates that expire ------------------------------------------------------------------------------------


def ending(store: Store, days: float, name: str = "intro") -> None:
    machine = store.load(name)
    machine.certificates_expire = int(time.time() + days * 86400)
    store.save(machine)


def test_env_warns_on_stderr_of_certificates_that_expire_soon(call: Call, store: Store, port: int) -> None:
    ending(store, 12.5)
    code, out, err = call("env", "intro")
    assert (code, out.count("\n")) == (0, 6)
    assert err == "WARNING: the certificates of intro expire in 12 days: pymachine regenerate-certs intro\n"


def test_the_fast_path_of_env_does_not_handle_certificates_that_expire_soon(store: Store, port: int) -> None:
    words = ["pymachine", "env", "--shell", "sh", "intro"]
    ending(store, 31)
    assert short_path.quick_env(words) is not None
    ending(store, 29)
    assert short_path.quick_env(words) is None


def test_ls_shows_expiring_certificates_in_its_errors_column(call: Call, store: Store, port: int) -> None:
    ending(store, -1)
    rows = json.loads(call("ls", "--json")[1])
    assert rows[0]["Error"] == "the certificates of intro have expired: pymachine regenerate-certs intro"
    ending(store, 100)
    assert json.loads(call("ls", "--json")[1])[0]["Error"] == ""


def test_expiry_of_docker_machines_certificates_is_read_from_the_files(
    call: Call, store: Store, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.load("intro").certificates_expire is None
    assert call("env", "intro")[2] == ""
    monkeypatch.setattr(certs, "first_expiry", lambda folder: dt.datetime.now(dt.UTC) + dt.timedelta(days=3, hours=1))
    monkeypatch.setattr(short_path, "quick_env", lambda argv: None)
    assert "expire in 3 days" in call("env", "intro")[2]


# -- ls --watch --------------------------------------------------------------------------------------------------


def test_ls_watch_repeats_the_list(store: Store, port: int, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("pymachine")
    command = [str(program), "ls", "--watch", "--json"]
    with processes.started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        first = json.loads(watching.stdout.readline())
        fake_engine.record(store, "second", 1)
        names = [[row["Name"] for row in json.loads(watching.stdout.readline())] for _ in range(2)]
        watching.terminate()
        assert watching.wait(20) == 143
    assert [row["Name"] for row in first] == ["intro"]
    assert names[-1] == ["intro", "second"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0001, "0s"), (0.012, "12ms"), (0.9999, "1s"), (1.5, "1.5s"), (10, "10s"), (61.25, "1m1.25s")],
)
def test_response_times_are_written_as_go_durations(seconds: float, text: str) -> None:
    assert ls.duration(seconds) == text


def test_a_driver_that_crashes_affects_its_own_row_only(call: Call, store: Store, port: int) -> None:
    machine = fake_engine.record(store, "odd", 1)
    machine.driver_name, machine.driver = "qemu", {"IPAddress": "127.70.1.1", "EnginePort": "x"}
    store.save(machine)
    code, out, _ = call("ls", "-f", "{{.Name}} {{.State}} {{.DockerVersion}}")
    assert (code, out.splitlines()[0]) == (0, f"intro Running v{fake_engine.VERSION}")
    assert out.splitlines()[1].startswith("odd ")


# -- doctor ------------------------------------------------------------------------------------------------------


def test_doctor_succeeds_where_all_is_well(call: Call, store: Store, port: int) -> None:
    code, out, err = call("doctor", "--driver", "none")
    assert (code, err) == (0, "")
    assert out.startswith("ok       python ")
    assert "ok       driver none " in out


def test_doctor_names_problems_that_would_make_create_fail(
    call: Call, store: Store, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = type(
        "Sick",
        (registry.load("none"),),
        {"health": classmethod(lambda cls: Health(usable=False, problem="ill", fix="rest"))},
    )
    monkeypatch.setattr(registry, "names", lambda: ["lost", "none", "sick"])

    def load(name: str) -> object:
        if name == "lost":
            raise DriverNotFoundError('Driver "lost" not found.', hint="Install it.")
        return sick

    monkeypatch.setattr(registry, "load", load)
    monkeypatch.setattr(doctor, "LEAST_FREE", 1 << 62)
    monkeypatch.setenv("PATH", "/nowhere")
    (store.root / "machines" / "broken").mkdir()
    (store.root / "machines" / "broken" / "config.json").write_text("{")
    ending(store, 3.5)
    code, out, err = call("doctor", "--driver", "sick")
    assert (code, err) == (1, "2 problems found\n")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    for expected in (
        "problem driver sick ill",
        "Fix: rest",
        'note driver lost Driver "lost" not found.',
        "note machine intro the certificates of intro expire in 3 days",
        "Fix: Run: pymachine regenerate-certs intro",
        "note docker not found: machines cannot be used without it",
    ):
        assert expected in lines
    assert any(line.startswith("problem store") for line in lines)
    assert any(line.startswith("note machine broken") for line in lines)


@pytest.mark.parametrize("kind", ["file", "read-only"])
def test_doctor_checks_the_store(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / "place"
    if kind == "file":
        path.write_text("")
    else:
        path.mkdir()
        monkeypatch.setattr(os, "access", lambda *asked, **more: False)
    finding = doctor._check_store(path)
    assert finding.verdict == doctor.PROBLEM
    assert finding.fix


# -- logs, mount, scp --------------------------------------------------------------------------------------------


def test_logs_prints_the_last_lines_of_the_console(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"".join(b"line %d\r\n" % number for number in range(20_000)) + b"\xffpart")
    assert logs._last_lines(path, 3) == ["line 19998", "line 19999", "\udcffpart"]
    assert logs._last_lines(path, 0) == []
    assert len(logs._last_lines(path, 1_000_000)) == 20_001
    path.write_bytes(b"")
    assert logs._last_lines(path, 5) == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("logs intro", 'No logs of machine "intro" are available: it is running'),
        ("logs --console intro", "none driver does not support reading the console"),
        ("logs -f --json intro", '{"error": {"code": "failed"'),
        ("logs a b", "Error: Expected one machine name as an argument"),
        ("modify intro", "Error: Nothing to change"),
        ("modify --cpus 2 intro", "none driver does not support other hardware for a machine that exists"),
        ("modify --engine-label a=b intro", "none driver does not support other engine options"),
        ("upgrade intro", "none driver does not support upgrade"),
        ("regenerate-certs -f intro", "none driver does not support new certificates"),
        ("rename intro", "Error: Expected a machine name and its new name as arguments"),
        ("rename intro a_b", "Error creating machine: Invalid hostname specified"),
        ("rename nosuch other", 'Docker machine "nosuch" does not exist.'),
        ("export", "Error: Expected a machine name and an optional file as arguments"),
        ("export intro", "none driver does not support export of a whole machine"),
        ("import", "Error: Expected a file and an optional name as arguments"),
        ("import /nosuch/file", "cannot read /nosuch/file: No such file or directory"),
        ("doctor x", "Error: Too many arguments given"),
        ("context create --name a b c", "Error: --name can be used with only one machine"),
        ("mount nosuch:/x", 'Error loading host: Error loading host: Docker machine "nosuch" does not exist.'),
    ],
)
def test_invalid_command_lines_are_refused(
    call: Call, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*words.split())
    assert code == 1
    assert err.startswith(text), err
    assert list(tmp_path.glob("*.zst")) == []


def test_an_exported_connection_can_be_imported(call: Call, store: Store, port: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    assert call("export", "--connection", "intro", str(file))[:2] == (
        0,
        f"Exporting intro 0% (0 B of 1 KiB)\nExported intro to {file}\n",
    )
    refused = call("export", "--connection", "intro", str(file))
    assert refused[2] == f"{file} already exists\nHint: Choose another file, or overwrite it with --force.\n"
    assert call("export", "--connection", "--force", "intro", str(file))[0] == 0
    assert call("export", "--connection", "intro", str(tmp_path))[0] == 0
    assert (tmp_path / "intro.pymachine.tar.zst").exists()
    code, out, _ = call("import", str(file), "other")
    assert (code, out.splitlines()[-1]) == (0, 'Machine "other" was imported.')
    assert call("version", "other")[1] == f"{fake_engine.VERSION}\n"
    machine = store.load("other")
    assert machine.certificates_expire == int(
        min(certs.expires(store.machine_dir("intro") / name) for name in ("ca.pem", "cert.pem")).timestamp()
    )
    assert (store.machine_dir("other") / "key.pem").stat().st_mode & 0o777 == 0o600


def test_sshfs_gets_the_same_options_as_ssh() -> None:
    words = openssh.sshfs("sshfs", TARGET, "/home/docker", "/mnt/it")
    assert words[-2:] == ["docker@127.1.2.3:/home/docker", "/mnt/it"]
    assert "StrictHostKeyChecking=yes" in words
    assert 'UserKnownHostsFile="/s/known hosts"' in words
    assert 'IdentityFile="/s/my\\, key/id"' in words
    assert "Port=22022" in words


def test_rsync_between_machines_copies_through_this_host(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert scp.relay(scp.Location("/x/a", TARGET), tmp_path) == [scp.Location(str(tmp_path / "a"))]
    assert scp.relay(scp.Location("/x/", TARGET), tmp_path) == [scp.Location(f"{tmp_path}/")]


@pytest.mark.parametrize(
    ("path", "here"),
    [
        ("a:b", "./a:b"),
        ("a:b/c", "./a:b/c"),
        ("-x", "./-x"),
        ("-x/y", "./-x/y"),
        ("d/a:b", "d/a:b"),
        ("/a:b", "/a:b"),
        ("./a:b", "./a:b"),
        ("plain", "plain"),
        ("", "."),
    ],
)
def test_a_local_path_is_not_mistaken_for_a_host_or_an_option(path: str, here: str) -> None:
    places = [scp.parse(f"localhost:{path}", _nowhere), scp.Location("/x", TARGET)]
    assert scp.rsync("rsync", places, recursive=False, quiet=True)[-2:] == [here, "docker@127.1.2.3:/x"]
    assert scp.scp("scp", places, config_file="c", recursive=False, quiet=False)[-2:] == [here, "m:/x"]


def _nowhere(machine: str, user: str | None) -> Target:
    raise AssertionError((machine, user))


def test_rsync_itself_copies_a_file_with_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").write_text("text")
    (tmp_path / "to").mkdir()
    words = scp.rsync(
        "rsync", [scp.parse("localhost:a:b", _nowhere), scp.Location(f"{tmp_path}/to/")], recursive=False, quiet=True
    )
    assert subprocess.run(words, check=False).returncode == 0
    assert (tmp_path / "to" / "a:b").read_text() == "text"


def test_rsync_takes_an_ipv6_address_in_brackets() -> None:
    zoned = Target("m", "fe80::1%eth0", 22, "docker", Path("/k"), None)
    assert "  HostName fe80::1%%eth0\n" in scp.config([zoned])
    target = Target("m", "fd00::1", 22, "docker", Path("/k"), None)
    words = scp.rsync("rsync", [scp.Location("/a"), scp.Location("/b", target)], recursive=False, quiet=True)
    assert words[-1] == "docker@[fd00::1]:/b"


# -- the name the program was called by --------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("url", "nope"), ("env", "dead"), ("regenerate-certs", "-f", "nope")])
@pytest.mark.parametrize("name", ["pymachine", "docker-machine", "dm"])
def test_messages_use_the_name_the_program_was_called_by(
    store: Store, port: int, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], name: str
) -> None:
    fake_engine.record(store, "dead", 1)
    assert main_module.main([name, *words]) == 1
    said = "".join(capsys.readouterr())
    others = {"pymachine", "docker-machine"} - {name}
    assert f"{name} " in said
    assert not [other for other in others if re.search(rf"\b{other} (ls|create|regenerate-certs|start)\b", said)]


def test_warnings_use_that_name_too(capsys: pytest.CaptureFixture[str]) -> None:
    App(argv=["/usr/bin/docker-machine"]).reporter.warn("Remove it with: pymachine rm x, of pymachine")
    assert capsys.readouterr().out == "Remove it with: docker-machine rm x, of pymachine\n"


# -- fifty machines ----------------------------------------------------------------------------------------------


def test_ls_of_fifty_machines_queries_them_in_parallel(store: Store, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("pymachine")
    with fifty_machines.created(store.root):
        said = subprocess.run([program, "ls", "--json"], capture_output=True, text=True, check=True, timeout=60).stdout
    rows = {row["Name"]: row for row in json.loads(said)}
    assert len(rows) == 50
    assert {row["DockerVersion"] for name, row in rows.items() if name.startswith("running")} == {
        f"v{fake_engine.VERSION}"
    }
    assert all(
        "Cannot connect to the docker engine" in row["Error"] for name, row in rows.items() if name.startswith("dead")
    )
    assert all(row["State"] == "Stopped" for name, row in rows.items() if name.startswith("stopped"))
    assert (rows["broken"]["DriverName"], rows["alien"]["State"]) == ("not found", "Error")
