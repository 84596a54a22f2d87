"""The guest with VirtualBox's hardware, in plain QEMU.

It starts from a SATA CD and finds its identity at the start of its disk. The second of two e1000 interfaces has a fixed
address. Later identities come over SSH.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pymachine.docker import daemon_json
from pymachine.driver.contract import ImageFiles, ImageRequest
from pymachine.hosts import identity
from pymachine.image import provide
from pymachine.ssh import keys
from pymachine.store import paths
from pymachine.store.record import EngineOptions
from pymachine.system.progress import Silent
from pymachine_driver_virtualbox import guest as driver_guest, ports
from pymachine_driver_virtualbox.shares import Share
from support.guest import Api, Guest, _until
from support.guest_secrets import Secrets
from support.runner import cache_folder

pytestmark = pytest.mark.timeout(600)

MAC = "08:00:27:01:02:03"
ADDRESS = "192.168.56.7"


class GuestWithKeys(Guest):
    """A guest with the keys and certificates of one machine."""

    def __init__(self, folder: Path, image: ImageFiles) -> None:
        super().__init__(folder, image)
        self.secrets = Secrets(folder, addresses=("127.0.0.1", ADDRESS))
        self.api = Api(self.engine_port, self.secrets.context())

    def identity(self, *, label: str, mirror: str = "") -> bytes:
        options = EngineOptions(labels=[f"a={label}"], registry_mirror=[mirror] if mirror else [])
        files = daemon_json.files(options, driver_name="virtualbox")
        plain = identity.of_machine(self.secrets.directory, hostname="boxed", engine=files)
        shares = [Share(Path("/home"), "hosthome")]
        return driver_guest.with_surroundings(plain, mac=MAC, address=f"{ADDRESS}/24", shares=shares)

    def write_userdata(self, *, old: bool = False) -> None:
        """Write the start of the disk as the driver does, or, if `old`, as docker-machine did."""
        public = keys.public_half(self.secrets.ssh_key).read_bytes()
        with self.disk.open("r+b") as disk:
            disk.write(driver_guest.userdata(public, None if old else self.identity(label="first")))

    def start(self) -> None:
        argv = ["qemu-system-x86_64", "-machine", "q35,vmport=off", "-accel", "tcg,thread=multi,tb-size=256"]
        argv += ["-cpu", "max,la57=off", "-smp", "1", "-m", "1024", "-nodefaults", "-display", "none"]
        argv += ["-drive", f"if=none,id=iso,format=raw,readonly=on,file={self.image.iso}"]
        argv += ["-device", "ide-cd,id=cd,drive=iso,bus=ide.0,bootindex=0"]
        argv += ["-drive", f"if=none,id=disk,format=raw,file={self.disk}", "-device", "ide-hd,drive=disk,bus=ide.1"]
        argv += ["-netdev", f"user,id=nat,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22", "-device", "e1000,netdev=nat"]
        forward = f"hostfwd=tcp:127.0.0.1:{self.engine_port}-{ADDRESS}:2376"
        argv += ["-netdev", f"user,id=own,net=192.168.56.0/24,{forward}", "-device", f"e1000,netdev=own,mac={MAC}"]
        argv += ["-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"]
        argv += ["-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console"]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        _until((self.folder / "qmp").exists, "QEMU to start", 20)

    def run(self, command: str, *, stdin: bytes = b"", pinned: bool = True) -> str:
        known = self.secrets.host_key
        host_key = known if pinned else ""
        return self.ssh(self.secrets.ssh_key, command, stdin=stdin.decode("latin-1"), host_key=host_key)

    def await_up(self, *, boots: int) -> None:
        self.console_says("STAGE ready", times=boots)
        _until(lambda: ports.banner(self.ssh_port, timeout=5), "SSH", 60)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuestWithKeys]:
    with booted(tmp_path_factory.mktemp("u"), old=False) as machine:
        yield machine


@contextmanager
def booted(folder: Path, *, old: bool) -> Iterator[GuestWithKeys]:
    """Boot a guest with the disk of a new machine, or, if `old`, of one that docker-machine made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.ENV_CACHE, str(cache_folder()))
        image = provide.find_or_build(ImageRequest(architecture="amd64"), store=folder, reporter=Silent())
    machine = GuestWithKeys(folder, image)
    machine.write_userdata(old=old)
    try:
        machine.start()
        machine.await_up(boots=1)
        yield machine
    except BaseException:
        print(machine.console.read_text(errors="replace")[-6000:])  # noqa: T201 (pytest shows it)
        raise
    finally:
        machine.kill()


def labels(machine: GuestWithKeys) -> list[str]:
    return [label for label in machine.api("GET", "/info")["Labels"] if label.startswith("a=")]


def test_the_guest_takes_the_identity_at_the_start_of_its_disk(machine: GuestWithKeys) -> None:
    # This uses the fixed address, the only one with a port forwarding.
    assert labels(machine) == ["a=first"]
    output = machine.run("hostname; ls /var/lib/boot2docker; cat /proc/swaps")
    assert output.splitlines()[0] == "boxed"
    assert "userdata.tar" not in output, "the keys in it are in the identity now"
    assert "/dev/sda2" in output


def test_the_second_interface_has_a_fixed_address_and_no_dhcp(machine: GuestWithKeys) -> None:
    output = machine.run("ip -4 address show dev eth1; ps; ip route")
    assert f"inet {ADDRESS}/24" in output
    assert output.count("inet 192.168.56.") == 1
    assert "udhcpc -i eth1" not in output
    assert "udhcpc -i eth0" in output
    assert "default via 10.0.2.2 dev eth0" in output
    assert "default via 192.168.56" not in output


def test_a_missing_shared_folder_is_reported_on_the_console(machine: GuestWithKeys) -> None:
    machine.console_says("the host does not share hosthome", timeout=30)


def test_the_cd_stays_readable_after_a_media_change_event(machine: GuestWithKeys) -> None:
    """VirtualBox reports a media change when it restores a saved machine; Linux then refuses to read the CD."""
    machine.execute_qmp("blockdev-change-medium", id="cd", filename=str(machine.image.iso), format="raw", force=True)
    time.sleep(2)
    output = machine.run("echo 3 | sudo tee /proc/sys/vm/drop_caches; dd if=/usr/bin/runc of=/dev/null bs=1M 2>&1")
    assert " records out" in output


def test_a_later_identity_over_ssh_does_not_restart_the_engine(machine: GuestWithKeys) -> None:
    before = machine.run("cat /run/docker-init.pid")
    later = machine.identity(label="later")
    with pytest.raises(AssertionError, match="arrived damaged"):
        machine.run(driver_guest.receive_command(b"another"), stdin=later)
    assert labels(machine) == ["a=first"]
    machine.secrets.new_server_certificate()
    later = machine.identity(label="later")
    machine.run(driver_guest.receive_command(later), stdin=later)
    _until(lambda: labels(machine) == ["a=later"], "the engine to read its settings again", 20)
    assert machine.run("cat /run/docker-init.pid") == before


def test_an_identity_that_the_engine_refuses_fails_with_the_reason(machine: GuestWithKeys) -> None:
    refused = machine.identity(label="refused", mirror="ftp://nowhere")
    with pytest.raises(AssertionError, match="unsupported scheme 'ftp'"):
        machine.run(driver_guest.receive_command(refused), stdin=refused)
    assert labels(machine) == ["a=later"]
    # The driver then sends the previous identity again.
    later = machine.identity(label="later")
    machine.run(driver_guest.receive_command(later), stdin=later)


def test_identity_and_address_survive_a_stop(machine: GuestWithKeys) -> None:
    machine.press_power_button()
    machine.ended()
    machine.start()
    machine.await_up(boots=2)
    assert labels(machine) == ["a=later"]
    assert f"inet {ADDRESS}/24" in machine.run("ip -4 address show dev eth1")


def test_a_docker_machine_disk_works_with_the_current_image(tmp_path: Path) -> None:
    """After `upgrade`, an old disk boots the current image with its keys and data; the identity comes over SSH."""
    with booted(tmp_path, old=True) as machine:
        assert machine.run("hostname; sudo docker volume create kept", pinned=False).split()[-1] == "kept"
        assert "192.168.56.15/24" in machine.run("ip -4 address show dev eth1", pinned=False), "by DHCP, as before"
        profile = b"EXTRA_ARGS='\n--label a=old\n--label provider=virtualbox\n'\nDOCKER_STORAGE=overlay2\n"
        machine.run("sudo tee /var/lib/boot2docker/profile", stdin=profile, pinned=False)
        first = machine.identity(label="first")
        machine.run(driver_guest.receive_command(first), stdin=first, pinned=False)
        # From here on the host key is known, and the engine is at the fixed address.
        output = machine.run("hostname; ip -4 address show dev eth1; sudo docker volume ls -q")
        assert output.splitlines()[0] == "boxed"
        assert f"inet {ADDRESS}/24" in output
        assert "192.168.56.15" not in output
        assert output.split()[-1] == "kept"
        assert labels(machine) == ["a=first"]
