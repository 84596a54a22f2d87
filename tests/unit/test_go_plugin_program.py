"""The plug-in program in Go does what the tests of its client rely on: its start, its end, its names and its faults.

Go's own RPC client calls its methods, in `support/go_plugin/program_test.go`.
"""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import go_plugins, processes
from support.go_plugins import OTHERGO, OURGO, EventLog, GoPlugins, plugin_environment

SECONDS = 60
CONNECT = b"CONNECT /_goRPC_ HTTP/1.0\n\n"
HEARTBEAT_SECONDS = 10


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events")


@contextmanager
def started(program: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    with processes.started(
        [program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=plugin_environment(**variables),
    ) as process:
        yield process


def first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def connected(address: bytes) -> socket.socket:
    host, _, port = address.decode().strip().rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=SECONDS)
    connection.sendall(CONNECT)
    return connection


def refusal(program: Path, **variables: str) -> str:
    env = plugin_environment(**variables)
    done = subprocess.run([program], env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


@pytest.mark.parametrize("token", ["", "41"])
def test_it_refuses_to_start_without_the_token(plugin_programs: GoPlugins, log: EventLog, token: str) -> None:
    message = refusal(plugin_programs.program(OURGO), MACHINE_PLUGIN_TOKEN=token, **log.environment())
    assert "is a plug-in of docker-machine" in message
    assert log.starts() == []


@pytest.mark.parametrize("name", go_plugins.WITH_BUILT_INS)
def test_it_refuses_a_driver_that_is_not_built_in(plugin_programs: GoPlugins, name: str) -> None:
    message = refusal(plugin_programs.program(name), MACHINE_PLUGIN_DRIVER_NAME="nix")
    assert message == "Unsupported driver: nix\n"


def test_it_refuses_an_unknown_fault(plugin_programs: GoPlugins, log: EventLog) -> None:
    message = refusal(plugin_programs.program(OURGO), **log.environment("hangs=Create"))
    assert '"hangs=Create"' in message


@pytest.mark.parametrize(
    ("program", "wanted", "driver"),
    [
        (OURGO, "othergo", "ourgo"),
        (OTHERGO, "", "othergo"),
        ("docker-machine", "ourgo", "ourgo"),
        ("rancher-machine", "othergo", "othergo"),
        ("docker-machine-driver-vmware", "vmwarefusion", "vmware"),
    ],
)
def test_its_name_and_a_variable_choose_the_driver(
    plugin_programs: GoPlugins, log: EventLog, tmp_path: Path, program: str, wanted: str, driver: str
) -> None:
    folder = plugin_programs.linked(tmp_path, program)
    with started(folder / program, MACHINE_PLUGIN_DRIVER_NAME=wanted, **log.environment()) as process:
        assert first_line(process).startswith(b"127.0.0.1:")
    assert log.starts() == [driver]


def test_it_serves_go_rpc_at_the_address_on_its_first_line(plugin_programs: GoPlugins) -> None:
    with (
        started(plugin_programs.program(OTHERGO)) as process,
        connected(first_line(process)) as connection,
        connection.makefile("rb") as stream,
    ):
        assert stream.readline() == b"HTTP/1.0 200 Connected to Go RPC\n"
        assert stream.readline() == b"\n"


def test_it_ends_without_heartbeats(plugin_programs: GoPlugins, log: EventLog) -> None:
    begin = time.monotonic()
    with started(plugin_programs.program(OTHERGO), **log.environment()) as process:
        assert process.wait(SECONDS) == 1
        assert time.monotonic() - begin >= HEARTBEAT_SECONDS
        assert process.stderr is not None
        assert process.stderr.read() == b"no heartbeat: this program ends\n"
    assert [event.words for event in log.events("end")] == [("heartbeat",)]


def test_its_address_can_be_late_or_wrong(plugin_programs: GoPlugins, log: EventLog) -> None:
    program = plugin_programs.program(OTHERGO)
    begin = time.monotonic()
    with started(program, **log.environment("address=late:0.5")) as process:
        assert first_line(process).startswith(b"127.0.0.1:")
        assert time.monotonic() - begin >= 0.5
    with started(program, **log.environment("address=rubbish")) as process:
        assert b"not an address" in first_line(process)
    with started(program, **log.environment("address=gone")) as process:
        with pytest.raises(ConnectionRefusedError):
            connected(first_line(process))
        assert process.poll() is None
    with started(program, **log.environment("address=never")) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 0.5)[0] == [], "neither a line nor its end"


def test_it_can_accept_connections_without_an_answer(plugin_programs: GoPlugins, log: EventLog) -> None:
    with (
        started(plugin_programs.program(OTHERGO), **log.environment("connect=hang")) as process,
        connected(first_line(process)) as connection,
    ):
        connection.settimeout(0.5)
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_it_can_be_noisy(plugin_programs: GoPlugins, log: EventLog) -> None:
    with started(plugin_programs.program(OTHERGO), **log.environment("noise")) as process:
        assert first_line(process).startswith(b"127.0.0.1:")
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(2001)]
    assert b"\xff" in lines[0]
    assert len(lines[-1]) > 200_000


def test_gos_own_client_gets_the_promised_answers(plugin_programs: GoPlugins) -> None:
    variables = {"GO_PLUGIN_PROGRAMS": str(plugin_programs.folder)}
    output = go_plugins.run_go("test", "-count=1", "-v", ".", cache=plugin_programs.folder.parent, env=variables)
    assert "--- PASS: TestConfigurationHasToBeKept" in output
    assert "--- SKIP" not in output


def test_its_source_is_formatted_and_passes_gos_checks(plugin_programs: GoPlugins) -> None:
    go_plugins.run_go("vet", "./...", cache=plugin_programs.folder.parent)
    gofmt = shutil.which("gofmt", path="/usr/local/go/bin:/usr/bin") or "gofmt"
    argv = [gofmt, "-l", str(go_plugins.SOURCE)]
    assert subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=True).stdout == ""
