"""Debian's tinyproxy on the loopback: a forward proxy, with or without a password."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.registry import LOOPBACK, free_port
from support.runner import search_path

STATISTICS = "statistics.invalid"
"""The name of a host for which the proxy answers itself."""
CONFIGURATION = """\
Port {port}
Listen {address}
Timeout 60
MaxClients 50
LogLevel Connect
LogFile "{log}"
Allow {address}
StatHost "{statistics}"
"""


@dataclass(frozen=True)
class Proxy:
    """A running proxy."""

    url: str
    """Its URL on this host, with the user and the password."""
    log: Path

    def requests(self) -> list[str]:
        """Return the request lines that it accepted, such as ``CONNECT host:443 HTTP/1.1``."""
        lines = self.log.read_text().splitlines()
        return [line.partition("): ")[2] for line in lines if "Request (" in line]


@contextmanager
def running(folder: Path, *, user: str = "", password: str = "") -> Iterator[Proxy]:
    """Run a proxy with its configuration and log in `folder`; end it afterwards."""
    program = shutil.which("tinyproxy", path=search_path())
    assert program, "tinyproxy is missing: scripts/setup --tests"
    port, log = free_port(), folder / "tinyproxy.log"
    text = CONFIGURATION.format(port=port, address=LOOPBACK, log=log, statistics=STATISTICS)
    login = ""
    if user:
        text += f"BasicAuth {user} {password}\n"
        login = f"{user}:{password}@"
    configuration = folder / "tinyproxy.conf"
    configuration.write_text(text)
    process = subprocess.Popen([program, "-d", "-c", str(configuration)], stdout=subprocess.DEVNULL)
    try:
        _await_listener(port, process)
        yield Proxy(f"http://{login}{LOOPBACK}:{port}", log)
    finally:
        process.terminate()
        process.wait(20)


def _await_listener(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection((LOOPBACK, port), timeout=5):
                return
        except OSError:
            assert process.poll() is None, "tinyproxy ended at once"
            assert time.monotonic() < deadline, "tinyproxy does not listen"
        time.sleep(0.1)
