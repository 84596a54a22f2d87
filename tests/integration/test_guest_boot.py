"""The built image in plain QEMU: what drivers and docker-machine can rely on. Each boot takes long.

The tests share a guest and depend on their order. For a guest without a channel see test_generic_boot2docker.
"""

from __future__ import annotations

import re
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pymachine.driver.contract import ImageFiles, ImageRequest
from pymachine.hosts import identity
from pymachine.image import provide
from pymachine.store import paths
from pymachine.system.progress import Silent
from pymachine.tls.handshake import context
from support import guest
from support.guest import Api, Channel, Guest
from support.guest_secrets import Secrets
from support.runner import cache_folder

pytestmark = pytest.mark.timeout(900)

GIB = 1 << 30
# Prints a counter, and a last line when it is stopped.
COUNTER = """trap 'echo bye; exit 7' TERM; i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.3; done"""
IMPORT = """set -e; mkdir -p /tmp/box/bin; cp /usr/bin/busybox /tmp/box/bin/; ln -sf busybox /tmp/box/bin/sh
ln -sf busybox /tmp/box/bin/sleep; tar -C /tmp/box -c . | docker import - box"""
# The profile that docker-machine writes.
PROFILE = """
EXTRA_ARGS='
--label e=f
--label provider=virtualbox

'
DOCKER_STORAGE=overlay2
DOCKER_TLS=auto
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageFiles]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_CACHE, str(cache_folder()))
        store = tmp_path_factory.mktemp("store")
        yield provide.find_or_build(ImageRequest(architecture="amd64"), store=store, reporter=Silent())


@dataclass
class Running:
    """A running guest."""

    guest: Guest
    secrets: Secrets
    api: Api
    channel: Channel | None = None

    def ssh(self, command: str, *, stdin: str = "") -> str:
        host_key = self.secrets.host_key if self.channel else ""
        return self.guest.ssh(self.secrets.ssh_key, command, stdin=stdin, host_key=host_key)


def served(api: Api) -> bytes:
    """Send a request over a connection that may be refused, and return the answer."""
    with api.connect() as connection:
        connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        return connection.recv(4096)


class TestWithChannel:
    """A guest that receives its identity from the host over the channel."""

    @pytest.fixture(scope="class")
    @classmethod
    def running(cls, image: ImageFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
        folder = tmp_path_factory.mktemp("g")
        secrets = Secrets(folder)
        with guest.machine(folder, image) as machine:
            machine.boot()
            channel = machine.channel()
            digest = channel.send(secrets.identity(hostname="first", labels=["a=b"]))
            channel.expect(f"OK {digest}")
            yield Running(machine, secrets, Api(machine.engine_port, secrets.context()), channel)

    def test_every_stage_is_reported_without_errors(self, running: Running) -> None:
        assert running.channel
        assert {"init", "disk", "network", "engine", "identity", "ssh", "ready"} == set(running.guest.stages()[0])
        running.channel.expect("STAGE ready")
        console = running.guest.console.read_text()
        assert "pymachine:" not in console
        assert "not found" not in console

    def test_the_engine_has_the_expected_settings(self, running: Running) -> None:
        info = running.api("GET", "/info")
        assert info["Name"] == "first"
        assert info["Driver"] == "overlay2"
        assert info["CgroupVersion"] == "2"
        assert set(info["Labels"]) == {"a=b", "provider=test"}
        assert info["NoProxy"] == "10.9.8.7"
        assert info["DockerRootDir"] == "/var/lib/docker"
        assert "boot2docker" in info["OperatingSystem"]

    def test_the_engine_port_accepts_only_clients_of_this_machine(self, running: Running, tmp_path: Path) -> None:
        foreign = Secrets(tmp_path)
        other = context(ca=running.secrets.auth.ca_cert, cert=foreign.auth.client_cert, key=foreign.auth.client_key)
        without_certificate = ssl.create_default_context(cafile=str(running.secrets.auth.ca_cert))
        for refused in (without_certificate, other, running.secrets.expired_client()):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                served(Api(running.guest.engine_port, refused))
        assert b"200 OK" in served(running.api)

    def test_tls_1_1_is_refused(self, running: Running) -> None:
        old = running.secrets.context()
        old.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError, match="(?i)protocol version"):
            served(Api(running.guest.engine_port, old))

    def test_ssh_shows_the_known_host_key_and_the_user_docker_may_use_sudo(self, running: Running) -> None:
        output = running.ssh("hostname; id -un; sudo id -u; cat /etc/machine-id; tail -n 3 /var/log/docker.log")
        machine_id = (running.secrets.directory / identity.MACHINE_ID).read_text().strip()
        assert output.splitlines()[:4] == ["first", "docker", "0", machine_id]
        assert "API listen on" in output

    def test_secrets_are_not_readable_by_other_users(self, running: Running) -> None:
        found = running.ssh(
            "sudo find / -xdev /var/lib/boot2docker /run -type f "
            r"\( -name '*key*' -o -name '*.tar' -o -name shadow \) -not -name '*.pub' -not -path '/usr/*' | sort -u | "
            'while read -r f; do test -r "$f" && echo "$f"; done; true'
        )
        assert set(found.split()) <= {"/home/docker/.ssh/authorized_keys"}

    def test_a_damaged_identity_changes_nothing(self, running: Running) -> None:
        assert running.channel
        before = len(running.channel.lines)
        running.channel.send(running.secrets.identity(hostname="damaged", labels=[]), digest="0" * 64)
        with pytest.raises(AssertionError, match="ERROR identity arrived damaged"):
            running.channel.expect("OK", after=before)
        assert running.ssh("hostname").strip() == "first"

    def test_a_new_certificate_does_not_disturb_containers(self, running: Running) -> None:
        assert running.channel
        running.ssh(IMPORT)
        made = running.api(
            "POST", "/containers/create?name=counter", {"Image": "box", "Cmd": ["/bin/sh", "-c", COUNTER]}
        )
        running.api("POST", f"/containers/{made['Id']}/start")
        before = running.api("GET", "/containers/counter/json")["State"]
        engine_before = running.ssh("pidof dockerd")
        old = running.api.server_certificate()
        assert old == running.secrets.server_certificate
        with running.api.connect() as follower:
            follower.sendall(b"GET /containers/counter/logs?follow=1&stdout=1 HTTP/1.0\r\n\r\n")
            assert b"200 OK" in follower.recv(4096)

            # Like `create` and `regenerate-certs`, use two connections to the channel, with none in between.
            running.channel.close()
            running.secrets.new_server_certificate()
            running.channel = running.guest.channel()
            digest = running.channel.send(running.secrets.identity(hostname="second", labels=["c=d"]))
            running.channel.expect(f"OK {digest}")

            assert running.api.server_certificate() == running.secrets.server_certificate != old
            follower.settimeout(20)
            seen = b""
            while b"tick 3" not in seen or not seen.endswith(b"\n"):
                seen += follower.recv(65536)
        assert running.api("GET", "/containers/counter/json")["State"] == before
        assert running.ssh("pidof dockerd") == engine_before
        assert set(running.api("GET", "/info")["Labels"]) == {"c=d", "provider=test"}
        assert running.ssh("hostname").strip() == "second"

    def test_docker_machine_changes_the_settings_of_the_identity(self, running: Running) -> None:
        """They take effect at the next boot: see the next test."""
        running.secrets.new_server_certificate()
        folder = "/var/lib/boot2docker"
        commands = [f"sudo /usr/bin/sethostname third && echo third | sudo tee {folder}/etc/hostname"]
        for name in (paths.CA_CERT, paths.SERVER_CERT, paths.SERVER_KEY):
            pem = (running.secrets.directory / name).read_text()
            commands.append(f"printf '%s' '{pem}' | sudo tee {folder}/{name}")
        commands.append(f"sudo tee {folder}/profile")
        running.ssh(" && ".join(commands), stdin=PROFILE)

    def test_the_power_button_stops_containers_and_a_larger_disk_is_used_after_boot(self, running: Running) -> None:
        assert running.channel
        running.guest.press_power_button()
        running.guest.ended()
        running.channel.close()
        size = running.guest.disk.stat().st_size + 4 * GIB
        with running.guest.disk.open("ab") as disk:
            disk.truncate(size)
        running.guest.boot()  # without a connection to the channel
        running.guest.console_says("STAGE ready", times=2)
        counter = running.api("GET", "/containers/counter/json")["State"]
        assert (counter["Status"], counter["ExitCode"]) == ("exited", 7)
        # The settings on the disk are newer than the identity.
        assert running.api.server_certificate() == running.secrets.server_certificate
        info = running.api("GET", "/info")
        assert info["Name"] == "third"
        assert set(info["Labels"]) == {"c=d", "e=f", "provider=virtualbox"}
        output = running.ssh(
            "hostname; df -m /var/lib/docker | tail -n 1; cat /proc/swaps; sudo docker logs counter | tail -n 1"
        )
        assert output.startswith("third\n")
        assert int(output.splitlines()[1].split()[1]) > (size - 2 * GIB) >> 20
        assert re.search(r"^/dev/vdb2 +partition", output, re.MULTILINE)
        assert output.endswith("bye\n")
