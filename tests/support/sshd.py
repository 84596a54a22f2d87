"""An SSH server on the loopback that runs commands in a shell: real SSH for tests without a virtual machine."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import paramiko
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED

from pymachine.ssh import keys
from pymachine.ssh.target import Target
from support import processes


class _Authentication(paramiko.ServerInterface):
    """Accepts the authorized key for every user name."""

    def __init__(self, server: Server, authorized: paramiko.PKey) -> None:
        self._server = server
        self._authorized = authorized

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return AUTH_SUCCESSFUL if key == self._authorized else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        transport = channel.get_transport()
        assert isinstance(transport, _Transport)
        transport.accepted.append((channel, command.decode()))
        return True


class _Transport(paramiko.Transport):
    """Starts a command only after its request is answered: a quick one would close the channel before the answer."""

    def __init__(self, connection: socket.socket, server: Server) -> None:
        super().__init__(connection)
        self._server = server
        self.accepted: list[tuple[paramiko.Channel, str]] = []

    def _send_user_message(self, data: paramiko.Message) -> None:
        super()._send_user_message(data)  # type: ignore[misc] # not in the stubs
        if threading.current_thread() is self:  # requests are answered in this thread, and only there
            while self.accepted:
                threading.Thread(target=self._server.execute, args=self.accepted.pop(), daemon=True).start()


@dataclass
class Server:
    """A running server. `connections` counts the logins, `commands` lists what was run."""

    folder: Path
    port: int = 0
    connections: int = 0
    commands: list[str] = field(default_factory=list)
    transports: list[paramiko.Transport] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """Commands that were started. They may leave programs running in the background, as over any SSH."""

    def __post_init__(self) -> None:
        for name in ("user", "host"):
            keys.make(self.folder / name, comment=name)

    @property
    def key(self) -> Path:
        """The private key that is accepted."""
        return self.folder / "user"

    def target(self, *, key: Path | None = None, learn: bool = True) -> Target:
        """Return the server as a target for pymachine's SSH."""
        return Target("far", "127.0.0.1", self.port, "admin", key or self.key, self.folder / "known_hosts", learn=learn)

    def new_host_key(self) -> None:
        """Use a new host key from the next connection on, as another host would."""
        keys.make(self.folder / "host", comment="host")

    def break_connections(self) -> None:
        """Close every connection without a message."""
        for transport in self.transports:
            transport.close()
        self.transports.clear()

    def execute(self, channel: paramiko.Channel, command: str) -> None:
        """Run one command with the channel as its input and output."""
        self.commands.append(command)
        process = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        writer = threading.Thread(target=_feed, args=(channel, process.stdin), daemon=True)
        writer.start()
        stderr_forwarder = threading.Thread(target=_pass_on, args=(process.stderr, channel.sendall_stderr), daemon=True)
        stderr_forwarder.start()
        _pass_on(process.stdout, channel.sendall)
        stderr_forwarder.join()
        with suppress(OSError, EOFError):  # the client disconnected, or `end_processes` has waited for the process
            channel.send_exit_status(_exit_status(process))
            channel.close()

    def end_processes(self) -> None:
        """Kill the programs that commands left running."""
        for process in self.processes:
            processes.end(process)
        self.processes.clear()

    def serve(self, listener: socket.socket) -> None:
        """Accept connections until the listener is closed."""
        authorized = paramiko.Ed25519Key.from_private_key_file(str(self.key))
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            transport = _Transport(connection, self)
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(self.folder / "host")))
            self.transports.append(transport)
            with suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(server=_Authentication(self, authorized), event=threading.Event())
                self.connections += 1


def _exit_status(process: subprocess.Popen[bytes]) -> int:
    """Wait for a command without freeing its process id, so that `end_processes` cannot kill another program."""
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    return ended.si_status


def _pass_on(source: IO[bytes], send: Callable[[bytes], None]) -> None:
    with suppress(OSError, EOFError, ValueError):  # the client disconnected, or the server ends and closes the pipes
        while data := os.read(source.fileno(), 65536):  # at once, since the data may have no lines
            send(data)


def _feed(channel: paramiko.Channel, target: object) -> None:
    with suppress(OSError, ValueError):
        while data := channel.recv(65536):
            target.write(data)  # type: ignore[attr-defined]
            target.flush()  # type: ignore[attr-defined]
        target.close()  # type: ignore[attr-defined]


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Run a server on a free port of the loopback; end it afterwards."""
    server = Server(folder)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]
        thread = threading.Thread(target=server.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            server.break_connections()
            server.end_processes()
