"""SSH to a machine's sshd with OpenSSH, paramiko, scp and rsync."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pexpect
import pytest

from pymachine.ssh import keys, openssh, scp
from pymachine.ssh.client import Client
from pymachine.ssh.target import SshError, Target
from pymachine.system.run import run
from support.runner import Pymachine


@pytest.fixture(scope="module")
def server(intro: Pymachine) -> Target:
    """The sshd of a running machine."""
    folder = intro.store / "machines" / "intro"
    endpoint = json.loads((folder / "config.json").read_text())["Endpoint"]
    return Target(
        "intro", endpoint["Address"], endpoint["SshPort"], "docker", folder / "id_rsa", folder / "known_hosts"
    )


@pytest.fixture(params=[False, True], ids=["openssh", "paramiko"])
def client(request: pytest.FixtureRequest, server: Target) -> Client:
    return Client(server, native=request.param)


def test_a_command_has_streams_and_an_exit_code(client: Client) -> None:
    result = client.run("cat; echo problem >&2; exit 7", stdin=b"x" * 300_000)
    assert result.returncode == 7
    assert result.stdout == "x" * 300_000
    assert result.stderr == "problem\n"


def test_a_host_key_that_is_not_the_pinned_one_is_refused(client: Client, tmp_path: Path) -> None:
    keys.make(tmp_path / "other", comment="other")
    (tmp_path / "known_hosts").write_text("intro " + keys.public_half(tmp_path / "other").read_text())
    wrong = Client(replace(client.target, known_hosts=tmp_path / "known_hosts"), native=client.program is None)
    with pytest.raises(SshError):
        wrong.run("echo never")


def test_an_unreachable_host_is_an_error(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    unreachable = Client(replace(client.target, port=port), native=client.program is None)
    with pytest.raises(SshError, match="intro"):
        unreachable.run("true")


def test_a_key_readable_by_others_is_refused(server: Target, tmp_path: Path) -> None:
    assert server.key is not None
    key = tmp_path / "key"
    shutil.copy(server.key, key)
    key.chmod(0o644)
    with pytest.raises(SshError, match="permissions 0o?644 for .* are too open"):
        Client(replace(server, key=key))
    with pytest.raises(SshError, match="cannot be read"):
        Client(replace(server, key=tmp_path / "none"))


def session(client: Client, words: list[str]) -> list[str]:
    """Return a command that opens a session with its own streams, as the command line does."""
    script = (
        "import sys; from pathlib import Path; from pymachine.ssh.client import Client; "
        "from pymachine.ssh.target import Target; "
        f"t = Target('intro', {client.target.host!r}, {client.target.port}, {client.target.user!r}, "
        f"Path({str(client.target.key)!r}), Path({str(client.target.known_hosts)!r})); "
        f"sys.exit(Client(t, native={client.program is None}).session({words!r}))"
    )
    return [sys.executable, "-c", script]


def test_a_session_passes_stdin_and_returns_the_exit_code(client: Client) -> None:
    done = subprocess.run(session(client, ["cat; exit 5"]), input=b"abc", capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (5, b"abc")


def test_a_login_has_a_terminal_of_the_right_size(client: Client) -> None:
    program, *words = session(client, [])
    child = pexpect.spawn(program, words, encoding="utf-8", timeout=30, dimensions=(33, 99))
    child.expect(r"\$ ")
    child.sendline("stty size; echo a''b")
    child.expect("33 99")
    child.expect("ab")
    child.sendline("exit 3")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 3


def copy(places: list[scp.Location], tmp_path: Path, *, recursive: bool = False) -> None:
    config = tmp_path / "ssh_config"
    config.write_text(scp.config([place.target for place in places if place.target]))
    run(scp.scp("scp", places, config_file=str(config), recursive=recursive, quiet=True), timeout=60)


def test_scp_copies_to_from_and_between_machines(server: Target, tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "file").write_bytes(b"x" * 100_000)
    copy([scp.Location(str(folder / "in")), scp.Location("/tmp/there", server)], tmp_path, recursive=True)
    assert server.known_hosts is not None
    other = replace(server, alias="again", known_hosts=tmp_path / "hosts")
    (tmp_path / "hosts").write_text(server.known_hosts.read_text().replace("intro ", "again "))
    copy([scp.Location("/tmp/there/file", server), scp.Location("/tmp/copy", other)], tmp_path)
    copy([scp.Location("/tmp/copy", other), scp.Location(str(folder / "back"))], tmp_path)
    assert (folder / "back").read_bytes() == b"x" * 100_000


def test_rsync_copies_a_file(server: Target, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    places = [scp.Location(str(tmp_path / "a")), scp.Location("/tmp/b", server)]
    shell = openssh.rsync_shell(server)
    run(scp.rsync("rsync", places, shell=shell, recursive=False, quiet=True), timeout=60)
    assert Client(server).run("cat /tmp/b").stdout == "one"


def test_local_and_remote_paths_are_distinguished(server: Target) -> None:
    def resolve(name: str, user: str | None) -> Target:
        return replace(server, alias=name, user=user or "docker")

    assert scp.parse("file", resolve) == scp.Location("file")
    assert scp.parse("localhost:file", resolve) == scp.Location("file")
    assert scp.parse("./a:b", resolve) == scp.Location("./a:b")
    there = scp.parse("me@intro:/x:y", resolve)
    assert there.path == "/x:y"
    assert there.target is not None
    assert (there.target.alias, there.target.user) == ("intro", "me")
