"""The built image in plain QEMU: what drivers and docker-machine can rely on. Each boot takes long.

The tests of a class share a guest and depend on their order.
"""

from __future__ import annotations

import datetime as dt
import re
import shutil
import ssl
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pymachine.docker import daemon_json
from pymachine.driver.contract import ImageFiles, ImageRequest
from pymachine.hosts import identity
from pymachine.image import provide
from pymachine.ssh import keys
from pymachine.store import paths
from pymachine.store.record import EngineOptions
from pymachine.system.progress import Silent
from pymachine.tls import certs
from pymachine.tls.handshake import context
from support import guest
from support.guest import Api, Channel, Guest
from support.runner import cache_folder

pytestmark = pytest.mark.timeout(900)

GIB = 1 << 30
# Prints a counter, and a last line when it is stopped.
COUNTER = """trap 'echo bye; exit 7' TERM; i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.3; done"""
IMPORT = """set -e; mkdir -p /tmp/box/bin; cp /usr/bin/busybox /tmp/box/bin/; ln -sf busybox /tmp/box/bin/sh
ln -sf busybox /tmp/box/bin/sleep; tar -C /tmp/box -c . | docker import - box"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageFiles]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_CACHE, str(cache_folder()))
        store = tmp_path_factory.mktemp("store")
        yield provide.find_or_build(ImageRequest(architecture="amd64"), store=store, reporter=Silent())


class Secrets:
    """The keys, certificates and identities of one machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = (paths.CA_CERT, paths.CA_KEY, paths.CLIENT_CERT, paths.CLIENT_KEY)
        self.auth = certs.AuthPaths(*(folder / "certs" / name for name in names))
        certs.ensure_authority(self.auth, reporter=Silent())
        self.directory = folder / "machine"
        self.directory.mkdir()
        shutil.copy(self.auth.ca_cert, self.directory)
        identity.make_keys(self.directory, name="guest")
        self.new_server_certificate()

    def new_server_certificate(self) -> None:
        (self.directory / paths.SERVER_CERT).unlink(missing_ok=True)
        certs.ensure_server(self.auth, directory=self.directory, name="guest", hosts=["127.0.0.1"])

    @property
    def server_certificate(self) -> bytes:
        """In DER."""
        return ssl.PEM_cert_to_DER_cert((self.directory / paths.SERVER_CERT).read_text())

    @property
    def ssh_key(self) -> Path:
        return self.directory / paths.SSH_KEY

    @property
    def host_key(self) -> str:
        return keys.public_half(self.directory / paths.SSH_HOST_KEY).read_text().strip()

    def identity(self, *, hostname: str, labels: list[str]) -> bytes:
        options = EngineOptions(labels=labels, env=["NO_PROXY=10.9.8.7"])
        files = daemon_json.files(options, driver_name="test")
        return identity.of_machine(self.directory, hostname=hostname, engine=files)

    def context(self) -> ssl.SSLContext:
        return context(ca=self.auth.ca_cert, cert=self.auth.client_cert, key=self.auth.client_key)

    def expired_client(self) -> ssl.SSLContext:
        """Return a TLS context like `context`, with a certificate of the same CA that expired yesterday."""
        key = ec.generate_private_key(ec.SECP256R1())
        authority = serialization.load_pem_private_key(self.auth.ca_key.read_bytes(), None)
        assert isinstance(authority, ec.EllipticCurvePrivateKey)
        now = dt.datetime.now(dt.UTC)
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "expired")])
        builder = (
            x509.CertificateBuilder(x509.load_pem_x509_certificate(self.auth.ca_cert.read_bytes()).subject, name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - dt.timedelta(days=2))
            .not_valid_after(now - dt.timedelta(days=1))
        )
        pem = serialization.Encoding.PEM
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        file = self.folder / "expired.pem"
        file.write_bytes(builder.sign(authority, hashes.SHA256()).public_bytes(pem) + private)
        return context(ca=self.auth.ca_cert, cert=file, key=file)


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
        assert running.api.server_certificate() == running.secrets.server_certificate
        output = running.ssh(
            "hostname; df -m /var/lib/docker | tail -n 1; cat /proc/swaps; sudo docker logs counter | tail -n 1"
        )
        assert output.startswith("second\n")
        assert int(output.splitlines()[1].split()[1]) > (size - 2 * GIB) >> 20
        assert re.search(r"^/dev/vdb2 +partition", output, re.MULTILINE)
        assert output.endswith("bye\n")

    def test_a_kernel_panic_reboots_with_data_and_identity(self, running: Running) -> None:
        """For an orderly reboot see `TestLikeBoot2docker`, and the machines of the e2e tests."""
        running.ssh("sync; sudo sh -c 'sleep 1; echo c > /proc/sysrq-trigger' > /dev/null 2>&1 &")
        running.guest.console_says("STAGE ready", times=3)
        assert "sysrq triggered crash" in running.guest.console.read_text(errors="replace")
        assert running.api("GET", "/info")["Name"] == "second"
        assert running.api("GET", "/containers/counter/json")["State"]["ExitCode"] == 7
        assert running.ssh("hostname").strip() == "second"


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


class TestLikeBoot2docker:
    """A guest without a channel, provisioned with docker-machine's commands over SSH."""

    @pytest.fixture(scope="class")
    @classmethod
    def running(cls, image: ImageFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
        folder = tmp_path_factory.mktemp("g")
        secrets = Secrets(folder)
        with guest.machine(folder, image) as machine:
            magic = "boot2docker, please format-me"
            public = keys.public_half(secrets.ssh_key).read_bytes()
            files = {magic: magic.encode(), ".ssh/authorized_keys": public, ".ssh/authorized_keys2": public}
            with machine.disk.open("r+b") as disk:
                disk.write(guest.tar(files))
            machine.boot(channel=False)
            machine.console_says("STAGE ready")
            yield Running(machine, secrets, Api(machine.engine_port, secrets.context()))

    def test_docker_machine_recognizes_the_guest(self, running: Running) -> None:
        running.ssh("exit 0")
        assert "ID=boot2docker" in running.ssh("cat /etc/os-release").splitlines()
        assert PORT_OPEN.search(running.ssh(LISTENING))

    def test_docker_machine_can_provision_the_guest(self, running: Running) -> None:
        running.ssh('sudo /usr/bin/sethostname old && echo "old" | sudo tee /var/lib/boot2docker/etc/hostname')
        running.ssh("sudo mkdir -p /var/lib/boot2docker")
        running.ssh("sudo /etc/init.d/docker stop")
        running.ssh(DELETE_BRIDGE)
        for name in (paths.CA_CERT, paths.SERVER_CERT, paths.SERVER_KEY):
            pem = (running.secrets.directory / name).read_text()
            running.ssh(f"printf '%s' '{pem}' | sudo tee /var/lib/boot2docker/{name}")
        running.ssh("sudo tee /var/lib/boot2docker/profile", stdin=PROFILE)
        running.ssh("sudo /etc/init.d/docker start")
        assert PORT_OPEN.search(running.ssh(LISTENING))
        self.check_engine(running)

    def test_provisioning_survives_a_reboot(self, running: Running) -> None:
        for name in ("bootsync", "bootlocal"):
            running.ssh(f"sudo tee /var/lib/boot2docker/{name}.sh", stdin=f"date > /run/{name}-ran\n")
        host_key = running.ssh("cat /var/lib/boot2docker/ssh/ssh_host_ed25519_key.pub")
        running.ssh("sudo sh -c 'sleep 1; reboot' > /dev/null 2>&1 &")
        running.guest.console_says("STAGE ready", times=2)
        self.check_engine(running)
        assert running.ssh("cat /var/lib/boot2docker/ssh/ssh_host_ed25519_key.pub") == host_key
        assert running.ssh("ls /run/*-ran; sudo /etc/init.d/docker status").splitlines() == [
            "/run/bootlocal-ran",
            "/run/bootsync-ran",
            "Docker is running",
        ]

    @staticmethod
    def check_engine(running: Running) -> None:
        info = running.api("GET", "/info")
        assert info["Name"] == "old"
        assert set(info["Labels"]) == {"e=f", "provider=virtualbox"}
        assert info["NoProxy"] == "10.1.2.3"
        assert running.api.server_certificate() == running.secrets.server_certificate
