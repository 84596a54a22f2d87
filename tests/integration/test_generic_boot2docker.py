"""The driver ``generic`` with a real boot2docker-like host: pymachine's image before any provisioning."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.driver.contract import ImageRequest
from pymachine.image import provide
from pymachine.ssh import keys
from pymachine.store import paths
from pymachine.system.progress import Silent
from support import guest
from support.guest import Guest
from support.runner import Pymachine, cache_folder, private_store

MAGIC = "boot2docker, please format-me"
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    private = tmp_path_factory.mktemp("key") / "id_old"
    keys.make(private, comment="tests")
    return private


@pytest.fixture(scope="module")
def host(key: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest without an identity channel: its identity comes over SSH."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_CACHE, str(cache_folder()))
        store = tmp_path_factory.mktemp("store")
        image = provide.find_or_build(ImageRequest(architecture="amd64"), store=store, reporter=Silent())
    folder = Path(tempfile.mkdtemp(prefix="pm-b2d-", dir="/tmp"))
    public = keys.public_half(key).read_bytes()
    with guest.machine(folder, image) as machine:
        machine.engine_port_inside = machine.engine_port
        with machine.disk.open("r+b") as disk:
            disk.write(
                guest.tar({MAGIC: MAGIC.encode(), ".ssh/authorized_keys": public, ".ssh/authorized_keys2": public})
            )
        machine.boot(channel=False)
        machine.console_says("STAGE ready")
        yield machine


def test_boot2docker_is_provisioned_once_and_can_be_restarted_and_stopped(host: Guest, key: Path) -> None:
    with private_store() as program:
        output = program(
            *("create", "--driver", "generic", "--generic-ip-address", "127.0.0.1", "--generic-ssh-user", "docker"),
            *("--generic-ssh-port", str(host.ssh_port), "--generic-engine-port", str(host.engine_port)),
            *(
                "--generic-ssh-key",
                str(key),
                "--engine-label",
                "tier=old",
                "--engine-env",
                "GREETING=hello world",
                "old",
            ),
        ).stdout
        assert "Provisioning with boot2docker..." in output
        assert "Docker is up and running!" in output
        labels = in_machine(program, "docker info -f '{{.Labels}}'")
        assert "tier=old" in labels
        assert "provider=generic" in labels
        assert "GREETING=hello world" in host.ssh(key, "sudo cat /proc/$(pidof dockerd)/environ | tr '\\0' '\\n'")
        started = host.ssh(key, "pidof dockerd")
        assert "nothing was changed" in program("provision", "old").stdout
        assert host.ssh(key, "pidof dockerd") == started

        before = host.ssh(key, BOOT_ID)
        program("restart", "old")
        assert host.ssh(key, BOOT_ID) != before
        assert "tier=old" in in_machine(program, "docker info -f '{{.Labels}}'")
        program("stop", "old")
        assert program("status", "old").stdout == "Stopped\n"
        host.ended()


def in_machine(program: Pymachine, command: str) -> str:
    return program.run(["bash", "-c", f'set -e\neval "$(pymachine env --shell bash old)"\n{command}']).stdout
