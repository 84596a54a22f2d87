"""Words from a record on the command lines of other programs: none of them is an option there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymachine import run
from pymachine.ssh.target import SshError, Target
from pymachine_driver_virtualbox import leases


@pytest.mark.parametrize(
    ("user", "host", "port", "named"),
    [
        ("-oProxyCommand=touch x", "h", 22, "'-oProxyCommand=touch x' is not the user"),
        ("u", "-oProxyCommand=x", 22, "'-oProxyCommand=x' is not the host"),
        ("u", "h\nProxyCommand x", 22, r"'h\nProxyCommand x' is not the host"),
        ("u", "h", 0, "0 is not the port"),
        ("u", "h", 65536, "65536 is not the port"),
    ],
)
def test_a_target_of_such_words_cannot_be_made(user: str, host: str, port: int, named: str) -> None:
    """So that none can reach ssh, scp, rsync or sshfs, whichever code makes the command line."""
    with pytest.raises(SshError) as refused:
        Target("m", host, port, user, None, None)
    assert named in refused.value.brief
    assert refused.value.brief.startswith("cannot log in to m: ")


def test_the_user_of_a_virtualbox_machine_is_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest is asked for its address by a command line of the driver's own."""
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\n')
    ssh.chmod(0o755)
    monkeypatch.setattr(run, "which", lambda name: ssh)
    leases._by_ssh({"SSHUser": "-oProxyCommand=x", "SSHPort": 40022}, "080027123456", tmp_path / "key")
    words = (tmp_path / "words").read_text().splitlines()
    assert words[words.index("-oProxyCommand=x") - 1] == "-l"
    assert words[-3:] == ["--", "127.0.0.1", "ip addr show"]
