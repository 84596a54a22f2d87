"""A Docker host whose driver is in a plug-in program in Go: a guest with pymachine's image, in QEMU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.go_plugins import GoPlugins
from support.runner import Pymachine, private_store

SECRET = "canary-of-the-secret-token"


@pytest.fixture(scope="module")
def host(plugin_programs: GoPlugins) -> Iterator[Pymachine]:
    """A machine ``go`` of the driver ``ourgo``, provisioned as docker-machine's machines are."""
    with private_store() as program:
        program.env["PATH"] = f"{plugin_programs.folder}:{program.environment()['PATH']}"
        program.env["OURGO_SECRET_TOKEN"] = SECRET
        created = program("create", "--driver", "ourgo", "--ourgo-tag", "made=here", "--engine-label", "a=b", "go")
        assert "Provisioning with boot2docker..." in created.stdout
        assert "Docker is up and running!" in created.stdout
        assert SECRET not in created.text
        yield program
        program("rm", "-f", "go")


def runs(pid: int) -> bool:
    """Return whether the process runs. A zombie has no command line."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.exists() and path.read_bytes() != b""


def record(host: Pymachine) -> dict[str, object]:
    found: dict[str, object] = json.loads((host.store / "machines" / "go" / "config.json").read_text())
    return found


def test_a_docker_client_is_connected_to_it(host: Pymachine) -> None:
    said = host.shell("eval $(pymachine env go) && docker info -f '{{.Name}} {{.Labels}}' && pymachine active")
    name, _, rest = said.stdout.partition(" ")
    assert name == "go"
    assert "a=b" in rest
    assert "provider=ourgo" in rest
    assert rest.splitlines()[-1] == "go"
    assert "ourgo" in host("ls", "-f", "{{.DriverName}} {{.State}} {{.DockerVersion}}").stdout


def test_it_boots_our_image_and_keeps_the_secret(host: Pymachine) -> None:
    folder = host.store / "machines" / "go"
    driver = record(host)["Driver"]
    assert isinstance(driver, dict)
    assert driver["Boot2DockerURL"] == (folder / "pymachine.iso").as_uri()
    assert (folder / "pymachine.iso").read_bytes() == (folder / "boot2docker.iso").read_bytes()
    assert host("upgrade", "go").stdout.splitlines()[-1] == 'Machine "go" has the newest image already.'
    for path in (folder / "config.json", folder / "pymachine.json"):
        assert SECRET not in path.read_text()


def test_it_is_reached_as_any_machine(host: Pymachine) -> None:
    assert host("ssh", "go", "cat /etc/os-release").stdout.splitlines().count("ID=boot2docker") == 1
    assert host("ip", "go").stdout == "127.0.0.1\n"
    assert "nothing was changed" in host("provision", "go").stdout
    shared = host.home / "shared"
    shared.mkdir()
    (shared / "file").write_text("from the host")
    host("modify", "--share", str(shared), "go")
    assert host("ssh", "go", f"cat {shared}/file").stdout == "from the host"


def test_it_is_stopped_started_and_removed_by_the_program(host: Pymachine) -> None:
    host.shell("eval $(pymachine env go) && docker volume create kept")
    host("stop", "go")
    assert host("status", "go").stdout == "Stopped\n"
    assert host("ip", "go", code=1).stderr.startswith("Error getting IP address: Host is not running")
    host("start", "go")
    assert "kept" in host.shell("eval $(pymachine env go) && docker volume ls -q").stdout
    pid = int((host.store / "machines" / "go" / "qemu.pid").read_text())
    assert runs(pid)
    host("kill", "go")
    assert host("status", "go").stdout == "Stopped\n"
    host("rm", "-y", "go")
    assert not runs(pid)
    assert host("ls", "-q").stdout == ""
