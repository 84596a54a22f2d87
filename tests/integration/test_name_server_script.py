"""The guest's script name-server, with the real dnsmasq and netfilter, in namespaces in place of a guest."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

import pymachine.image
from pymachine.system.wait import until
from support import processes

ROOT = Path(pymachine.image.__file__).parent / "rootfs" / "root"
SECONDS = 60.0


def write_scripts(folder: Path) -> Path:
    """Write the guest's scripts and dnsmasq's settings with paths in `folder`, and return the script."""
    (folder / "resolver").mkdir()
    os.mkfifo(folder / "never")
    for name in ("common", "resolver", "name-server"):
        text = (ROOT / "usr/lib/pymachine" / name).read_text().replace("/usr/lib/pymachine", str(folder / "scripts"))
        text = text.replace("STATE=/run/pymachine", f"STATE={folder}").replace("/dev/console", f"{folder}/console")
        # In a user namespace there is no other user to change to, and it does not try to without a daemon.
        text = text.replace("--keep-in-foreground", f"--no-daemon --conf-file={folder}/dnsmasq.conf")
        (folder / "scripts").mkdir(exist_ok=True)
        (folder / "scripts" / name).write_text(text)
    settings = re.sub("(?m)^log-facility=.*\n", "", (ROOT / "etc/dnsmasq.conf").read_text())
    (folder / "dnsmasq.conf").write_text(settings.replace("/run/resolver", str(folder / "resolver")))
    (folder / "resolver" / "host").write_text("10.0.2.2 host.docker.internal\n")
    (folder / "resolver" / "hosts").write_text("192.0.2.9 printer.test\n")
    (folder / "resolver" / "servers").write_text("nameserver 127.0.0.53\n")
    return folder / "scripts" / "name-server"


@pytest.mark.timeout(300)
def test_names_resolve_at_port_53_and_again_after_dnsmasq_has_ended(tmp_path: Path) -> None:
    script = write_scripts(tmp_path)
    user = [] if os.getuid() == 0 else ["--map-root-user"]
    same_user = ["--user", "--preserve-credentials"] if user else []
    busybox = shutil.which("busybox")
    assert busybox
    begin = f"""set -e; mount -t tmpfs tmpfs /run; ip link set lo up; touch {tmp_path}/console
        exec {busybox} sh {shlex.quote(str(script))}"""
    with processes.started(["unshare", "--net", "--mount", *user, "sh", "-c", begin]) as guest:
        enter = ["nsenter", "--target", str(guest.pid), "--net", *same_user]

        def look_up(name: str) -> str:
            done = subprocess.run(
                [*enter, busybox, "nslookup", name, "169.254.53.53"], capture_output=True, text=True, check=False
            )
            return done.stdout

        def resolves() -> bool:
            return "Address: 10.0.2.2\n" in look_up("host.docker.internal")

        until(resolves, deadline=SECONDS, what="an answer")
        company = ["/usr/sbin/dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-hosts", "--no-resolv"]
        company += ["--listen-address=127.0.0.53", "--bind-interfaces", "--address=/wiki.corp.example/192.0.2.7"]
        with processes.started([*enter, *company]):
            until(
                lambda: "Address: 192.0.2.7\n" in look_up("wiki.corp.example"),
                deadline=SECONDS,
                what="the answer of the company's name server",
            )
        assert "Address: 192.0.2.9\n" in look_up("printer.test")

        children = Path(f"/proc/{guest.pid}/task/{guest.pid}/children").read_text().split()
        assert len(children) == 1
        os.kill(int(children[0]), 9)
        until(lambda: "started again" in (tmp_path / "console").read_text(), deadline=SECONDS, what="its end")
        until(resolves, deadline=SECONDS, what="an answer of the next one")
