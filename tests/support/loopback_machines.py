"""A store with machines whose host is this one: an SSH server on the loopback, and the real sshfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pymachine.driver.contract import Json, MachineRef
from pymachine.driver.shares import Share
from pymachine.hosts import new_records, ssh_shares
from pymachine.hosts.host import Host, Hosts
from pymachine.ssh.client import Client
from pymachine.store.record import Machine
from pymachine.store.store import Store
from pymachine.system.wait import until
from support import sshd
from support.sshd import Server

SECONDS = 300.0


@dataclass
class World:
    """A store with machines whose host is `server`."""

    folder: Path
    server: Server
    hosts: Hosts

    def machine(
        self, name: str, *shares: Share, login: bool = True, driver_name: str = "generic", **fields: Json
    ) -> Host:
        """Make the record of a machine, and pin its host key, for which it is logged in to.

        `fields` are more of its driver's configuration.
        """
        folder = self.hosts.store.machine_dir(name)
        config = {
            "IPAddress": "127.0.0.1",
            "SSHPort": self.server.port,
            "SSHUser": "root",
            "SSHKeyPath": str(self.server.key),
            "MachineName": name,
            **fields,
        }
        ref = MachineRef(name, folder, self.hosts.store.root, self.server.key)
        record = Machine(
            name=name,
            driver_name=driver_name,
            driver=new_records.with_base_fields(config, ref, ssh=True),
            auth=new_records.auth_options(self.hosts, name, ()),
            shares=list(shares),
        )
        self.hosts.store.save(record)
        host = self.hosts.open(name)
        if not login:
            (host.directory / "known_hosts").touch()
            return host
        assert Client(host.target(host.driver.endpoint(), learn=True)).run("true").returncode == 0
        return self.hosts.open(name)

    def share(self, name: str, point: str = "", *, read_only: bool = False) -> Share:
        """Make a folder with a file, and return it as a share."""
        path = self.folder / "host" / name
        path.mkdir(parents=True, exist_ok=True)
        (path / "file").write_text(name)
        return Share(path=path, guest_path=self.point(point or name), read_only=read_only)

    def point(self, name: str) -> PurePosixPath:
        """Return where a folder is mounted."""
        return PurePosixPath(self.folder / "guest" / name)


@contextmanager
def running(tmp_path: Path) -> Iterator[World]:
    """Run the SSH server, and end all keepers and mounts afterwards."""
    (tmp_path / "ssh").mkdir()
    with sshd.running(tmp_path / "ssh") as server:
        hosts = Hosts(Store(tmp_path / "store"))
        try:
            yield World(tmp_path, server, hosts)
        finally:
            for name in hosts.store.names():
                ssh_shares.end(hosts.store.machine_dir(name))
            for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
                if (point := line.split()[4]).startswith(str(tmp_path)):
                    subprocess.run(["umount", "-l", point.replace("\\040", " ")], check=True)


def inside(share: Share, name: str = "file") -> Path:
    """Return a file in the mounted folder."""
    return Path(share.guest_path) / name


def is_mounted(share: Share) -> bool:
    return os.path.ismount(share.guest_path)


def await_mount(share: Share, text: str) -> None:
    """Wait until the file in a mounted folder can be read."""

    def is_there() -> bool:
        try:
            return inside(share).read_text() == text
        except OSError:
            return False

    until(is_there, deadline=SECONDS, what=f"{share} to be mounted")
