"""Machines of the driver ``none``: an engine reached by its URL, with the certificates that the record names."""

from __future__ import annotations

import http.server
import io
import json
import shutil
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pymachine import __main__ as entry
from pymachine.cli import main as main_module
from pymachine.store.store import Store
from pymachine.system import printable
from support import fake_engine

Call = Callable[..., tuple[int, str, str]]
FILES = ("ca.pem", "cert.pem", "key.pem")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("SHELL", "/bin/sh")
    for name in ("MACHINE_DEBUG", "DOCKER_HOST", "MACHINE_DRIVER", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(main_module.signals, "exit_on_termination", lambda: None)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        return main_module.main(["docker-machine", *words]), *capsys.readouterr()

    return run


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def port(store: Store) -> Iterator[int]:
    """The port of an engine whose certificates are in the store's folder and in no machine's."""
    with fake_engine.machine(store.root, "door") as number:
        shutil.rmtree(store.machine_dir("door"))
        yield number


def test_certificates_come_from_the_paths_in_the_record(call: Call, store: Store, port: int) -> None:
    url = f"tcp://127.0.0.1:{port}"
    assert call("create", "-d", "none", "--url", url, "x")[0] == 0
    certs = store.root / "certs"
    assert not (store.machine_dir("x") / "ca.pem").exists()
    assert call("config", "x") == (
        0,
        f'--tlsverify\n--tlscacert="{certs}/ca.pem"\n--tlscert="{certs}/cert.pem"\n--tlskey="{certs}/key.pem"\n'
        f"-H={url}\n",
        "",
    )
    assert call("version", "x") == (0, f"{fake_engine.VERSION}\n", "")
    assert call("url", "x") == (0, f"{url}\n", "")
    assert call("ip", "x") == (0, f"127.0.0.1:{port}\n", "")
    assert call("ls", "-f", "{{.Name}} {{.URL}} {{.DockerVersion}}{{.Error}}")[1] == f"x {url} v{fake_engine.VERSION}\n"
    code, out, err = call("env", "x")
    assert (code, err) == (0, "")
    assert f'export DOCKER_HOST="{url}"\nexport DOCKER_CERT_PATH="{certs}"\n' in out
    short = entry.quick_env(["docker-machine", "env", "x"])
    assert short == out


def test_certificates_in_the_machines_folder_come_first(call: Call, store: Store, port: int) -> None:
    """They fit the engine even after the store has a new authority."""
    call("create", "-d", "none", "--url", f"tcp://127.0.0.1:{port}", "x")
    folder = store.machine_dir("x")
    for name in FILES:
        (store.root / "certs" / name).rename(folder / name)
    assert f'DOCKER_CERT_PATH="{folder}"' in call("env", "x")[1]
    assert f'DOCKER_CERT_PATH="{folder}"' in (entry.quick_env(["docker-machine", "env", "x"]) or "")
    assert f'--tlscacert="{folder}/ca.pem"' in call("config", "x")[1]


def test_certificates_may_be_in_any_folder(call: Call, store: Store, port: int, tmp_path: Path) -> None:
    call("create", "-d", "none", "--url", f"tcp://127.0.0.1:{port}", "x")
    theirs = tmp_path / "theirs"
    (store.root / "certs").rename(theirs)
    machine = store.load("x")
    machine.auth.ca_cert_path, machine.auth.client_cert_path, machine.auth.client_key_path = (
        str(theirs / name) for name in FILES
    )
    store.save(machine)
    assert call("version", "x") == (0, f"{fake_engine.VERSION}\n", "")
    assert f'DOCKER_CERT_PATH="{theirs}"' in (entry.quick_env(["docker-machine", "env", "x"]) or "")
    # A docker client would not find these file names in the folder.
    (theirs / "key.pem").rename(theirs / "mine.pem")
    machine.auth.client_key_path = str(theirs / "mine.pem")
    store.save(machine)
    assert entry.quick_env(["docker-machine", "env", "x"]) is None
    code, out, err = call("env", "x")
    assert (code, f'DOCKER_CERT_PATH="{store.machine_dir("x")}"' in out) == (0, True)
    assert err.startswith(
        "WARNING: a docker client finds certificates only under the names ca.pem, cert.pem and key.pem"
    )
    assert f'--tlskey="{theirs}/mine.pem"' in call("config", "x")[1]


def test_certificates_are_found_in_a_store_that_was_moved(call: Call, store: Store, port: int, tmp_path: Path) -> None:
    call("create", "-d", "none", "--url", f"tcp://127.0.0.1:{port}", "x")
    store.root.rename(tmp_path / "moved")
    words = ("--storage-path", str(tmp_path / "moved"))
    assert call(*words, "version", "x") == (0, f"{fake_engine.VERSION}\n", "")
    assert f'DOCKER_CERT_PATH="{tmp_path}/moved/certs"' in call(*words, "env", "x")[1]


def test_a_record_that_docker_machine_wrote_works(call: Call, store: Store, port: int) -> None:
    """It has none of pymachine's fields, and no address, which old versions did not save."""
    call("create", "-d", "none", "--url", f"tcp://127.0.0.1:{port}", "x")
    folder = store.machine_dir("x")
    record = json.loads((folder / "config.json").read_text())
    record = {key: record[key] for key in ("ConfigVersion", "Driver", "DriverName", "HostOptions", "Name")}
    record["Driver"]["IPAddress"] = ""
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "pymachine.json").unlink()
    assert call("version", "x")[0] == 0
    assert call("ip", "x") == (0, "\n", "")


def test_the_record_has_no_ssh_settings_as_in_docker_machine(call: Call, store: Store) -> None:
    assert call("create", "-d", "none", "--url", "tcp://127.0.0.1:1", "x")[0] == 0
    shown = call("inspect", "-f", "{{json .Driver.SSHUser}} {{json .Driver.SSHPort}} {{json .Driver.SSHKeyPath}}", "x")
    assert shown == (0, '"" 0 ""\n', "")
    assert call("inspect", "-f", "{{json .Endpoint.SshUser}} {{json .Endpoint.SshPort}}", "x") == (0, '"" 0\n', "")
    assert call("ssh", "x", "true") == (1, "", "none driver does not support SSH\n")


@pytest.mark.parametrize(
    "url", ["unix:///run/docker.sock", "http://127.0.0.1:1", "https://127.0.0.1:1", "ssh://me@127.0.0.1", "none"]
)
def test_urls_with_other_schemes_make_machines_too(call: Call, store: Store, url: str) -> None:
    assert call("create", "-d", "none", "--url", url, "x")[0] == 0
    assert call("url", "x") == (0, f"{url}\n", "")
    assert call("status", "x") == (0, "Running\n", "")
    assert call("inspect", "-f", "{{.Driver.URL}}", "x") == (0, f"{url}\n", "")
    assert f" {url} " in call("ls")[1]
    for words in (("env", "x"), ("config", "x")):
        code, out, err = call(*words)
        assert (code, out) == (1, "")
        assert "There was an error validating certificates for host" in err
    assert call("version", "x")[0] == 1
    assert call("rm", "-y", "x")[0] == 0


def test_a_failed_connection_has_docker_machines_message(call: Call, store: Store) -> None:
    call("create", "-d", "none", "--url", "tcp://127.0.0.1:1", "x")
    said = "Unable to query docker version: Cannot connect to the docker engine endpoint"
    assert call("version", "x")[2].startswith(said + "\n")
    assert call("ls", "-f", "{{.Error}}")[1] == said + "\n"
    assert "dial tcp 127.0.0.1:1: connect: connection refused\n" in call("config", "x")[2]


def test_an_invalid_port_is_reported(call: Call, store: Store) -> None:
    assert call("create", "-d", "none", "--url", "tcp://127.0.0.1:99999", "x")[0] == 0
    assert "dial tcp: address 99999: invalid port" in call("env", "x")[2]
    assert "address 99999: invalid port" in call("ls")[1]


@pytest.mark.parametrize("host", ["b%80x", "ü" * 70, "ü..x", "a" * 70])
@pytest.mark.parametrize("scheme", ["tcp", "http"])
def test_a_host_name_that_does_not_resolve_is_reported(call: Call, store: Store, scheme: str, host: str) -> None:
    assert call("create", "-d", "none", "--url", f"{scheme}://{host}:1", "x")[0] == 0
    why = f"dial tcp: lookup {host.replace('%80', chr(0x80))}: no such host"
    for command in ("env", "config", "version"):
        code, out, err = call(command, "x")
        assert (code, out) == (1, "")
        assert printable.line(why) in err
    assert call("ls", "-f", "{{.State}} {{.Error}}")[1] == f"Running Unable to query docker version: {why}\n"


class _Unix(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class _Handler(fake_engine._Handler):
    def address_string(self) -> str:
        return "unix"


@pytest.fixture(params=["unix", "http"])
def plain_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an engine without TLS."""
    server: socketserver.BaseServer
    if request.param == "unix":
        server, url = _Unix(str(tmp_path / "sock"), _Handler), f"unix://{tmp_path}/sock"
    else:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_version_of_an_engine_without_tls_is_read(call: Call, store: Store, plain_url: str) -> None:
    assert call("create", "-d", "none", "--url", plain_url, "x")[0] == 0
    assert call("version", "x") == (0, f"{fake_engine.VERSION}\n", "")
    assert call("ls", "-f", "{{.URL}} {{.DockerVersion}}")[1] == f"{plain_url} v{fake_engine.VERSION}\n"
