"""A machine's local socket, and its entry for OpenSSH, with a real engine behind them."""

from __future__ import annotations

import io
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests

from pymachine.ssh import keys
from pymachine.system.wait import until
from support import processes
from support.runner import Pymachine, private_store, search_path
from support.ssh_shares import make_box

SECONDS = 600
NAME = "reached"


@pytest.fixture(scope="module")
def machine() -> Iterator[Pymachine]:
    """A store with a machine that has an image `box` with busybox."""
    with private_store() as program:
        program("create", "--no-share", NAME)
        make_box(program, NAME)
        yield program


@pytest.fixture
def agent(machine: Pymachine, tmp_path: Path) -> Iterator[str]:
    """An SSH agent for the machine's user; yields the line with which `ssh-add -l` lists its only key."""
    path = tmp_path / "agent"
    with processes.started(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL):
        until(path.exists, deadline=60, what="the agent's socket")
        machine.env["SSH_AUTH_SOCK"] = str(path)
        keys.make(tmp_path / "key", comment="key of the agent")
        machine.run(["ssh-add", "-q", str(tmp_path / "key")])
        yield machine.run(["ssh-add", "-l"]).stdout
        del machine.env["SSH_AUTH_SOCK"]


def docker(machine: Pymachine, host: str, *words: str, stdin: str = "") -> str:
    return machine.run(["docker", "-H", host, *words], stdin=stdin).stdout


def test_containers_run_through_the_local_socket(machine: Pymachine) -> None:
    path = Path(machine("socket", NAME).stdout.strip())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    url = f"unix://{path}"
    assert docker(machine, url, "run", "-i", "--rm", "box", "/bin/cat", stdin="both ways\n") == "both ways\n"
    # The engine, its socket and the machine are started again behind it.
    machine("ssh", NAME, "sudo /etc/init.d/docker restart")
    assert docker(machine, url, "version", "-f", "{{.Server.Os}}") == "linux\n"
    machine("stop", NAME)
    assert not path.exists()
    machine("start", NAME)
    assert machine("socket", NAME).stdout == f"{path}\n"
    assert docker(machine, url, "version", "-f", "{{.Server.Os}}") == "linux\n"


def test_docker_py_and_testcontainers_use_the_local_socket(
    machine: Pymachine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import docker as docker_py

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{machine('socket', NAME).stdout.strip()}")
    for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONTEXT"):
        monkeypatch.delenv(name, raising=False)
    with closing(docker_py.from_env(timeout=SECONDS)) as client:
        assert client.containers.run("box", "echo output", remove=True) == b"output\n"
        dockerfile = io.BytesIO(b"FROM box\nENV TEXT=page\nCMD echo $TEXT > /index.html && exec httpd -f -p 80 -h /\n")
        client.images.build(fileobj=dockerfile, tag="web", rm=True)

    # The reaper of testcontainers is an image that the tests do not have. If the tests run in a container,
    # testcontainers would look for that one's network.
    monkeypatch.setenv("TESTCONTAINERS_RYUK_DISABLED", "true")
    monkeypatch.setenv("TESTCONTAINERS_CONNECTION_MODE", "docker_host")
    monkeypatch.setenv("TESTCONTAINERS_HOST_OVERRIDE", machine("ip", NAME).stdout.strip())
    from testcontainers.core.container import DockerContainer

    with DockerContainer("web", docker_client_kw={"timeout": SECONDS}).with_exposed_ports(80) as web:
        url = f"http://{web.get_container_host_ip()}:{web.get_exposed_port(80)}/"

        def page() -> str:
            try:
                return requests.get(url, timeout=60).text
            except requests.RequestException:  # the port is not forwarded yet
                return ""

        assert until(page, deadline=300, what="the page") == "page\n"
        assert web.exec(["hostname"]).exit_code == 0


def test_an_ssh_agent_is_forwarded_into_a_build(machine: Pymachine, agent: str, tmp_path: Path) -> None:
    context = tmp_path / "context"
    program = shutil.which("ssh-add")
    assert program
    for word in [program, *machine.run(["ldd", program]).stdout.split()]:
        if word.startswith("/"):
            copy = context / "files" / word.removeprefix("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, copy)
    (context / "Dockerfile").write_text(f"FROM box\nCOPY files /\nRUN --mount=type=ssh {program} -l\n")
    client = "docker-with-buildkit" if shutil.which("docker-with-buildkit", path=search_path()) else "docker"
    url = f"unix://{machine('socket', NAME).stdout.strip()}"
    build = [client, "-H", url, "build", "--ssh", "default", "--progress", "plain", str(context)]
    assert agent in machine.run(build, env={"DOCKER_BUILDKIT": "1"}).stderr


def test_ssh_and_docker_reach_the_machine_by_name(machine: Pymachine, agent: str, tmp_path: Path) -> None:
    machine("ssh-config", "--install")
    wrapper = tmp_path / "ssh"
    wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {machine.home}/.ssh/config "$@"\n')
    wrapper.chmod(0o755)
    machine.env["PATH"] = f"{tmp_path}:{machine.environment()['PATH']}"
    try:
        assert machine.run(["ssh", "-A", NAME, "hostname; ssh-add -l"]).stdout == f"{NAME}\n{agent}"
        assert docker(machine, f"ssh://{NAME}", "version", "-f", "{{.Server.Os}}") == "linux\n"
        (tmp_path / "file").write_text("data")
        machine.run(["rsync", f"{tmp_path}/file", f"{NAME}:copied"])
        assert machine("ssh", NAME, "cat copied").stdout == "data"
    finally:
        del machine.env["PATH"]
