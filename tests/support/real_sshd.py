"""OpenSSH's own server on the loopback, in a mount namespace whose ``/run`` has an engine's socket. It needs root."""

from __future__ import annotations

import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pymachine.driver.contract import MachineRef
from pymachine.hosts import local_socket, new_records
from pymachine.hosts.host import Host, Hosts
from pymachine.ssh import keys
from pymachine.ssh.client import Client
from pymachine.store.record import Machine
from pymachine.store.store import Store
from pymachine.system.wait import until
from support import processes

# It may log in, but may not use the engine's socket.
OUTSIDER = "outsider"
_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile /run/authorized_keys
PidFile none
StrictModes no
UsePAM no
{more}
"""
_START = """\
set -e
mount --bind {folder}/passwd /etc/passwd
mount --bind {folder}/run /run
exec /usr/sbin/sshd -D -e -f {folder}/sshd_config
"""


@dataclass
class Server:
    """The server. Its engine's socket is `engine`."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    hosts: Hosts = field(init=False)

    def __post_init__(self) -> None:
        (self.folder / "run" / "sshd").mkdir(parents=True)
        for name in ("host", "user"):
            keys.make(self.folder / name, comment=name)
        (self.folder / "run" / "authorized_keys").write_bytes((self.folder / "user.pub").read_bytes())
        passwd = Path("/etc/passwd").read_text() + f"{OUTSIDER}:x:54321:54321::/:/bin/sh\n"
        (self.folder / "passwd").write_text(passwd)
        self.hosts = Hosts(Store(self.folder / "store"))

    @property
    def engine(self) -> Path:
        """The path of what is /var/run/docker.sock for the server."""
        return self.folder / "run" / "docker.sock"

    def start(self, more: str = "") -> None:
        """Start the server with further lines of configuration, and wait until it accepts connections."""
        (self.folder / "sshd_config").write_text(_CONFIG.format(port=self.port, folder=self.folder, more=more))
        script = _START.format(folder=shlex.quote(str(self.folder)))
        # sshd's processes for connections are in sessions of their own: with the namespace, all of them end.
        namespace = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*namespace, "sh", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._accepts, deadline=60.0, what="the SSH server")

    def stop(self) -> None:
        """End the server and all connections."""
        if self.process is not None:
            processes.end(self.process)
            # Its namespace ends a moment later. Until then the server accepts connections, and has the port.
            until(lambda: not self._listens(), deadline=60.0, what="the end of the SSH server")
        self.process = None

    def machine(self, name: str = "far", *, user: str = "root") -> Host:
        """Make the record of a machine at the server, and pin its host key."""
        folder = self.hosts.store.machine_dir(name)
        config = {
            "IPAddress": "127.0.0.1",
            "SSHPort": self.port,
            "SSHUser": user,
            "SSHKeyPath": str(self.folder / "user"),
            "MachineName": name,
        }
        ref = MachineRef(name, folder, self.hosts.store.root, self.folder / "user")
        record = Machine(
            name=name,
            driver_name="generic",
            driver=new_records.with_base_fields(config, ref, ssh=True),
            auth=new_records.auth_options(self.hosts, name, ()),
        )
        self.hosts.store.save(record)
        host = self.hosts.open(name)
        assert Client(host.target(host.driver.endpoint(), learn=True)).run("true").returncode == 0
        return self.hosts.open(name)

    def _accepts(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "sshd.log").read_text()
        return self._listens()

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Run a server on a free port, and end it and the sockets of its machines afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    server = Server(folder, port)
    try:
        server.start()
        yield server
    finally:
        for name in server.hosts.store.names():
            local_socket.end(server.hosts.store.machine_dir(name))
        server.stop()
