"""The guest without the driver's help: a later identity, a reboot from inside, and boot2docker's way of life."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import ssl
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine import certs, engine, identity, wait
from pymachine.certs import AuthPaths
from pymachine.driver import Endpoint, ImageFiles, ImageRequest
from pymachine.image import cache
from pymachine.machine import EngineOptions
from pymachine.progress import Silent
from pymachine.run import Result, run
from pymachine.ssh import keys
from pymachine.ssh.client import Client
from pymachine.ssh.target import SshError, Target
from pymachine.tls import TlsError
from support.runner import cache_folder

BOOT_SECONDS = 400.0
MIB = 1 << 20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def image() -> ImageFiles:
    before = os.environ.get("PYMACHINE_CACHE")
    os.environ["PYMACHINE_CACHE"] = str(cache_folder())
    try:
        return cache.ensure(ImageRequest(), store=cache_folder(), reporter=Silent())
    finally:
        if before is None:
            del os.environ["PYMACHINE_CACHE"]


class Guest:
    """One QEMU with the image, by a command line of this test's own."""

    def __init__(self, image: ImageFiles, folder: Path, *, channel: bool) -> None:
        self.folder = folder
        self.image = image
        self.channel = folder / "channel"
        self.endpoint = Endpoint("127.0.0.1", docker_port=free_port(), ssh_port=free_port())
        self.has_channel = channel
        self.disk = folder / "disk.raw"
        self.machine = folder / "machine"
        self.machine.mkdir()
        self.auth = AuthPaths(*(folder / "certs" / name for name in ("ca.pem", "ca-key.pem", "cert.pem", "key.pem")))
        certs.ensure_authority(self.auth, reporter=Silent())
        identity.make_keys(self.machine, name="guest")
        self.process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        ports = ((self.endpoint.docker_port, 2376), (self.endpoint.ssh_port, 22))
        forwards = ",".join(f"hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in ports)
        append = "console=ttyS0 quiet loglevel=3"
        argv = [
            "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2",
            "-m", "768",
            "-nodefaults", "-display", "none", "-serial", f"file:{self.folder}/console.log",
            "-kernel", self.image.kernel, "-initrd", self.image.initrd,
            "-drive", f"file={self.image.iso},if=virtio,readonly=on,format=raw",
            "-drive", f"file={self.disk},if=virtio,format=raw,cache=unsafe",
            "-netdev", f"user,id=n,{forwards}", "-device", "virtio-net-pci,netdev=n", "-device", "virtio-rng-pci",
            "-device", "virtio-serial", "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off",
        ]  # fmt: skip
        if self.has_channel:
            append += " pymachine.identity=channel"
            argv += ["-chardev", f"socket,id=i,path={self.channel},server=on,wait=off"]
            argv += ["-device", "virtserialport,chardev=i,name=org.pymachine.identity"]
        self.process = subprocess.Popen([*argv, "-append", append])

    def identity(self, *, hosts: list[str], options: EngineOptions) -> bytes:
        certs.ensure_server(self.auth, directory=self.machine, name="guest", hosts=hosts)
        files = engine.files(options, driver_name="test")
        return identity.of_machine(self.machine, hostname="guest", engine=files)

    def send(self, tar: bytes) -> list[str]:
        """Send an identity and return what the guest says until its OK."""
        digest = hashlib.sha256(tar).hexdigest()
        with socket.socket(socket.AF_UNIX) as channel:
            wait.until(self.channel.exists, deadline=10, what="the channel")
            channel.connect(str(self.channel))
            channel.settimeout(BOOT_SECONDS)
            channel.sendall(f"IDENTITY 1 {len(tar)} {digest} {int(time.time())}\n".encode() + tar)
            lines = []
            for line in channel.makefile("r"):
                lines.append(line.strip())
                assert not line.startswith("ERROR"), line
                if line.strip() == f"OK {digest}":
                    return lines
        raise AssertionError(f"the channel ended: {lines}")

    def ssh(self, command: str, *, timeout: float = 120) -> Result:
        hosts = self.machine / "known_hosts" if self.has_channel else None
        target = Target("guest", "127.0.0.1", self.endpoint.ssh_port, "docker", self.machine / "id_rsa", hosts)
        return Client(target).run(command, timeout=timeout)

    def await_ssh(self) -> None:
        def answers() -> bool:
            try:
                return self.ssh("exit 0").returncode == 0
            except SshError:
                return False

        wait.until(answers, deadline=BOOT_SECONDS, what="SSH", interval=1)

    def ask(self, path: str = "/version") -> dict[str, object]:
        return dict(engine.ask(self.endpoint, directory=self.machine, path=path, timeout=30))

    def server_certificate(self) -> str:
        return ssl.get_server_certificate(("127.0.0.1", self.endpoint.docker_port))

    def docker(self, *words: str, stdin: bytes = b"") -> str:
        env = {
            **os.environ,
            "DOCKER_HOST": self.endpoint.url,
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": str(self.machine),
        }
        return run(["docker", *words], env=env, stdin=stdin, timeout=120).stdout.strip()

    def console(self) -> str:
        return (self.folder / "console.log").read_text(errors="replace")

    def powerdown(self) -> None:
        """Press the power button and wait for the guest to go."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(f"{self.folder}/qmp")
            stream = monitor.makefile("rw")
            for command in ("qmp_capabilities", "system_powerdown"):
                stream.write(f'{{"execute": "{command}"}}\n')
                stream.flush()
            assert self.process is not None
            self.process.wait(120)

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("g")


@pytest.fixture
def guest(image: ImageFiles, folder: Path) -> Iterator[Guest]:
    made = Guest(image, folder, channel=True)
    yield made
    made.end()


@pytest.fixture
def old_style(image: ImageFiles, folder: Path) -> Iterator[Guest]:
    made = Guest(image, folder, channel=False)
    yield made
    made.end()


def sparse(path: Path, size: int, head: bytes = b"") -> None:
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(size)


def busybox_image() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add("/usr/bin/busybox" if Path("/usr/bin/busybox").exists() else "/bin/busybox", "bin/busybox")
        link = tarfile.TarInfo("bin/sh")
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(link)
    return buffer.getvalue()


def test_identities_come_late_and_touch_no_container(guest: Guest) -> None:
    sparse(guest.disk, 8000 * MIB)
    guest.boot()
    hosts = ["127.0.0.1", "localhost"]
    said = guest.send(guest.identity(hosts=hosts, options=EngineOptions(labels=["first=1"])))
    stages = [line.split()[1] for line in said if line.startswith("STAGE")]
    assert {"init", "disk", "network", "identity", "engine", "ready"} <= set(stages)
    assert guest.ask()["Os"] == "linux"

    guest.docker("import", "-", "bb", stdin=busybox_image())
    script = "trap 'echo stopped in order; exit 7' TERM; while :; do /bin/busybox sleep 0.2; done"
    container = guest.docker("run", "-d", "--name", "loop", "bb", "/bin/sh", "-c", script)
    started = guest.docker("inspect", "-f", "{{.State.StartedAt}} {{.RestartCount}}", container)

    # another server certificate and another reloadable option: nothing restarts
    before = guest.server_certificate()
    engine_started = guest.ssh("cat /run/docker-init.pid").stdout
    guest.send(guest.identity(hosts=[*hosts, "alias.example"], options=EngineOptions(labels=["second=2"])))
    wait.until(lambda: guest.server_certificate() != before, deadline=20, what="the new certificate")
    wait.until(lambda: "second=2" in str(guest.ask("/info")["Labels"]), deadline=20, what="the new label")
    assert guest.docker("inspect", "-f", "{{.State.StartedAt}} {{.RestartCount}}", container) == started
    assert guest.ssh("cat /run/docker-init.pid").stdout == engine_started

    # an option that needs a restart gets one
    guest.send(
        guest.identity(hosts=hosts, options=EngineOptions(arbitrary_flags=["log-level=warn"], env=["FOO=a b$c"]))
    )
    assert guest.ssh("cat /run/docker-init.pid").stdout != engine_started
    environment = guest.ssh("sudo cat /proc/$(cat /run/docker-init.pid)/environ").stdout
    assert "FOO=a b$c" in environment.split("\0")

    # a damaged one is refused, and the old one stays
    tar = guest.identity(hosts=hosts, options=EngineOptions())
    with pytest.raises(AssertionError, match="damaged"):
        send_damaged(guest, tar)
    assert guest.ask()["Os"] == "linux"

    # a reboot from inside needs no host: the identity is on the disk
    guest.docker("start", "loop")
    guest.ssh("echo kept | sudo tee /var/lib/boot2docker/note; sudo reboot")
    wait.until(lambda: guest.console().count("STAGE ready") == 2, deadline=BOOT_SECONDS, what="the reboot", interval=1)
    guest.await_ssh()
    assert guest.ssh("hostname; cat /var/lib/boot2docker/note").stdout == "guest\nkept\n"
    assert guest.docker("ps", "-a", "--format", "{{.Names}} {{.Status}}").startswith("loop Exited (7)")
    assert "stopped in order" in guest.docker("logs", "loop")

    # the power button stops containers in order, too
    guest.docker("start", "loop")
    guest.powerdown()
    assert "reboot: Power down" in guest.console()


def send_damaged(guest: Guest, tar: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(str(guest.channel))
        channel.settimeout(60)
        channel.sendall(f"IDENTITY 1 {len(tar)} {'0' * 64} {int(time.time())}\n".encode() + tar)
        for line in channel.makefile("r"):
            assert not line.startswith("ERROR"), line


def userdata(public_key: bytes) -> bytes:
    """What docker-machine puts at the start of a disk: boot2docker's magic words, and who may log in."""
    buffer = io.BytesIO()
    magic = b"boot2docker, please format-me"
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entries: list[tuple[str, int, bytes | None]] = [
            (magic.decode(), 0, magic),
            (".ssh", 0o700, None),
            (".ssh/authorized_keys", 0o644, public_key),
            (".ssh/authorized_keys2", 0o644, public_key),
        ]
        for name, mode, content in entries:
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            if content is None:
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()[:4096]


def test_docker_machine_can_use_it_as_it_used_boot2docker(old_style: Guest) -> None:
    guest = old_style
    public = keys.public_half(guest.machine / "id_rsa").read_bytes()
    sparse(guest.disk, 8000 * MIB, userdata(public))
    guest.boot()
    guest.await_ssh()
    assert "ID=boot2docker" in guest.ssh("cat /etc/os-release").stdout
    guest.ssh('sudo /usr/bin/sethostname old && echo "old" | sudo tee /var/lib/boot2docker/etc/hostname')
    listening = "if ! type netstat 1>/dev/null; then ss -tln; else netstat -tln; fi"
    wait.until(lambda: ":2376" in guest.ssh(listening).stdout, deadline=BOOT_SECONDS, what="2376", interval=1)
    with pytest.raises(TlsError):
        certs.ensure_server(guest.auth, directory=guest.machine, name="old", hosts=["127.0.0.1"])
        guest.ask()

    # provisioning, as docker-machine does it
    guest.ssh("sudo mkdir -p /var/lib/boot2docker")
    guest.ssh("sudo /etc/init.d/docker stop")
    guest.ssh('if [ ! -z "$(ip link show docker0)" ]; then sudo ip link delete docker0; fi')
    for name in ("ca", "server", "server-key"):
        text = (guest.machine / f"{name}.pem").read_text()
        guest.ssh(f"printf '%s' '{text}' | sudo tee /var/lib/boot2docker/{name}.pem")
    profile = """
EXTRA_ARGS='
--label a=b
--label provider=virtualbox
--insecure-registry r:5000

'
CACERT=/var/lib/boot2docker/ca.pem
DOCKER_HOST='-H tcp://0.0.0.0:2376'
DOCKER_STORAGE=overlay2
DOCKER_TLS=auto
SERVERKEY=/var/lib/boot2docker/server-key.pem
SERVERCERT=/var/lib/boot2docker/server.pem

export \\"FOO=bar\\"
"""
    guest.ssh(f'printf %s "{profile}" | sudo tee /var/lib/boot2docker/profile')
    assert guest.ssh("sudo /etc/init.d/docker start").returncode == 0
    assert guest.ask()["Os"] == "linux"
    info = guest.ask("/info")
    assert info["Labels"] == ["a=b", "provider=virtualbox"]
    assert info["Name"] == "old"
    assert info["Driver"] == "overlay2"
    layout = guest.ssh("df /var/lib/docker /var/lib/boot2docker | tail -n 2; cat /proc/swaps").stdout
    assert layout.count("/dev/vdb1") == 2
    assert "/dev/vdb2" in layout
