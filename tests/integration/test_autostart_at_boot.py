"""`autostart` on a real host: an emulated Debian system with systemd and logind, which is rebooted.

The machines are processes of a driver for tests, since a guest would be emulated in an emulator.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from pymachine.system.wait import until
from support.debian import build
from support.debian.host import Host
from support.registry import free_port
from support.runner import REPOSITORY

pytestmark = pytest.mark.timeout(2700)

PACKAGES = "/usr/lib/python3/dist-packages"
SECONDS = 240
PYMACHINE = "/usr/bin/python3 -P -m pymachine"
# A machine is a process that `start` leaves behind, and a file to which each start and stop is appended.
DRIVER = """
import os, signal, subprocess
from pathlib import Path
from pymachine.driver.contract import Driver as Base, DriverInfo, Endpoint, Health, State


class Driver(Base):
    info = DriverInfo("process", "for tests", variables=("TEST_VARIABLE",))

    @classmethod
    def options(cls):
        return []

    @classmethod
    def health(cls):
        return Health(usable=True)

    @classmethod
    def configure(cls, machine, options, siblings):
        return {"IPAddress": "127.9.9.1"}

    def precreate_check(self):
        pass

    def create(self, request):
        self.start(request)

    def start(self, request):
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(["sleep", "infinity"], start_new_session=True, **quiet)
        self._file("pid").write_text(str(process.pid))
        self._log(f"start {os.environ.get('TEST_VARIABLE')}")

    def stop(self, timeout):
        os.kill(int(self._file("pid").read_text()), signal.SIGTERM)
        self._file("pid").unlink()
        self._log("stop")

    def kill(self):
        self.stop(0)

    def remove(self):
        pass

    def state(self):
        try:
            name = Path("/proc", self._file("pid").read_text(), "comm").read_text()
        except OSError:
            return State.STOPPED
        return State.RUNNING if name == "sleep\\n" else State.STOPPED

    def endpoint(self):
        return Endpoint(self.config["IPAddress"])

    def _file(self, name):
        return self.machine.directory / name

    def _log(self, text):
        with self._file("log").open("a") as log:
            log.write(text + "\\n")
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A running host with pymachine."""
    built = build.ensure(with_sessions=True)
    folder = Path(tempfile.mkdtemp(prefix="pm-host-", dir="/tmp"))  # short, since it contains a socket
    running = Host(folder, built, apt_port=free_port())
    try:
        running.await_ssh()
        running.copy(f"tar -x -C {PACKAGES}", _packages())
        yield running
    finally:
        running.kill()
        shutil.rmtree(folder)


def _packages() -> bytes:
    """Return pymachine, its drivers and the driver for tests as a tar."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for folder in (REPOSITORY / "src" / "pymachine", *sorted((REPOSITORY / "drivers").glob("pymachine_driver_*"))):
            tar.add(folder, folder.name, filter=lambda entry: None if "__pycache__" in entry.name else entry)
        texts = {"process_driver.py": DRIVER}
        for name in ("METADATA", "entry_points.txt"):
            texts[f"pymachine-0.dist-info/{name}"] = metadata.distribution("pymachine").read_text(name) or ""
        texts["process_driver-0.dist-info/METADATA"] = "Metadata-Version: 2.1\nName: process-driver\nVersion: 0\n"
        texts["process_driver-0.dist-info/entry_points.txt"] = "[pymachine.drivers]\nprocess = process_driver:Driver\n"
        for name, text in texts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return data.getvalue()


def log(host: Host, store: str, name: str = "dev") -> list[str]:
    return host.run(f"cat '{store}/machines/{name}/log'", code=None).splitlines()


def test_machines_start_at_boot_and_are_shut_down_with_the_host(host: Host) -> None:
    # Root may turn lingering on. The service is not running, so the machine is killed with the host. This comes first,
    # since only root can keep the compiled modules, without which a command takes much longer.
    own = "/root/.docker/machine"
    host.run(f"{PYMACHINE} create -d process dev", user="root")
    text = host.run(f"{PYMACHINE} autostart enable dev 2>&1", user="root")
    assert text == 'Machine "dev" starts when this host boots.\n'

    store = "/home/admin/100% my $store"
    program = f"TEST_VARIABLE='a b' {PYMACHINE} -s '{store}'"
    host.run(f"{program} create -d process dev other", user="admin")
    # Without polkit only root can turn lingering on.
    text = host.run(f"{program} autostart enable dev other 2>&1", user="admin")
    assert '"dev" cannot start before you log in: ' in text
    assert 'Machine "dev" starts when you log in.' in text
    host.run("loginctl enable-linger admin")
    assert host.run(f"{program} autostart enable dev", user="admin") == 'Machine "dev" starts when this host boots.\n'
    assert "does not start" in host.run(f"{program} autostart disable other", user="admin")
    assert host.run(f"{program} autostart ls", user="admin") == "dev\n"
    # A process of this login would be killed with the host. The service shuts down what it has started.
    host.run(f"{program} stop dev", user="admin")
    of_dev = "$(cd ~/.config/systemd/user && echo pymachine-dev_*.service)"
    host.run(f"systemctl --user start {of_dev}", user="admin")
    assert log(host, store) == ["start a b", "stop", "start a b"]

    host.reboot()
    started = ["start None", "start None"]
    until(lambda: log(host, own) == started, deadline=SECONDS, what="the start of root's machine")
    state = f"systemctl --user is-active {of_dev}"
    until(lambda: host.run(state, user="admin", code=None) == "active\n", deadline=SECONDS, what="the service of dev")
    assert log(host, store) == ["start a b", "stop", "start a b", "stop", "start a b"]
    assert log(host, store, "other") == ["start a b"]
    # The process that the command left behind is still running, in the service's group.
    assert "pymachine-dev_" in host.run(f"cat /proc/$(cat '{store}/machines/dev/pid')/cgroup")


def test_without_a_session_there_is_a_clear_error(host: Host) -> None:
    host.run(f"runuser -u guarded -- env HOME=/home/guarded {PYMACHINE} create -d process dev")
    text = host.run(f"runuser -u guarded -- env HOME=/home/guarded {PYMACHINE} autostart enable dev 2>&1", code=1)
    assert "there is no systemd user session here" in text
    assert not host.run("ls /home/guarded/.config/systemd/user", code=None)
