"""One SSH connection for many commands, with OpenSSH's client and with paramiko, to a real SSH server."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paramiko
import pytest
from paramiko.common import MSG_CHANNEL_CLOSE, MSG_CHANNEL_EOF, MSG_CHANNEL_REQUEST

from pymachine.ssh import connection as ssh_connection, keys, native as ssh_native
from pymachine.ssh.client import Client, connected
from pymachine.ssh.connection import ConnectionLostError, LoginError, UnreachableError
from pymachine.ssh.target import HostKeyError, SshError, Target
from support import processes, sshd
from support.sshd import Server

both = pytest.mark.parametrize("native", [False, True], ids=["openssh", "paramiko"])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with sshd.running(tmp_path) as made:
        yield made


@both
def test_many_commands_take_one_login(server: Server, native: bool) -> None:
    with connected(server.target(), native=native) as connection:
        for number in range(3):
            result = connection.run(f"cat; echo {number} >&2; exit {number}", stdin="in\n")
            assert (result.returncode, result.stdout, result.stderr) == (number, "in\n", f"{number}\n")
        assert connection.commands == 3
    assert server.connections == 1


@both
def test_output_lines_arrive_while_the_command_runs(server: Server, native: bool, tmp_path: Path) -> None:
    """The command waits until its first line has arrived."""
    seen = tmp_path / "seen"
    came: list[str] = []

    def line(text: str) -> None:
        came.append(text)
        seen.touch()

    with connected(server.target(), native=native) as connection:
        connection.run(f"echo one; until [ -e {seen} ]; do sleep 0.05; done; echo two", line=line)
    assert came == ["one", "two"]


@both
def test_large_input_and_output_do_not_deadlock(server: Server, native: bool) -> None:
    text = "x" * 99 + "\n"
    with connected(server.target(), native=native) as connection:
        result = connection.run("cat; echo done >&2", stdin=text * 20000)
    assert len(result.stdout) == 2000000
    assert result.stderr == "done\n"


@both
def test_the_first_host_key_is_pinned_and_another_refused(server: Server, native: bool) -> None:
    with connected(server.target(), native=native) as connection:
        connection.run("true")
    assert (server.folder / "known_hosts").read_text().startswith("far ssh-ed25519 ")
    server.new_host_key()
    with (
        pytest.raises(HostKeyError, match="another SSH host key than the one that was pinned") as caught,
        connected(server.target(), native=native),
    ):
        pass
    assert str(server.folder / "known_hosts") in caught.value.hint
    assert [command for command in server.commands if "cat" not in command] == ["true"]


@both
def test_a_key_pinned_by_one_client_is_known_to_the_other(server: Server, native: bool) -> None:
    with connected(server.target(), native=native):
        pass
    with connected(server.target(learn=False), native=not native) as connection:
        assert connection.run("echo hello").stdout == "hello\n"


@both
def test_a_login_key_that_is_not_accepted_is_an_error(server: Server, native: bool, tmp_path: Path) -> None:
    keys.make(tmp_path / "other", comment="other")
    with (
        pytest.raises(LoginError, match="does not let the user admin in with the key") as caught,
        connected(server.target(key=tmp_path / "other"), native=native),
    ):
        pass
    assert "authorized_keys" in caught.value.hint


def test_a_host_name_that_cannot_be_resolved_is_an_error(tmp_path: Path) -> None:
    keys.make(tmp_path / "key", comment="key")
    target = Target("far", "ü..x", 22, "admin", tmp_path / "key", tmp_path / "known_hosts", learn=True)
    with pytest.raises(UnreachableError, match="far"), connected(target, native=True):
        pass


@both
def test_a_refused_connection_is_an_error(tmp_path: Path, native: bool) -> None:
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        keys.make(tmp_path / "key", comment="key")
        port = taken.getsockname()[1]
        target = Target("far", "127.0.0.1", port, "admin", tmp_path / "key", tmp_path / "known_hosts", learn=True)
        with pytest.raises(UnreachableError, match="far"), connected(target, native=native):
            pass


@both
def test_a_lost_connection_differs_from_a_failed_command(server: Server, native: bool) -> None:
    with connected(server.target(), native=native) as connection:
        assert connection.run("exit 255").returncode == 255
        threading.Timer(0.5, server.break_connections).start()
        with pytest.raises(ConnectionLostError, match=r"the SSH connection to far \(admin@127\.0\.0\.1:\d+\) was lost"):
            connection.run("sleep 30")
        with pytest.raises(ConnectionLostError):  # and no other one is made
            connection.run("true")
    assert server.connections == 1


@both
def test_a_command_that_takes_too_long_is_a_timeout(server: Server, native: bool) -> None:
    with (
        connected(server.target(), native=native) as connection,
        pytest.raises(SshError, match="did not end within 0.5 seconds"),
    ):
        connection.run("sleep 10000", timeout=0.5)


def test_a_pymachine_that_is_killed_leaves_no_connection_behind(server: Server) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom pymachine.ssh.client import connected\n"
        "from pymachine.ssh.target import Target\nport, key, known = sys.argv[1:]\n"
        "target = Target('far', '127.0.0.1', int(port), 'admin', Path(key), Path(known), learn=True)\n"
        "with connected(target):\n    print('open', flush=True)\n    time.sleep(60)\n"
    )
    words = [sys.executable, "-c", code, str(server.port), str(server.key), str(server.folder / "known_hosts")]
    with processes.started(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        (transport,) = server.transports
        process.kill()
    deadline = time.monotonic() + 20
    while transport.is_active():
        assert time.monotonic() < deadline, "the connection is still there"
        time.sleep(0.1)


def test_a_key_that_others_can_read_is_not_used(server: Server) -> None:
    server.key.chmod(0o644)
    with pytest.raises(SshError, match="too open"), connected(server.target()):
        pass


def test_a_long_path_of_the_temporary_folder_works(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with connected(server.target()) as connection:
        assert connection.run("echo up").stdout == "up\n"
    assert list(deep.iterdir()) == []


@both
@pytest.mark.parametrize("where", ["1", "2"], ids=["stdout", "stderr"])
def test_a_host_with_endless_output_is_cut_off(
    server: Server, native: bool, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ssh_connection, ssh_native):
        monkeypatch.setattr(module, "MOST_OUTPUT", 1_000_000)
    with connected(server.target(), native=native) as connection:
        with pytest.raises(SshError, match="more than 1000000 bytes"):
            connection.run(f"head -c 4000000 /dev/zero >&{where}; echo end", timeout=120)
        assert connection.run("echo next").stdout == "next\n"


def test_a_connection_with_endless_error_output_is_ended(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server can write to the stderr of the process that holds the connection."""
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nhead -c 4000000 /dev/zero >&2; exec sleep 1000\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(ssh_connection, "OPEN_SECONDS", 60.0)
    with pytest.raises(UnreachableError, match="cannot reach far") as caught, connected(server.target()):
        pass
    assert len(caught.value.details) < 1_000_000


def test_the_timeout_is_for_the_whole_command(server: Server) -> None:
    """A host that sends a little from time to time must not hold its client for ever."""
    words = "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; sleep 0.3; done; echo end"
    with connected(server.target(), native=True) as connection:
        with pytest.raises(SshError, match="did not end within 1 seconds"):
            connection.run(words, timeout=1.0)
        assert connection.run("echo next").stdout == "next\n"
    with pytest.raises(SshError, match="did not end within 1 seconds"):
        Client(server.target(), native=True).run(words, timeout=1.0)


@pytest.mark.parametrize("late", [0.0, 0.2])
def test_a_server_that_sends_no_banner_is_a_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: float
) -> None:
    """Also if the thread that ends the command is `late`: paramiko's own limit must not be reached before it."""
    enforce = ssh_native._time_limit

    @contextmanager
    def delayed(timeout: float | None, end: Callable[[], object]) -> Iterator[None]:
        with enforce(None if timeout is None else timeout + late, end):
            yield

    monkeypatch.setattr(ssh_native, "_time_limit", delayed)
    keys.make(tmp_path / "key", comment="key")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        target = Target("far", "127.0.0.1", port, "admin", tmp_path / "key", tmp_path / "known_hosts", learn=True)
        with pytest.raises(SshError, match="did not end within 0.3 seconds"):
            Client(target, native=True).run("true", timeout=0.3)


def test_a_name_lookup_that_takes_too_long_is_a_timeout(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """During a slow name lookup there is no connection yet that could be closed."""
    look_up = socket.getaddrinfo

    def slow(*words: Any, **options: Any) -> Any:
        time.sleep(0.3)
        return look_up(*words, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with pytest.raises(SshError, match="did not end within 0.1 seconds"):
        Client(server.target(), native=True).run("sleep 1000", timeout=0.1)


def test_a_network_timeout_is_not_a_command_timeout(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object) -> None:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    monkeypatch.setattr(paramiko.Channel, "recv_exit_status", unreachable)
    with pytest.raises(SshError, match="Connection timed out"):
        Client(server.target(), native=True).run("true")
    with pytest.raises(SshError, match="connection to .* was lost"), connected(server.target(), native=True) as made:
        made.run("true", timeout=60.0)


@pytest.fixture
def lose_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Break the client's connection when it sends a message of the given number of SSH's protocol."""
    send = paramiko.Transport._send_message  # type: ignore[attr-defined] # not in the stubs

    def choose(number: int) -> None:
        def broken(self: paramiko.Transport, message: paramiko.Message) -> None:
            if not self.server_mode and message.asbytes()[0] == number:
                self.sock.close()
            send(self, message)

        monkeypatch.setattr(paramiko.Transport, "_send_message", broken)

    return choose


def test_a_connection_lost_after_the_exit_status_is_no_error(server: Server, lose_at: Callable[[int], None]) -> None:
    lose_at(MSG_CHANNEL_CLOSE)
    result = Client(server.target(), native=True).run("echo one; echo two >&2; exit 3")
    assert (result.returncode, result.stdout, result.stderr) == (3, "one\n", "two\n")


def test_a_connection_lost_before_the_command_starts_is_an_error(
    server: Server, lose_at: Callable[[int], None]
) -> None:
    lose_at(MSG_CHANNEL_REQUEST)
    with pytest.raises(ConnectionLostError, match="connection to far .* was lost"):
        Client(server.target(), native=True).session(["true"])


def test_a_connection_lost_while_input_is_sent_ends_the_session(
    server: Server, lose_at: Callable[[int], None], empty_stdin: None
) -> None:
    """The thread that sends the input must not end with a traceback; pytest reports such threads."""
    lose_at(MSG_CHANNEL_EOF)
    output: list[bytes] = []
    assert Client(server.target(), native=True).session(["cat"], out=output.append, errors=output.append) == -1
    assert output == []


@pytest.fixture
def empty_stdin() -> Iterator[None]:
    before = os.dup(0)
    with Path(os.devnull).open("rb") as empty:
        os.dup2(empty.fileno(), 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)
