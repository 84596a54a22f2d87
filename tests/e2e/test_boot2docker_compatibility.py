"""Scripts and how-tos for boot2docker work with pymachine's guest: over SSH, and after restarts.

The tests share a machine and depend on their order.
"""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pymachine.store import paths
from pymachine.system.progress import Silent
from pymachine.system.wait import until
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
# It runs from the first test on. The engine kills it when it stops, and starts it when it starts.
STAYS = "docker run -d --name stays --restart always --stop-signal KILL --privileged -v /mnt:/mnt:rshared"
TOOLS = [
    "bash -c 'echo ${BASH_VERSION%%.*}'",
    "curl --version",
    "cd /tmp && git init -q repo && git -C repo status",
    "pgrep -x dockerd",
    "nohup echo through",
    "sudo parted -s /dev/vdb print",
    "shutdown --help 2>&1 | grep -q Usage && command -v shutdown",
    "jq --version",
    "/usr/bin/ps -ef",
    "for each in fd/ stdin stdout stderr; do [ -e /dev/$each ] || exit; done; echo through | cat /dev/stdin",
]
ENDED = "--- ended with"


@pytest.fixture(scope="module")
def program() -> Iterator[Pymachine]:
    with private_store() as store:
        mirrors = [word for mirror in MIRRORS[:1] for word in ("--engine-registry-mirror", mirror)]
        store("create", "--engine-label", "tier=gold", "--engine-label", "kept=yes", *mirrors, NAME)
        ssh(store, f"{IMPORT}; {STAYS} box sleep 100000")
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


def in_one_login(program: Pymachine, commands: list[str], *, stdin: str = "") -> list[tuple[int, str]]:
    """Run commands one after another, each in a shell, and return their exit codes and outputs.

    A login takes two seconds of processor time in emulation.
    """
    shells = [f"sh -c {shlex.quote(command)} 2>&1; code=$?; echo; echo {ENDED} $code" for command in commands]
    output = ssh(program, "\n".join(shells), stdin=stdin)
    found = [(int(code), text) for text, code in re.findall(rf"(.*?)\n{ENDED} (\d+)\n", output, re.DOTALL)]
    assert len(found) == len(commands), output
    return found


def docker(program: Pymachine, command: str, *, code: int | None = 0) -> str:
    script = f'set -e\neval "$(pymachine env --shell bash {NAME})"\n{command}'
    return program.run(["bash", "-c", script], code=code).text


class TestTools:
    @pytest.fixture(scope="class")
    @classmethod
    def results(cls, program: Pymachine) -> dict[str, tuple[int, str]]:
        """The exit code and output of each tool."""
        return dict(zip(TOOLS, in_one_login(program, TOOLS), strict=True))

    @pytest.mark.parametrize("command", TOOLS)
    def test_a_tool_of_boot2docker_works(self, results: dict[str, tuple[int, str]], command: str) -> None:
        code, output = results[command]
        assert code == 0
        assert output

    def test_nohup_outlives_its_session_and_the_disk_is_mounted_where_boot2docker_mounts_it(
        self, program: Pymachine
    ) -> None:
        ssh(
            program,
            "nohup sh -c 'sleep 2; echo done > /tmp/outlived' > /dev/null 2>&1 & echo mine > /var/lib/boot2docker/mine",
        )
        awaited = "for i in $(seq 100); do [ -s /tmp/outlived ] && break; sleep 0.2; done; cat /tmp/outlived"
        assert ssh(program, f"{awaited}; cat /mnt/sda1/var/lib/boot2docker/mine") == "done\nmine\n"

    def test_docker_top_works(self, program: Pymachine) -> None:
        output = docker(program, "docker top stays; docker top stays -o pid,args")
        assert output.count("sleep 100000") == 2
        assert "COMMAND" in output


def test_a_container_gets_its_network_without_another_start_of_the_engine(program: Pymachine) -> None:
    tasks = "/run/containerd/io.containerd.runtime.v2.task/moby"
    hook = "echo '{\"pid\":1}' | sudo /usr/lib/pymachine/network-hook -exec-root=/run/docker"
    replaced, network, unknown, unreachable = in_one_login(
        program,
        [
            f"sudo jq -r '.hooks.prestart[].path' {tasks}/$(docker inspect -f '{{{{.Id}}}}' stays)/config.json",
            "docker exec stays ls /sys/class/net",
            f"{hook} c0ffee $(sudo ls /run/docker/libnetwork | cut -d . -f 1)",
            f"{hook} c0ffee cafe",
        ],
    )
    assert replaced == (0, "/usr/lib/pymachine/network-hook\n")
    assert network == (0, "eth0\nlo\n")
    for (code, output), text in ((unknown, "c0ffee"), (unreachable, "no answer")):
        assert code == 1
        assert re.search(f"did not accept the network of the container: .*{text}", output)


class TestLimits:
    def test_memory_is_limited_and_the_kill_is_reported(self, program: Pymachine) -> None:
        eat = "docker run --name eater --memory 64m box dd if=/dev/zero of=/dev/null bs=300M count=1 || echo code $?"
        state = "docker inspect -f 'state {{.State.OOMKilled}} {{.State.ExitCode}}' eater"
        output = docker(program, f"{eat}; {state}; docker info")
        assert "code 137\n" in output
        assert "state true 137\n" in output
        assert "Server Version" in output
        assert "WARNING" not in output

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
        group = f"/sys/fs/cgroup/docker/{output.split()[0]}"
        # Read in the guest, since containers see no devices.
        update = "docker update --memory 32m --memory-swap 48m --cpus 0.2 limited"
        (_, devices), (updated, _), (_, memory_and_cpu), _ = in_one_login(
            program,
            [f"cat {group}/io.max", update, f"cat {group}/memory.max {group}/cpu.max", "docker rm -f limited eater"],
        )
        assert "rbps=1048576 wbps=2097152 riops=100" in devices
        assert updated == 0
        assert memory_and_cpu.split() == [str(32 << 20), "20000", "100000"]

    def test_a_container_has_a_single_overlay_mount_and_the_limits_of_boot2docker(self, program: Pymachine) -> None:
        read = "grep -c ^overlay /proc/mounts; cat /proc/$(pgrep -xf 'sleep 100000')/limits"
        overlays, *limits = ssh(program, read).splitlines()
        assert overlays == "1"
        values = {line[:26].strip(): line[26:].split() for line in limits}
        assert values["Max open files"] == ["1048576", "1048576", "files"]
        assert values["Max core file size"] == ["unlimited", "unlimited", "bytes"]

    def test_mounts_propagate_in_both_directions(self, program: Pymachine) -> None:
        (mounted, _), (_, seen), (_, mounts), (unmounted, _) = in_one_login(
            program,
            [
                "sudo mkdir /mnt/late && sudo mount -t tmpfs late /mnt/late && sudo touch /mnt/late/seen",
                "docker exec stays sh -c 'ls /mnt/late; mkdir /mnt/inner && mount -t tmpfs inner /mnt/inner'",
                "cat /proc/mounts",
                "sudo umount /mnt/late /mnt/inner",
            ],
        )
        assert (mounted, unmounted) == (0, 0)
        assert "seen" in seen
        assert " /mnt/inner tmpfs" in mounts

    def test_df_works_after_a_container_used_the_network_of_the_guest(self, program: Pymachine) -> None:
        """The container's network namespace stays mounted in /run/docker."""
        run = "docker run --rm --net=host box ls"
        (ran, _), (_, mounts), (_, disks) = in_one_login(program, [run, "cat /proc/mounts", "df"])
        assert ran == 0
        assert "/run/docker/netns/default" in mounts
        assert re.search(r"^/dev/\S+ .* /var/lib/docker$", disks, re.MULTILINE)
        # Only root may read the file system of a running container.
        problems = [line for line in disks.splitlines() if line.startswith("df: ")]
        assert [line for line in problems if "/var/lib/docker/overlay2/" not in line] == []


def test_a_changed_daemon_json_is_reloaded(program: Pymachine) -> None:
    changed = "jq '. + {\"debug\": true}' /etc/docker/daemon.json | sudo tee /etc/docker/daemon.json.new > /dev/null"
    move = "sudo mv /etc/docker/daemon.json.new /etc/docker/daemon.json"
    reload = "pidof dockerd; sudo /etc/init.d/docker reload > /dev/null; pidof dockerd"
    before, after = ssh(program, f"{changed} && {move} && {reload}").split()
    assert before == after
    # The engine reads its settings after the command has ended.
    until(lambda: docker(program, "docker info -f '{{.Debug}}'").strip() == "true", deadline=60, what="debug mode")


class TestDockerMachine:
    """Another program provisions the machine with docker-machine's commands.

    That these settings last over a reboot of the guest itself is checked in tests/integration/test_guest_boot.py.
    """

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
        commands = [
            'sudo /usr/bin/sethostname dm && echo "dm" | sudo tee /var/lib/boot2docker/etc/hostname',
            "sudo mkdir -p /var/lib/boot2docker",
            "sudo /etc/init.d/docker stop",
            'if [ ! -z "$(ip link show docker0)" ]; then sudo ip link delete docker0; fi',
            *(
                f"printf '%s' '{(folder / name).read_text()}' | sudo tee /var/lib/boot2docker/{name}"
                for name in (paths.CA_CERT, paths.SERVER_CERT, paths.SERVER_KEY)
            ),
            f"printf %s {quoted(PROFILE)} | sudo tee /var/lib/boot2docker/profile",
            "sudo /etc/init.d/docker start",
            "if ! type netstat 1>/dev/null; then ss -tln; else netstat -tln; fi",
        ]
        results = in_one_login(program, commands)
        assert [code for code, _ in results] == [0] * len(commands), results
        assert ":2376" in results[-1][1]
        check(program, folder)

    def test_provisioning_and_boot_files_take_effect_at_the_next_start_with_the_certificates_of_pymachine(
        self, program: Pymachine, authority: certs.AuthPaths, private_registry: Registry
    ) -> None:
        host = f"{USER_NETWORK_HOST}:{private_registry.port}"
        pull = f"docker pull {host}/team/alpine:1"
        (_, refused), *written = in_one_login(
            program,
            [
                pull,
                # The user docker owns this folder in boot2docker.
                "mkdir /var/lib/boot2docker/certs && cat > /var/lib/boot2docker/certs/team.pem",
                "echo nonsense > /var/lib/boot2docker/certs/spoilt.pem",
                "sudo mkdir -p /etc/docker/certs.d/r.example:5000",
                "sudo cp /var/lib/boot2docker/certs/team.pem /etc/docker/certs.d/r.example:5000/ca.crt",
                "printf 'echo \"$GREETING\" > /run/greeting\\npgrep dockerd\\n'"
                " | sudo tee /var/lib/boot2docker/bootsync.sh",
            ],
            stdin=authority.ca_cert.read_text(),
        )
        assert "certificate signed by unknown authority" in refused
        assert [code for code, _ in written] == [0] * len(written), written

        program("restart", NAME)
        info, names = docker(program, "docker info -f '{{json .}}'; docker ps --format '{{.Names}}'").splitlines()
        check_settings(json.loads(info))
        assert json.loads(info)["Debug"] is True, "daemon.json was not kept"
        assert names == "stays"
        (_, pulled), (_, git), (_, reply), (_, certificate), (_, boot_files) = in_one_login(
            program,
            [
                pull,
                f"git ls-remote https://{host}/none.git",
                f"curl -s https://{host}/v2/",
                "cat /etc/docker/certs.d/r.example:5000/ca.crt",
                "cat /run/greeting; cat /var/log/bootsync.log",
            ],
        )
        assert "Downloaded newer image" in pulled
        assert "not found" in git, "git, which uses another TLS library, does not reach the registry"
        assert "{}" in reply
        assert "BEGIN CERTIFICATE" in certificate
        assert boot_files == "hello world\n"


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
    check_settings(output)
    assert output["Name"] == "dm"
    until(
        lambda: "stays" in run_docker(program, folder, "ps", "--format", "{{.Names}}").stdout,
        deadline=300,
        what="the container to run again",
    )


def check_settings(info: dict[str, Any]) -> None:
    """Check the labels and mirrors that the engine reports: those of the machine, and those of the profile."""
    assert set(info["Labels"]) == {"tier=silver", "kept=yes", "provider=generic"}
    assert {mirror.rstrip("/") for mirror in info["RegistryConfig"]["Mirrors"]} == set(MIRRORS)
