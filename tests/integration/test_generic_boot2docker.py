"""A guest like boot2docker: pymachine's image without an identity channel, in plain QEMU.

It is provisioned with docker-machine's own commands, and, as if it had just booted, by the driver ``generic``.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.driver.contract import ImageRequest
from pymachine.image import provide
from pymachine.ssh import keys
from pymachine.store import paths
from pymachine.system.progress import Silent
from support import guest
from support.guest import Api, Guest
from support.guest_secrets import Secrets
from support.runner import Pymachine, cache_folder, private_store

pytestmark = pytest.mark.timeout(900)

MAGIC = "boot2docker, please format-me"
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
BOOTED = "booted"
# The commands that docker-machine sends over SSH to boot2docker.
LISTENING = "if ! type netstat 1>/dev/null; then ss -tln; else netstat -tln; fi"
PORT_OPEN = re.compile(r":2376\s+.*:.*")
DELETE_BRIDGE = """if [ ! -z "$(ip link show docker0)" ]; then sudo ip link delete docker0; fi"""
PROFILE = """
EXTRA_ARGS='
--label e=f
--label provider=virtualbox

'
CACERT=/var/lib/boot2docker/ca.pem
DOCKER_HOST='-H tcp://0.0.0.0:2376'
DOCKER_STORAGE=overlay2
DOCKER_TLS=auto
SERVERKEY=/var/lib/boot2docker/server-key.pem
SERVERCERT=/var/lib/boot2docker/server.pem

export "NO_PROXY=10.1.2.3"
"""


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    return Secrets(tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="module")
def key(secrets: Secrets) -> Path:
    return secrets.ssh_key


@pytest.fixture(scope="module")
def host(key: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest without an identity channel, whose state just after its boot is saved as `BOOTED`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_CACHE, str(cache_folder()))
        store = tmp_path_factory.mktemp("store")
        image = provide.find_or_build(ImageRequest(architecture="amd64"), store=store, reporter=Silent())
    public = keys.public_half(key).read_bytes()
    files = {MAGIC: MAGIC.encode(), ".ssh/authorized_keys": public, ".ssh/authorized_keys2": public}
    # The path is short, since it contains a socket.
    with (
        tempfile.TemporaryDirectory(prefix="pm-b2d-", dir="/tmp") as folder,
        guest.machine(Path(folder), image) as machine,
    ):
        with machine.disk.open("r+b") as disk:
            disk.write(guest.tar(files))
        machine.use_overlay()
        machine.boot(channel=False)
        machine.console_says("STAGE ready")
        machine.save(BOOTED)
        yield machine


class TestDockerMachine:
    """docker-machine provisions the guest."""

    def test_docker_machine_recognizes_the_guest(self, host: Guest, key: Path) -> None:
        host.ssh(key, "exit 0")
        output = host.ssh(key, f"cat /etc/os-release; {LISTENING}")
        assert "ID=boot2docker" in output.splitlines()
        assert PORT_OPEN.search(output)

    def test_docker_machine_can_provision_the_guest(self, host: Guest, key: Path, secrets: Secrets) -> None:
        """docker-machine uses a session for each command. The engine has to outlive the one that starts it."""
        hostname = 'sudo /usr/bin/sethostname old && echo "old" | sudo tee /var/lib/boot2docker/etc/hostname'
        host.ssh(key, f"{hostname} && sudo mkdir -p /var/lib/boot2docker && sudo /etc/init.d/docker stop")
        commands = [DELETE_BRIDGE]
        for name in (paths.CA_CERT, paths.SERVER_CERT, paths.SERVER_KEY):
            pem = (secrets.directory / name).read_text()
            commands.append(f"printf '%s' '{pem}' | sudo tee /var/lib/boot2docker/{name}")
        commands.append("sudo tee /var/lib/boot2docker/profile")
        host.ssh(key, " && ".join(commands), stdin=PROFILE)
        host.ssh(key, "sudo /etc/init.d/docker start")
        assert PORT_OPEN.search(host.ssh(key, LISTENING))
        self.check_engine(host, secrets)

    def test_provisioning_and_data_survive_a_kernel_panic(self, host: Guest, key: Path, secrets: Secrets) -> None:
        """It reboots the guest. For an orderly reboot see the driver ``generic`` below."""
        scripts = " ".join(f"/var/lib/boot2docker/{name}.sh" for name in ("bootsync", "bootlocal"))
        host_key = "cat /var/lib/boot2docker/ssh/ssh_host_ed25519_key.pub"
        panic = "sudo sh -c 'sleep 1; echo c > /proc/sysrq-trigger' > /dev/null 2>&1 &"
        before = host.ssh(
            key,
            f"sudo tee {scripts} > /dev/null; docker volume create kept > /dev/null; {host_key}; sync; {panic}",
            stdin="date > /run/$(basename $0 .sh)-ran\n",
        )
        host.console_says("STAGE ready", times=2)
        assert "sysrq triggered crash" in host.console.read_text(errors="replace")
        self.check_engine(host, secrets)
        output = host.ssh(key, f"{host_key}; ls /run/*-ran; sudo /etc/init.d/docker status; docker volume ls -q")
        assert output.splitlines() == [
            before.strip(),
            "/run/bootlocal-ran",
            "/run/bootsync-ran",
            "Docker is running",
            "kept",
        ]

    @staticmethod
    def check_engine(host: Guest, secrets: Secrets) -> None:
        api = Api(host.engine_port, secrets.context())
        info = api("GET", "/info")
        assert info["Name"] == "old"
        assert set(info["Labels"]) == {"e=f", "provider=virtualbox"}
        assert info["NoProxy"] == "10.1.2.3"
        assert api.server_certificate() == secrets.server_certificate


def test_boot2docker_is_provisioned_once_and_can_be_restarted_and_stopped(host: Guest, key: Path) -> None:
    host.restore(BOOTED)
    host.ssh(key, f"sudo date -s @{time.time():.0f}")
    with private_store() as program:
        output = program(
            *("create", "--driver", "generic", "--generic-ip-address", "127.0.0.1", "--generic-ssh-user", "docker"),
            *("--generic-ssh-port", str(host.ssh_port), "--generic-engine-port", str(host.same_port)),
            *("--generic-ssh-key", str(key), "--engine-label", "tier=old", "--engine-env", "GREETING=hello world"),
            "old",
        ).stdout
        assert "Provisioning with boot2docker..." in output
        assert "Docker is up and running!" in output
        labels = in_machine(program, "docker info -f '{{.Labels}}'")
        assert "tier=old" in labels
        assert "provider=generic" in labels
        environment = "sudo cat /proc/$(pidof dockerd)/environ | tr '\\0' '\\n'"
        started, boot_id, *variables = host.ssh(key, f"pidof dockerd; {BOOT_ID}; {environment}").splitlines()
        assert "GREETING=hello world" in variables
        assert "nothing was changed" in program("provision", "old").stdout
        assert host.ssh(key, "pidof dockerd").strip() == started

        program("restart", "old")
        assert host.ssh(key, BOOT_ID).strip() != boot_id
        assert "tier=old" in in_machine(program, "docker info -f '{{.Labels}}'")
        program("stop", "old")
        assert program("status", "old").stdout == "Stopped\n"
        host.ended()


def in_machine(program: Pymachine, command: str) -> str:
    return program.run(["bash", "-c", f'set -e\neval "$(pymachine env --shell bash old)"\n{command}']).stdout
