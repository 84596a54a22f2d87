"""A machine's local socket, through OpenSSH's real client and server, with a small engine behind it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.hosts import local_socket
from pymachine.hosts.host import Host
from pymachine.ssh.local_socket import place, status
from pymachine.ssh.local_socket.process import KEEPER, LocalSocketError
from pymachine.ssh.local_socket.status import SocketState
from pymachine.system.wait import until
from support import fake_engine, processes, real_sshd
from support.real_sshd import OUTSIDER, Server
from support.runner import PROGRAM

SECONDS = 120.0
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace takes root")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with real_sshd.running(tmp_path) as made:
        yield made


@pytest.fixture
def engine(server: Server) -> Iterator[Path]:
    with fake_engine.on_socket(server.engine):
        yield server.engine


def version(path: Path) -> str:
    """Return the engine's version, as the docker client gets it through the socket."""
    words = ["docker", "-H", f"unix://{path}", "version", "-f", "{{.Server.Version}}"]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def await_state(host: Host, state: SocketState) -> status.Status:
    def reached() -> bool:
        known = status.load(host.directory)
        return known is not None and known.state is state and known.pid == KEEPER.find(host.directory)

    until(reached, deadline=SECONDS, what=f"the socket to be {state.value}")
    known = status.load(host.directory)
    assert known is not None
    return known


def ssh_of(keeper: int) -> int:
    """Return the process of OpenSSH's client that a keeper has started."""
    (found,) = [
        int(entry.name) for entry in Path("/proc").glob("[0-9]*") if processes.parent(int(entry.name)) == keeper
    ]
    return found


def has_ended(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_the_docker_client_reaches_the_engine_through_a_private_socket(server: Server, engine: Path) -> None:
    host = server.machine()
    path = local_socket.ensure(server.hosts, "far")
    assert version(path) == fake_engine.VERSION
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(os.fsencode(path)) < 104
    keeper = KEEPER.find(host.directory)
    assert local_socket.ensure(server.hosts, "far") == path
    assert KEEPER.find(host.directory) == keeper
    assert server.hosts.open("far").record.socket
    client = ssh_of(keeper)
    local_socket.turn_off(server.hosts.open("far"))
    assert not path.exists()
    assert has_ended(client)
    until(lambda: has_ended(keeper), deadline=SECONDS, what="the keeper to end")
    assert not server.hosts.open("far").record.socket


def test_the_commands_and_a_docker_context_use_it(server: Server, engine: Path, tmp_path: Path) -> None:
    server.machine().ensure_certificates("127.0.0.1")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DOCKER_", "MACHINE_"))}
    environment |= {"MACHINE_STORAGE_PATH": str(server.hosts.store.root), "DOCKER_CONFIG": str(tmp_path / "docker")}
    environment["SHELL"] = "/bin/sh"

    def shell(script: str) -> str:
        words = ["sh", "-c", script.replace("pymachine", str(PROGRAM))]
        return subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    path = shell("pymachine socket far")
    assert version(Path(path)) == fake_engine.VERSION
    wanted = "version -f '{{.Server.Version}}'"
    script = 'export DOCKER_TLS_VERIFY=1; eval "$(pymachine env --socket far)"; docker '
    assert shell(script + wanted) == fake_engine.VERSION
    shell("pymachine context create --socket far")
    assert shell(f"docker --context far {wanted}") == fake_engine.VERSION
    assert f"unix://{path}" in shell("docker context inspect far")
    shell("pymachine modify --no-socket far")
    assert "tcp://127.0.0.1:2376" in shell("docker context inspect far")
    assert not Path(path).exists()


def test_many_connections_at_once(server: Server, engine: Path) -> None:
    server.machine()
    path = local_socket.ensure(server.hosts, "far")
    connections = []
    for _ in range(50):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        connection.sendall(b"GET /version HTTP/1.0\r\n\r\n")
        connections.append(connection)
    for connection in connections:
        assert connection.recv(12) == b"HTTP/1.0 200"
        connection.close()


def test_each_direction_of_a_connection_ends_by_itself(server: Server, engine: Path) -> None:
    """As with ``docker run -i``: the container's output follows the end of its input."""
    server.machine()
    path = local_socket.ensure(server.hosts, "far")
    engine.unlink()
    data = os.urandom(1 << 20)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(engine))
        listener.listen()
        client.connect(str(path))
        connection, _ = listener.accept()
        with connection:
            sender = threading.Thread(target=client.sendall, args=(data,))
            sender.start()
            received = bytearray()
            while len(received) < len(data):
                received += connection.recv(65536)
            sender.join()
            assert received == data
            client.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
            connection.sendall(b"after the end")
        assert client.makefile("rb").read() == b"after the end"


def test_a_long_or_special_path_is_replaced_by_a_short_one(server: Server, engine: Path, tmp_path: Path) -> None:
    host = server.machine()
    for name in ("x" * 100, "100% of:it"):
        folder = tmp_path / name
        folder.mkdir()
        path = place.path(folder)
        assert path.parent == Path(f"/tmp/pymachine-{os.getuid()}")
        assert len(os.fsencode(place.fresh(path))) <= 103
    server.hosts.store.root.rename(tmp_path / "100% of it")
    server.hosts.store.root = tmp_path / "100% of it"
    path = local_socket.ensure(server.hosts, "far")
    assert path.parent == Path(f"/tmp/pymachine-{os.getuid()}")
    assert version(path) == fake_engine.VERSION
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert local_socket.end(server.hosts.store.machine_dir(host.name))
    assert not path.exists()


def test_a_lost_connection_is_made_again(server: Server, engine: Path) -> None:
    host = server.machine()
    path = local_socket.ensure(server.hosts, "far")
    server.stop()
    await_state(host, SocketState.CONNECTING)
    assert not path.exists()
    server.start()
    await_state(host, SocketState.CONNECTED)
    assert version(path) == fake_engine.VERSION


def test_a_killed_client_is_started_again(server: Server, engine: Path) -> None:
    host = server.machine()
    path = local_socket.ensure(server.hosts, "far")
    client = ssh_of(KEEPER.find(host.directory))
    os.kill(client, signal.SIGKILL)
    log = host.directory / "socket.log"
    until(lambda: log.read_text().count("connected") > 1, deadline=SECONDS, what="another client")
    await_state(host, SocketState.CONNECTED)
    assert version(path) == fake_engine.VERSION


def test_a_killed_keeper_leaves_no_client_and_is_replaced(server: Server, engine: Path) -> None:
    host = server.machine()
    path = local_socket.ensure(server.hosts, "far")
    keeper = KEEPER.find(host.directory)
    client = ssh_of(keeper)
    os.kill(keeper, signal.SIGKILL)
    until(lambda: has_ended(client), deadline=SECONDS, what="the client to end")
    assert local_socket.ensure(server.hosts, "far") == path
    assert version(path) == fake_engine.VERSION
    os.kill(KEEPER.find(host.directory), signal.SIGKILL)
    until(lambda: not KEEPER.find(host.directory), deadline=SECONDS, what="the keeper to end")
    local_socket.end(host.directory)
    assert not path.exists()


def test_a_new_address_is_followed(server: Server, engine: Path) -> None:
    host = server.machine()
    path = local_socket.ensure(server.hosts, "far")
    server.stop()
    with socket.create_server(("127.0.0.1", 0)) as free:
        server.port = free.getsockname()[1]
    server.start()
    host = server.hosts.open("far")
    host.record.driver["SSHPort"] = server.port
    host.save()
    await_state(host, SocketState.CONNECTED)
    until(lambda: version(path) == fake_engine.VERSION, deadline=SECONDS, what="the engine at the new port")


def test_a_restart_of_the_engine_needs_nothing(server: Server) -> None:
    server.machine()
    for _ in range(2):
        with fake_engine.on_socket(server.engine):
            path = local_socket.ensure(server.hosts, "far")
            assert version(path) == fake_engine.VERSION
    assert version(path) != fake_engine.VERSION


def test_a_user_who_may_not_use_the_engine_is_a_clear_error(server: Server, engine: Path) -> None:
    engine.chmod(0o660)
    server.machine(user=OUTSIDER)
    with pytest.raises(LocalSocketError, match=f"{OUTSIDER} may not use /var/run/docker.sock: add .* group docker"):
        local_socket.ensure(server.hosts, "far")
    host = server.hosts.open("far")
    assert not host.record.socket  # as before
    assert not KEEPER.find(host.directory)
    engine.chmod(0o666)
    assert version(local_socket.ensure(server.hosts, "far")) == fake_engine.VERSION


def test_a_machine_without_an_engine_is_a_clear_error(server: Server) -> None:
    server.machine()
    with pytest.raises(LocalSocketError, match="no engine listens at /var/run/docker.sock"):
        local_socket.ensure(server.hosts, "far")
    server.engine.touch()
    with pytest.raises(LocalSocketError, match="the engine does not answer at /var/run/docker.sock"):
        local_socket.ensure(server.hosts, "far")


def test_a_server_that_does_not_forward_is_a_clear_error(server: Server, engine: Path) -> None:
    server.machine()
    server.stop()
    server.start("AllowStreamLocalForwarding no")
    with pytest.raises(LocalSocketError, match="AllowStreamLocalForwarding must be yes"):
        local_socket.ensure(server.hosts, "far")


def test_another_host_key_is_refused(server: Server, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYMACHINE_BOOT_TIMEOUT", "30")
    host = server.machine()
    known = host.directory / "known_hosts"
    known.write_text(f"far {(server.folder / 'user.pub').read_text()}")
    with pytest.raises(LocalSocketError, match="shows another SSH host key"):
        local_socket.ensure(server.hosts, "far")


def test_an_engine_that_comes_later_is_connected(server: Server) -> None:
    host = server.machine()
    host.record.socket = True
    host.save()
    with pytest.raises(LocalSocketError):
        local_socket.connect(host)
    await_state(host, SocketState.REFUSED)
    assert local_socket.problem(host) == "no engine listens at /var/run/docker.sock"
    with fake_engine.on_socket(server.engine):
        assert version(local_socket.connect(host)) == fake_engine.VERSION
        assert local_socket.problem(host) == ""


def test_the_keeper_ends_with_the_record(server: Server, engine: Path) -> None:
    host = server.machine()
    local_socket.ensure(server.hosts, "far")
    keeper = KEEPER.find(host.directory)
    server.hosts.store.delete("far")
    until(lambda: has_ended(keeper), deadline=SECONDS, what="the keeper to end")


def test_the_log_says_what_happened(server: Server, engine: Path) -> None:
    host = server.machine()
    path = local_socket.ensure(server.hosts, "far")
    local_socket.end(host.directory)
    lines = (host.directory / "socket.log").read_text().splitlines()
    assert [line.split(" ", 1)[1].split(",")[0] for line in lines] == [
        "connecting the local socket",
        f"connected: {path}",
        "ended",
    ]
    assert json.loads((host.directory / "socket.json").read_text())["State"] == "connected"
