"""The guest's script that writes the settings of its name server, and /etc/resolv.conf."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

import pymachine.image
from support import processes

SCRIPT = Path(pymachine.image.__file__).parent / "rootfs" / "root" / "usr" / "lib" / "pymachine" / "resolver"
SHELLS = pytest.mark.parametrize("shell", [["dash"], ["busybox", "ash"]], ids=" ".join)


class Guest:
    """The files that the script reads and writes, in a folder."""

    def __init__(self, folder: Path, shell: list[str]) -> None:
        self.folder = folder
        self.shell = shell
        for name in ("run/resolver", "etc", "var/lib/boot2docker/identity"):
            (folder / name).mkdir(parents=True)

    def call(self, function: str) -> None:
        script = SCRIPT.read_text()
        for path in ("/run/", "/etc/", "/var/"):
            script = script.replace(f"={path}", f"={self.folder}{path}").replace(f" {path}", f" {self.folder}{path}")
        done = subprocess.run(
            [*self.shell, "-c", f"{script}\n{function}"], capture_output=True, text=True, check=False, env={}
        )
        assert (done.returncode, done.stderr) == (0, "")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def read(self, name: str) -> str:
        return (self.folder / name).read_text()


@SHELLS
def test_dnsmasq_gets_all_queries_and_forwards_them_to_the_servers_of_dhcp(shell: list[str], tmp_path: Path) -> None:
    guest = Guest(tmp_path, shell)
    guest.write("run/resolv.eth0", "search dhcp.example corp.example\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n")
    guest.write("run/resolv.eth1", "nameserver 192.0.2.3\n")
    guest.write("var/lib/boot2docker/identity/search", "corp.example\n")
    guest.call("write_resolv")
    servers = "nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n"
    assert guest.read("run/resolver/servers") == servers
    assert guest.read("etc/resolv.conf") == "search corp.example dhcp.example\nnameserver 169.254.53.53\n"


@SHELLS
def test_without_a_lease_there_are_no_name_servers_to_forward_to(shell: list[str], tmp_path: Path) -> None:
    guest = Guest(tmp_path, shell)
    guest.call("write_resolv")
    guest.call("write_host_address || true")
    assert guest.read("etc/resolv.conf") == "nameserver 169.254.53.53\n"
    assert [path.name for path in (tmp_path / "run/resolver").iterdir()] == ["servers"]
    assert not guest.read("run/resolver/servers")


@SHELLS
def test_the_host_has_its_names_and_dnsmasq_reads_them(shell: list[str], tmp_path: Path) -> None:
    guest = Guest(tmp_path, shell)
    guest.write("run/gateway.eth0", "\n")
    guest.write("run/gateway.eth1", "192.0.2.1\n")
    guest.call("write_host_address")
    assert guest.read("run/resolver/host") == "192.0.2.1 host.docker.internal \n"
    guest.write("var/lib/boot2docker/identity/host-names", "laptop shop.test\n")
    with processes.started(["sleep", "600"]) as dnsmasq:
        guest.write("run/resolver/pid", f"{dnsmasq.pid}\n")
        guest.call("write_host_address")
        assert dnsmasq.wait(60) == -signal.SIGHUP
    assert guest.read("run/resolver/host") == "192.0.2.1 host.docker.internal laptop shop.test\n"


@SHELLS
def test_an_ended_dnsmasq_is_no_error(shell: list[str], tmp_path: Path) -> None:
    guest = Guest(tmp_path, shell)
    with processes.started(["true"]) as ended:
        ended.wait(60)
    guest.write("run/gateway.eth0", "192.0.2.1\n")
    guest.write("run/resolver/pid", f"{ended.pid}\n")
    guest.call("write_host_address || true")
    assert guest.read("run/resolver/host") == "192.0.2.1 host.docker.internal \n"
