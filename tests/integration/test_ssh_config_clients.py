"""OpenSSH, rsync and the docker client reach a machine by its name, through the entries of ``ssh-config --install``."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pymachine.hosts import ssh_config
from support import fake_engine, loopback_machines
from support.loopback_machines import World


@dataclass
class Setting:
    """A store with installed entries, and a folder with an ``ssh`` that reads them."""

    world: World
    environment: dict[str, str]
    config: Path

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            words, check=False, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == code, done
        return done.stdout + done.stderr


@pytest.fixture
def setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setting]:
    home = tmp_path / "ho me"
    home.mkdir()
    # OpenSSH takes the home folder from the system's list of users, and not from HOME.
    programs = tmp_path / "bin"
    programs.mkdir()
    config = home / ".ssh" / "config"
    wrapper = programs / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {shlex.quote(str(config))} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("HOME", str(home))
    # The server runs commands with these variables: its engine is on this socket.
    engine = tmp_path / "engine.sock"
    monkeypatch.setenv("DOCKER_HOST", f"unix://{engine}")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    with loopback_machines.running(home) as world, fake_engine.on_socket(engine):
        config.parent.mkdir(mode=0o700)
        config.write_text("Host *\n  ProxyCommand false\n  User nobody\n  Port 1\n")
        yield Setting(world, environment, config)


def test_programs_reach_a_machine_by_its_name(setting: Setting, tmp_path: Path) -> None:
    setting.world.machine("Intro")
    ssh_config.install(setting.world.hosts)
    assert setting.run("ssh", "Intro", "echo hello") == "hello\n"
    (tmp_path / "from").write_text("data")
    setting.run("rsync", f"{tmp_path}/from", f"Intro:{tmp_path}/to")
    assert (tmp_path / "to").read_text() == "data"
    # scp runs its own ssh.
    setting.run("scp", "-O", "-F", str(setting.config), f"Intro:{tmp_path}/to", f"{tmp_path}/back")
    assert (tmp_path / "back").read_text() == "data"
    del setting.environment["DOCKER_HOST"]
    version = ("version", "-f", "{{.Server.Version}}")
    assert setting.run("docker", "-H", "ssh://Intro", *version) == f"{fake_engine.VERSION}\n"


def test_another_host_key_is_refused(setting: Setting) -> None:
    setting.world.machine("intro")
    ssh_config.install(setting.world.hosts)
    setting.world.server.new_host_key()
    assert "HOST IDENTIFICATION HAS CHANGED" in setting.run("ssh", "intro", "true", code=255)


def test_a_new_port_is_taken_over(setting: Setting) -> None:
    host = setting.world.machine("intro")
    host.record.driver["SSHPort"] = 1
    host.save()
    ssh_config.install(setting.world.hosts)
    assert "Connection refused" in setting.run("ssh", "intro", "true", code=255)
    host.record.driver["SSHPort"] = setting.world.server.port
    host.save()
    ssh_config.refresh(setting.world.hosts.open("intro"))
    assert setting.run("ssh", "intro", "echo hello") == "hello\n"
