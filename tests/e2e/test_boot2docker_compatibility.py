"""Scripts and how-tos for boot2docker work with pymachine's guest: over SSH, and after restarts.

The tests share a machine and depend on their order.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pymachine.store import paths
from pymachine.system.progress import Silent
from pymachine.tls import certs
from support import images, registry as registries
from support.registry import LOOPBACK, USER_NETWORK_HOST, Registry, Tls
from support.runner import Pymachine, private_store

pytestmark = pytest.mark.timeout(1500)

NAME = "compatible"
MIRRORS = ["http://m1.invalid", "http://m2.invalid"]
# The profile that docker-machine's provisioner writes, with settings that are also in daemon.json, and others.
PROFILE = """
EXTRA_ARGS='
--label tier=silver
--label provider=generic
--registry-mirror http://m2.invalid
--registry-mirror http://m1.invalid

'
CACERT=/var/lib/boot2docker/ca.pem
DOCKER_HOST='-H tcp://0.0.0.0:2376'
DOCKER_STORAGE=overlay2
DOCKER_TLS=auto
SERVERKEY=/var/lib/boot2docker/server-key.pem
SERVERCERT=/var/lib/boot2docker/server.pem

export "GREETING=hello world"
"""
IMPORT = """set -e; mkdir -p /tmp/box/bin /tmp/box/tmp; cp /usr/bin/busybox /tmp/box/bin
for each in sh sleep dd cat ls mount mkdir; do ln -s busybox /tmp/box/bin/$each; done
tar -C /tmp/box -c . | docker import - box"""
BOOTED = "cat /proc/sys/kernel/random/boot_id"


@pytest.fixture(scope="module")
def program() -> Iterator[Pymachine]:
    with private_store() as store:
        mirrors = [word for mirror in MIRRORS[:1] for word in ("--engine-registry-mirror", mirror)]
        store("create", "--engine-label", "tier=gold", "--engine-label", "kept=yes", *mirrors, NAME)
        ssh(store, IMPORT)
        yield store


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> certs.AuthPaths:
    """A private CA that no system trusts."""
    folder = tmp_path_factory.mktemp("ca")
    names = (paths.CA_CERT, paths.CA_KEY, paths.CLIENT_CERT, paths.CLIENT_KEY)
    auth = certs.AuthPaths(*(folder / name for name in names))
    certs.ensure_authority(auth, reporter=Silent())
    return auth


@pytest.fixture(scope="module")
def private_registry(authority: certs.AuthPaths, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with a certificate of that CA, and an image in it."""
    folder = tmp_path_factory.mktemp("registry")
    certs.ensure_server(authority, directory=folder, name="registry", hosts=[USER_NETWORK_HOST, LOOPBACK])
    tls = Tls(folder / paths.SERVER_CERT, folder / paths.SERVER_KEY, authority.ca_cert)
    with (
        tempfile.TemporaryDirectory(prefix="pm-registry-") as data,
        registries.running(Path(data), tls=tls) as running,
    ):
        running.push("team/alpine", ["1"], images.alpine_like("1", packages="http://none.invalid"), images.config())
        yield running


def ssh(program: Pymachine, command: str, *, stdin: str = "", code: int | None = 0) -> str:
    return program("ssh", NAME, command, stdin=stdin, code=code).stdout


def docker(program: Pymachine, command: str, *, code: int | None = 0) -> str:
    script = f'set -e\neval "$(pymachine env --shell bash {NAME})"\n{command}'
    return program.run(["bash", "-c", script], code=code).text


def info(program: Pymachine) -> tuple[set[str], set[str]]:
    """Return the labels and mirrors that the engine reports."""
    output = json.loads(docker(program, "docker info -f '{{json .}}'"))
    return set(output["Labels"]), {mirror.rstrip("/") for mirror in output["RegistryConfig"]["Mirrors"]}


def engine_pids(program: Pymachine) -> str:
    return ssh(program, "pidof dockerd").strip()


class TestTools:
    @pytest.mark.parametrize(
        "command",
        [
            "bash -c 'echo ${BASH_VERSION%%.*}'",
            "curl --version",
            "cd /tmp && git init -q repo && git -C repo status",
            "pgrep -x dockerd",
            "nohup echo through",
            "sudo parted -s /dev/vdb print",
            "shutdown --help 2>&1 | grep -q Usage && command -v shutdown",
            "jq --version",
            "/usr/bin/ps -ef",
        ],
    )
    def test_a_tool_of_boot2docker_works(self, program: Pymachine, command: str) -> None:
        assert ssh(program, command)

    def test_nohup_outlives_its_session(self, program: Pymachine) -> None:
        ssh(program, "nohup sh -c 'sleep 2; echo done > /tmp/outlived' > /dev/null 2>&1 &")
        assert ssh(program, "for i in $(seq 100); do [ -s /tmp/outlived ] && break; sleep 0.2; done; cat /tmp/outlived")

    def test_docker_top_works(self, program: Pymachine) -> None:
        docker(program, "docker run -d --name topped box sleep 1000")
        assert "sleep 1000" in docker(program, "docker top topped")
        assert "sleep 1000" in docker(program, "docker top topped -o pid,args")
        docker(program, "docker rm -f topped")

    def test_the_disk_is_mounted_where_boot2docker_mounts_it(self, program: Pymachine) -> None:
        ssh(program, "echo mine > /var/lib/boot2docker/mine")
        assert ssh(program, "cat /mnt/sda1/var/lib/boot2docker/mine").strip() == "mine"


class TestLimits:
    def test_memory_is_limited_and_the_kill_is_reported(self, program: Pymachine) -> None:
        eat = "docker run --name eater --memory 64m box dd if=/dev/zero of=/dev/null bs=300M count=1"
        docker(program, eat, code=137)
        state = docker(program, "docker inspect -f '{{.State.OOMKilled}} {{.State.ExitCode}}' eater")
        assert state.split() == ["true", "137"]
        assert docker(program, "docker info 2>&1").count("WARNING") == 0

    def test_each_limit_is_applied(self, program: Pymachine) -> None:
        flags = (
            "--memory 64m --memory-swap 96m --memory-reservation 32m --cpus 0.5 --cpu-shares 512 --cpuset-cpus 0 "
            "--pids-limit 20 --device-read-bps /dev/vdb:1mb --device-write-bps /dev/vdb:2mb "
            "--device-read-iops /dev/vdb:100 --ulimit nofile=99:100 --shm-size 8m --oom-score-adj 300"
        )
        names = "memory.max memory.swap.max memory.low cpu.max cpuset.cpus.effective pids.max"
        read = f"cd /sys/fs/cgroup; for each in {names}; do cat $each; done; ulimit -n; cat /proc/self/oom_score_adj"
        output = docker(
            program, f"docker run -d --name limited {flags} box sleep 1000 && docker exec limited sh -c '{read}'"
        )
        assert output.split()[1:] == [
            str(64 << 20),
            str(32 << 20),
            str(32 << 20),
            *("50000", "100000"),
            "0",
            "20",
            "99",
            "300",
        ]
        group = "/sys/fs/cgroup/docker/$(docker inspect -f '{{.Id}}' limited)"
        # Read in the guest, since containers see no devices.
        assert "rbps=1048576 wbps=2097152 riops=100" in ssh(program, f"cat {group}/io.max")
        docker(program, "docker update --memory 32m --memory-swap 48m --cpus 0.2 limited")
        assert ssh(program, f"cat {group}/memory.max {group}/cpu.max").split() == [str(32 << 20), "20000", "100000"]
        docker(program, "docker rm -f limited eater")

    def test_containers_may_open_as_many_files_as_in_boot2docker(self, program: Pymachine) -> None:
        assert docker(program, "docker run --rm box sh -c 'ulimit -n; ulimit -c'").split() == ["1048576", "unlimited"]

    def test_mounts_propagate_in_both_directions(self, program: Pymachine) -> None:
        docker(program, "docker run -d --name sharing --privileged -v /mnt:/mnt:rshared box sleep 1000")
        ssh(program, "sudo mkdir /mnt/late && sudo mount -t tmpfs late /mnt/late && sudo touch /mnt/late/seen")
        assert "seen" in docker(program, "docker exec sharing ls /mnt/late")
        docker(program, "docker exec sharing sh -c 'mkdir /mnt/inner && mount -t tmpfs inner /mnt/inner'")
        assert " /mnt/inner tmpfs" in ssh(program, "cat /proc/mounts")
        docker(program, "docker rm -f sharing")
        ssh(program, "sudo umount /mnt/late /mnt/inner")

    def test_a_container_has_a_single_overlay_mount(self, program: Pymachine) -> None:
        docker(program, "docker run -d --name once box sleep 1000")
        mounts = ssh(program, "grep -c ^overlay /proc/mounts").strip()
        docker(program, "docker rm -f once")
        assert mounts == "1"

    def test_df_works_after_a_container_used_the_network_of_the_guest(self, program: Pymachine) -> None:
        """The container's network namespace stays mounted in /run/docker."""
        docker(program, "docker run --rm --net=host box ls")
        assert "/run/docker/netns/default" in ssh(program, "cat /proc/mounts")
        assert "/var/lib/docker" in ssh(program, "df")


def test_a_changed_daemon_json_is_reloaded(program: Pymachine) -> None:
    changed = "jq '. + {\"debug\": true}' /etc/docker/daemon.json | sudo tee /etc/docker/daemon.json.new && "
    ssh(program, changed + "sudo mv /etc/docker/daemon.json.new /etc/docker/daemon.json")
    before = engine_pids(program)
    ssh(program, "sudo /etc/init.d/docker reload")
    assert engine_pids(program) == before
    assert docker(program, "docker info -f '{{.Debug}}'").strip() == "true"


class TestDockerMachine:
    """Another program provisions the machine with docker-machine's commands."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, program: Pymachine, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The other program's certificates, signed by its own CA."""
        folder = tmp_path_factory.mktemp("docker-machine")
        names = (paths.CA_CERT, paths.CA_KEY, paths.CLIENT_CERT, paths.CLIENT_KEY)
        auth = certs.AuthPaths(*(folder / name for name in names))
        certs.ensure_authority(auth, reporter=Silent())
        certs.ensure_server(auth, directory=folder, name="dm", hosts=[program("ip", NAME).stdout.strip()])
        return folder

    def test_docker_machine_can_provision_the_machine(self, program: Pymachine, folder: Path) -> None:
        docker(program, "docker run -d --name stays --restart always box sleep 100000")
        ssh(program, 'sudo /usr/bin/sethostname dm && echo "dm" | sudo tee /var/lib/boot2docker/etc/hostname')
        ssh(program, "sudo mkdir -p /var/lib/boot2docker")
        ssh(program, "sudo /etc/init.d/docker stop")
        ssh(program, 'if [ ! -z "$(ip link show docker0)" ]; then sudo ip link delete docker0; fi')
        for name in (paths.CA_CERT, paths.SERVER_CERT, paths.SERVER_KEY):
            ssh(program, f"printf '%s' '{(folder / name).read_text()}' | sudo tee /var/lib/boot2docker/{name}")
        ssh(program, f"printf %s {quoted(PROFILE)} | sudo tee /var/lib/boot2docker/profile")
        ssh(program, "sudo /etc/init.d/docker start")
        assert ":2376" in ssh(program, "if ! type netstat 1>/dev/null; then ss -tln; else netstat -tln; fi")
        check(program, folder)

    def test_provisioning_and_boot_files_take_effect_at_a_reboot(
        self, program: Pymachine, folder: Path, authority: certs.AuthPaths, private_registry: Registry
    ) -> None:
        host = f"{USER_NETWORK_HOST}:{private_registry.port}"
        refused = ssh(program, f"docker pull {host}/team/alpine:1 2>&1", code=None)
        assert "certificate signed by unknown authority" in refused
        certificate = authority.ca_cert.read_text()
        # The user docker owns this folder in boot2docker.
        ssh(program, "mkdir /var/lib/boot2docker/certs && cat > /var/lib/boot2docker/certs/team.pem", stdin=certificate)
        ssh(program, "echo nonsense > /var/lib/boot2docker/certs/spoilt.pem")
        ssh(program, "sudo mkdir -p /etc/docker/certs.d/r.example:5000")
        ssh(program, "sudo tee /etc/docker/certs.d/r.example:5000/ca.crt", stdin=certificate)
        ssh(
            program,
            "sudo tee /var/lib/boot2docker/bootsync.sh",
            stdin='echo "$GREETING" > /run/greeting\npgrep dockerd\n',
        )
        before = ssh(program, BOOTED)
        ssh(program, "sudo shutdown -r now", code=None)
        deadline = time.monotonic() + 600
        while program("ssh", NAME, BOOTED, code=None).stdout in {"", before}:
            assert time.monotonic() < deadline
            time.sleep(2)
        wait_for(lambda: run_docker(program, folder, "info").returncode == 0)
        check(program, folder)
        assert "Downloaded newer image" in ssh(program, f"docker pull {host}/team/alpine:1")
        git = ssh(program, f"git ls-remote https://{host}/none.git 2>&1", code=None)
        assert "not found" in git, "git, which uses another TLS library, does not reach the registry"
        self.check_boot_files(program, private_registry)

    def test_pymachine_restores_its_certificates_at_the_next_start(
        self, program: Pymachine, private_registry: Registry
    ) -> None:
        program("restart", NAME)
        assert info(program) == ({"tier=silver", "kept=yes", "provider=generic"}, set(MIRRORS))
        assert docker(program, "docker info -f '{{.Debug}}'").strip() == "true", "daemon.json was not kept"
        assert "stays" in docker(program, "docker ps --format '{{.Names}}'")
        self.check_boot_files(program, private_registry)

    @staticmethod
    def check_boot_files(program: Pymachine, private_registry: Registry) -> None:
        assert "{}" in ssh(program, f"curl -s https://{USER_NETWORK_HOST}:{private_registry.port}/v2/")
        assert "BEGIN CERTIFICATE" in ssh(program, "cat /etc/docker/certs.d/r.example:5000/ca.crt")
        assert ssh(program, "cat /run/greeting; cat /var/log/bootsync.log") == "hello world\n"


def test_many_probes_of_the_ssh_port_do_not_block_the_host(program: Pymachine) -> None:
    """In the guest, all connections from the host have the same address.

    This needs a machine that has booted: before that, a clone of a template has its own listener there.
    """
    record = json.loads(program("inspect", NAME).stdout)["Driver"]
    address = (program("ip", NAME).stdout.strip(), record["SSHPort"])
    for _ in range(40):
        with socket.create_connection(address, timeout=30) as connection:
            assert connection.recv(4) == b"SSH-"
    assert ssh(program, "echo in").strip() == "in"


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def run_docker(program: Pymachine, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the docker client with the other program's certificates."""
    address = f"tcp://{program('ip', NAME).stdout.strip()}:2376"
    argv = ["docker", "--tlsverify", f"--tlscacert={folder / 'ca.pem'}", f"--tlscert={folder / 'cert.pem'}"]
    argv += [f"--tlskey={folder / 'key.pem'}", "-H", address, *words]
    return subprocess.run(argv, env=program.environment(), capture_output=True, text=True, timeout=120, check=False)


def check(program: Pymachine, folder: Path) -> None:
    """Check what a user of docker-machine sees: the combined labels and mirrors, and the container."""
    done = run_docker(program, folder, "info", "-f", "{{json .}}")
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert set(output["Labels"]) == {"tier=silver", "kept=yes", "provider=generic"}
    assert {mirror.rstrip("/") for mirror in output["RegistryConfig"]["Mirrors"]} == set(MIRRORS)
    assert output["Name"] == "dm"
    wait_for(
        lambda: "stays" in run_docker(program, folder, "ps", "--format", "{{.Names}}").stdout,
        explain=lambda: (
            run_docker(program, folder, "ps", "-a").stdout
            + ssh(program, "sudo tail -n 50 /var/lib/boot2docker/log/docker.log")
        ),
    )


def wait_for(done: Callable[[], bool], *, explain: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + 300
    while not done():
        assert time.monotonic() < deadline, explain()
        time.sleep(1)
