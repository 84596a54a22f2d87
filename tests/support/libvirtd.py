"""Real libvirtds in the namespaces of ``tests/support/in-namespaces``: the system's, a user's, another host's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.runner import REPOSITORY

IN_NAMESPACES = REPOSITORY / "tests" / "support" / "in-namespaces"
SYSTEM = "qemu:///system"
SESSION = "qemu:///session"
GATEWAY = "192.168.122.1"
NETWORK = """\
<network>
  <name>{name}</name>
  <forward mode="{mode}"/>
  <bridge name="{bridge}"/>
  <ip address="{gateway}" netmask="255.255.255.0"><dhcp><range start="{start}" end="{end}"/></dhcp></ip>
</network>
"""
# Addresses of the link to the other host; they exist only in the namespaces.
HERE, THERE = "10.99.0.1", "10.99.0.2"
SSHD = """\
ListenAddress {address}
HostKey {folder}/host
AuthorizedKeysFile {folder}/client.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
"""
# Wait for the virtual cable, then start libvirtd with one network, and sshd.
OTHER_HOST = """\
set -e
hostname attic
until ip addr show dev cable 2> /dev/null | grep -q {there}; do sleep 0.1; done
libvirtd --daemon
virsh -q net-define {folder}/network.xml
virsh -q net-start default
exec /usr/sbin/sshd -D -e -f {folder}/sshd_config
"""


def network_xml(name: str = "default", *, number: int = 122, mode: str = "nat", last: int = 254) -> str:
    """Return the XML of a network as libvirt's packages define it."""
    return NETWORK.format(
        name=name,
        mode=mode,
        bridge=f"virbr{number}",
        gateway=f"192.168.{number}.1",
        start=f"192.168.{number}.2",
        end=f"192.168.{number}.{last}",
    )


def virsh(*words: str, uri: str = SYSTEM, stdin: str = "", check: bool = True) -> str:
    """Run libvirt's own client and return its output; with `check`, it must succeed."""
    done = subprocess.run(
        ["virsh", "-q", "-c", uri, *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        start_new_session=True,  # with a terminal virsh looks for polkit, and complains if it is missing
    )
    assert done.returncode == 0 or not check, f"virsh {words}: {done.stdout}{done.stderr}"
    return (done.stdout + done.stderr).strip()


def define_network(xml: str, name: str = "default") -> None:
    """Define and start a network."""
    virsh("net-define", "/dev/stdin", stdin=xml)
    virsh("net-start", name)


class Daemon:
    """A libvirtd that can be stopped and started while its machines run."""

    def __init__(self, uri: str, log: Path) -> None:
        self._uri = uri
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start libvirtd, and wait until it answers."""
        # The user's extra capabilities are for the tests; libvirtd must not have them.
        plain = ["setpriv", "--ambient-caps", "-all", "--inh-caps", "-all"] if os.geteuid() else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*plain, "/usr/sbin/libvirtd"], stdout=log, stderr=log)
        wait_for(lambda: not virsh("version", uri=self._uri, check=False).startswith("error"), "libvirtd to answer")

    def stop(self) -> None:
        """Stop libvirtd; its machines keep running."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(30)
        self._process = None


@contextmanager
def running(uri: str) -> Iterator[Daemon]:
    """Run a libvirtd, and stop it afterwards."""
    assert os.getpid() < 1000, "run these tests through tests/support/in-namespaces (make test-libvirt)"
    with tempfile.TemporaryDirectory(prefix="pm-libvirtd-") as folder:
        daemon = Daemon(uri, Path(folder) / "libvirtd.log")
        daemon.start()
        try:
            yield daemon
        finally:
            daemon.stop()


@dataclass(frozen=True)
class OtherHost:
    """A libvirt on another host, simulated with separate networks, processes and libvirt folders."""

    uri: str
    address: str = THERE


@contextmanager
def other_host() -> Iterator[OtherHost]:
    """Start another host with a libvirtd and an sshd, at the other end of a virtual cable."""
    folder = Path(tempfile.mkdtemp(prefix="pm-attic-", dir="/tmp"))
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "network.xml").write_text(network_xml())
    (folder / "sshd_config").write_text(SSHD.format(address=THERE, folder=folder))
    script = OTHER_HOST.format(there=THERE, folder=folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([IN_NAMESPACES, "sh", "-c", script], stdout=log, stderr=log)
    uri = f"qemu+ssh://root@{THERE}/system?keyfile={folder}/client&no_verify=1"
    try:
        _lay_cable(process.pid)
        wait_for(lambda: "error" not in virsh("net-info", "default", uri=uri, check=False), "the other host's libvirt")
        yield OtherHost(uri)
    except BaseException:
        print((folder / "log").read_text(errors="replace")[-4000:])  # noqa: T201 (pytest shows it)
        raise
    finally:
        process.kill()
        process.wait()
        subprocess.run(["ip", "link", "del", "cable-here"], check=False)
        shutil.rmtree(folder)


def _lay_cable(pid: int) -> None:
    """Connect our network namespace to that of the process `pid`, once that exists."""
    own = Path("/proc/self/ns/net").readlink()
    wait_for(lambda: Path(f"/proc/{pid}/ns/net").readlink() != own, "the other host's network")
    there = ["nsenter", "-t", str(pid), "-n"]
    for words in (
        ["ip", "link", "add", "cable-here", "type", "veth", "peer", "name", "cable", "netns", str(pid)],
        ["ip", "addr", "add", f"{HERE}/24", "dev", "cable-here"],
        ["ip", "link", "set", "cable-here", "up"],
        [*there, "ip", "link", "set", "cable", "up"],
        [*there, "ip", "addr", "add", f"{THERE}/24", "dev", "cable"],
    ):
        subprocess.run(words, check=True)


def wait_for(done: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait until `done` returns true."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.1)
