"""The guest's scripts for names, with the real dnsmasq and netfilter, in namespaces in place of a guest."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pymachine.image
from pymachine.system.wait import until
from support import processes

ROOT = Path(pymachine.image.__file__).parent / "rootfs" / "root"
SECONDS = 60.0
BUSYBOX = shutil.which("busybox") or "busybox"


def write_scripts(folder: Path) -> Path:
    """Write the guest's scripts and dnsmasq's settings with paths in `folder`, and return the scripts' folder."""
    (folder / "resolver").mkdir()
    os.mkfifo(folder / "never")
    for name in ("common", "resolver", "name-server", "machine-names"):
        text = (ROOT / "usr/lib/pymachine" / name).read_text().replace("/usr/lib/pymachine", str(folder / "scripts"))
        text = text.replace("STATE=/run/pymachine", f"STATE={folder}").replace("/dev/console", f"{folder}/console")
        text = text.replace("=/run/resolver", f"={folder}/resolver").replace("=/var/lib/boot2docker/", f"={folder}/")
        # In a user namespace there is no other user to change to, and it does not try to without a daemon.
        text = text.replace("--keep-in-foreground", f"--no-daemon --conf-file={folder}/dnsmasq.conf")
        (folder / "scripts").mkdir(exist_ok=True)
        (folder / "scripts" / name).write_text(text)
    settings = re.sub("(?m)^log-facility=.*\n", "", (ROOT / "etc/dnsmasq.conf").read_text())
    (folder / "dnsmasq.conf").write_text(settings.replace("/run/resolver", str(folder / "resolver")))
    (folder / "resolver" / "host").write_text("10.0.2.2 host.docker.internal\n")
    (folder / "resolver" / "hosts").write_text("192.0.2.9 printer.test\n")
    (folder / "resolver" / "machines").touch()
    return folder / "scripts"


class NameServer:
    """The running script name-server. Its process has a network of its own."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        same_user = [] if os.getuid() == 0 else ["--user", "--preserve-credentials"]
        self.enter = ["nsenter", "--target", str(pid), "--net", *same_user]

    def look_up(self, name: str) -> str:
        argv = [*self.enter, BUSYBOX, "nslookup", name, "169.254.53.53"]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    def resolves(self) -> bool:
        return "Address: 10.0.2.2\n" in self.look_up("host.docker.internal")

    def dnsmasq(self) -> int:
        """Return the process ID of dnsmasq."""
        (child,) = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return int(child)


@contextmanager
def name_server(folder: Path, *, servers: str = "") -> Iterator[NameServer]:
    """Run the script name-server until it answers, and end it after the block. `servers` are those of DHCP."""
    script = write_scripts(folder) / "name-server"
    (folder / "resolver" / "servers").write_text(servers)
    user = [] if os.getuid() == 0 else ["--map-root-user"]
    begin = f"""set -e; mount -t tmpfs tmpfs /run; ip link set lo up; touch {folder}/console
        exec {BUSYBOX} sh {shlex.quote(str(script))}"""
    with processes.started(["unshare", "--net", "--mount", *user, "sh", "-c", begin]) as process:
        found = NameServer(process.pid)
        until(found.resolves, deadline=SECONDS, what="an answer")
        yield found


@pytest.mark.timeout(300)
def test_names_resolve_at_port_53_and_again_after_dnsmasq_has_ended(tmp_path: Path) -> None:
    with name_server(tmp_path, servers="nameserver 127.0.0.53\n") as server:
        company = ["/usr/sbin/dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-hosts", "--no-resolv"]
        company += ["--listen-address=127.0.0.53", "--bind-interfaces", "--address=/wiki.corp.example/192.0.2.7"]
        with processes.started([*server.enter, *company]):
            until(
                lambda: "Address: 192.0.2.7\n" in server.look_up("wiki.corp.example"),
                deadline=SECONDS,
                what="the answer of the company's name server",
            )
        assert "Address: 192.0.2.9\n" in server.look_up("printer.test")

        os.kill(server.dnsmasq(), 9)
        until(lambda: "started again" in (tmp_path / "console").read_text(), deadline=SECONDS, what="its end")
        until(server.resolves, deadline=SECONDS, what="an answer of the next one")


@pytest.mark.timeout(300)
def test_names_of_machines_resolve_until_others_are_sent(tmp_path: Path) -> None:
    with name_server(tmp_path) as server:
        # dnsmasq writes no such file with --no-daemon.
        (tmp_path / "resolver" / "pid").write_text(f"{server.dnsmasq()}\n")

        def send(*words: str) -> tuple[int, str]:
            argv = [BUSYBOX, "sh", str(tmp_path / "scripts" / "machine-names"), *words]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            return done.returncode, done.stderr

        def has(name: str, address: str) -> bool:
            return f"Address: {address}\n" in server.look_up(name)

        assert send("192.168.56.11", "web", "192.168.56.12", "Db-2.shop_x") == (0, "")
        until(lambda: has("web", "192.168.56.11"), deadline=SECONDS, what="the first machine")
        assert has("db-2.shop_x", "192.168.56.12")
        assert has("printer.test", "192.0.2.9")
        assert (tmp_path / "machines").read_text() == (tmp_path / "resolver" / "machines").read_text()
        for wrong in (["192.168.56.11"], ["web", "db"], ["192.168.56.11", "a\n192.0.2.1 b"], ["192.168.56.11", "a #"]):
            code, error = send("192.168.56.13", "new", *wrong)
            assert (code, error.split(":")[0]) == (1, "not the address or the name of a machine")
        assert has("web", "192.168.56.11")
        assert not has("new", "192.168.56.13")
        assert not (tmp_path / "machines.new").exists()
        assert send("192.168.56.14", "cache") == (0, "")
        until(lambda: has("cache", "192.168.56.14"), deadline=SECONDS, what="the next names")
        assert not has("web", "192.168.56.11")
        assert send() == (0, "")
        until(lambda: not has("cache", "192.168.56.14"), deadline=SECONDS, what="no names")
