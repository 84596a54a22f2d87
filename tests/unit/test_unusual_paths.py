"""Stores under paths with characters that OpenSSH, rsync or SSHFS interpret, with the real programs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.ssh import keys, openssh, plain_paths, scp
from pymachine.ssh.client import Client, connected
from pymachine.ssh.target import SshError, Target
from support import sshd

UNUSUAL = [
    "a%hb", "100%", "%%d", 'a"b', '"', "a'b", "$HOME", "${HOME}", "${NO_SUCH}", "a\\b", "a\\", "back\\\"slash",
    "two  blanks", " blank", "new\nline", "tab\tb", "~", "~root", "-oProxyCommand=x", "a,b", "a=b", "a:b", "#a",
    "*?[a]", "a;b", "`id`", "büchse", "caf\udce9", "plain",
]  # fmt: skip
UNUSUAL_SAMPLE = ["a%hb", 'a"b', "${HOME}", "a\\", "new\nline", "plain"]


@pytest.fixture(params=UNUSUAL)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """A real SSH server whose key and pinned host key are in a folder with an unusual name."""
    plain = tmp_path / "server"
    plain.mkdir()
    odd = tmp_path / "store" / request.param
    odd.mkdir(parents=True)
    with sshd.running(plain) as server:
        for name in ("user", "user.pub"):
            shutil.copy2(plain / name, odd / name)
        host_key = keys.public_half(plain / "host").read_text()
        (odd / "known_hosts").write_text(f"far {host_key}")
        yield Target("far", "127.0.0.1", server.port, "admin", odd / "user", odd / "known_hosts")


def test_ssh_logs_in_and_checks_the_host_key(target: Target) -> None:
    assert Client(target).run("echo hello").stdout == "hello\n"
    with connected(target) as connection:
        assert connection.run("echo again").stdout == "again\n"
    known_hosts = target.known_hosts
    assert known_hosts is not None
    known_hosts.write_text("far ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGnSt0FtYSGB0l3Lr4PYjXLpBHRqoDJ9B7TXJ/AAAAAA\n")
    with pytest.raises(SshError, match="Host key verification failed"):
        Client(target).run("echo hello")


@pytest.mark.parametrize("target", UNUSUAL_SAMPLE, indirect=True)
def test_a_new_host_key_is_saved_in_the_unusual_folder(target: Target) -> None:
    known_hosts = target.known_hosts
    assert known_hosts is not None
    known_hosts.unlink()
    learning = Target("far", target.host, target.port, target.user, target.key, known_hosts, learn=True)
    assert Client(learning).run("echo hello").stdout == "hello\n"
    assert known_hosts.read_text().startswith("far ssh-ed25519 ")


@pytest.mark.parametrize("target", UNUSUAL_SAMPLE, indirect=True)
def test_rsync_reaches_the_machine(target: Target, tmp_path: Path) -> None:
    (tmp_path / "-file").write_text("content")
    with plain_paths.plain(target) as plain:
        route = [scp.Location("-file"), scp.Location(str(tmp_path / "copy"), plain)]
        argv = scp.rsync("rsync", route, shell=openssh.rsync_shell(plain), recursive=False, quiet=True)
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "copy").read_text() == "content"


@pytest.mark.parametrize("target", UNUSUAL_SAMPLE, indirect=True)
def test_the_ssh_configuration_for_scp_works(target: Target, tmp_path: Path) -> None:
    with plain_paths.plain(target) as plain:
        (tmp_path / "config").write_text(scp.config([plain]))
        argv = ["ssh", "-F", str(tmp_path / "config"), plain.host_alias, "echo hello"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


@pytest.mark.parametrize("target", UNUSUAL_SAMPLE, indirect=True)
def test_links_to_keys_are_removed_afterwards(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "%h"))
    with plain_paths.plain(target) as plain:
        assert plain.key is not None
        assert plain_paths.is_plain(plain.key)
        assert plain.key.read_bytes() == target.key.read_bytes() if target.key else False
        made = plain.key.parent
    assert plain == target or not made.exists()


@pytest.mark.parametrize(
    ("user", "host"), [("-oProxyCommand=x", "h"), ("a b", "h"), ("a\nb", "h"), ("", "h"), ("a", "-h")]
)
def test_no_user_or_host_becomes_an_option(user: str, host: str) -> None:
    with pytest.raises(SshError, match="is not the (user|host) of an SSH server"):
        Client(Target("m", host, 22, user, None, None))
