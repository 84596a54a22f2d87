"""A machine's local socket, and its entry for OpenSSH, with a real engine behind them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.runner import Pymachine
from support.ssh_shares import make_box


@pytest.fixture
def machine(intro: Pymachine) -> Iterator[Pymachine]:
    make_box(intro, "intro")
    yield intro
    intro("modify", "--no-socket", "intro")
    intro("ssh-config", "--uninstall")


def docker(machine: Pymachine, host: str, *words: str, stdin: str = "") -> str:
    return machine.run(["docker", "-H", host, *words], stdin=stdin).stdout


def test_containers_run_through_the_local_socket(machine: Pymachine) -> None:
    path = Path(machine("socket", "intro").stdout.strip())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    url = f"unix://{path}"
    assert docker(machine, url, "run", "-i", "--rm", "box", "/bin/cat", stdin="both ways\n") == "both ways\n"
    # The engine, its socket and the machine are started again behind it.
    machine("ssh", "intro", "sudo /etc/init.d/docker restart")
    assert docker(machine, url, "version", "-f", "{{.Server.Os}}") == "linux\n"
    machine("restart", "intro")
    assert machine("socket", "intro").stdout == f"{path}\n"
    assert docker(machine, url, "version", "-f", "{{.Server.Os}}") == "linux\n"
    machine("stop", "intro")
    assert not path.exists()
    machine("start", "intro")
    assert docker(machine, url, "version", "-f", "{{.Server.Os}}") == "linux\n"


def test_ssh_and_docker_reach_the_machine_by_name(machine: Pymachine, tmp_path: Path) -> None:
    machine("ssh-config", "--install")
    wrapper = tmp_path / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {machine.home}/.ssh/config "$@"\n')
    wrapper.chmod(0o755)
    machine.env["PATH"] = f"{tmp_path}:{machine.environment()['PATH']}"
    try:
        assert machine.run(["ssh", "intro", "hostname"]).stdout == "intro\n"
        assert docker(machine, "ssh://intro", "version", "-f", "{{.Server.Os}}") == "linux\n"
        (tmp_path / "file").write_text("data")
        machine.run(["rsync", f"{tmp_path}/file", "intro:copied"])
        assert machine("ssh", "intro", "cat copied").stdout == "data"
    finally:
        del machine.env["PATH"]
