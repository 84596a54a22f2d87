"""A guest in plain QEMU, without pymachine's drivers: its disk, identity channel and power button."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import re
import socket
import ssl
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymachine.driver.contract import ImageFiles
from support.registry import free_port

BOOT_SECONDS = 400.0
CONSOLE = "console=ttyS0 quiet loglevel=3"


def tar(members: Mapping[str, bytes]) -> bytes:
    """Return an uncompressed tar of regular files with mode 0600."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


class Channel:
    """The host's end of the identity channel, with the lines received so far."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self.lines: list[str] = []
        self._line_received = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._socket.makefile("rb") as stream:
            for line in stream:
                with self._line_received:
                    self.lines.append(line.decode(errors="replace").strip())
                    self._line_received.notify_all()

    def send(self, identity: bytes, *, digest: str = "") -> str:
        """Send an identity; return the digest that the guest's OK will name."""
        digest = digest or hashlib.sha256(identity).hexdigest()
        self._socket.sendall(f"IDENTITY 1 {len(identity)} {digest} {int(time.time())}\n".encode() + identity)
        return digest

    def expect(self, beginning: str, *, after: int = 0, timeout: float = BOOT_SECONDS) -> str:
        """Wait for a line, from number `after` on, with that `beginning`; fail on any other ERROR line."""

        def found() -> str | None:
            for line in self.lines[after:]:
                if line.startswith(beginning):
                    return line
                assert not line.startswith("ERROR"), line
            return None

        with self._line_received:
            self._line_received.wait_for(lambda: found() is not None, timeout)
            line = found()
        assert line is not None, f"no line {beginning!r} within {timeout:g} s; the guest said {self.lines}"
        return line

    def close(self) -> None:
        """Close the port, as `create` does when it is done."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()


class Guest:
    """A data disk, and the QEMU processes that boot the image with it, one after another."""

    def __init__(self, folder: Path, image: ImageFiles, *, disk_bytes: int = 8 << 30) -> None:
        self.folder = folder
        self.image = image
        self.disk = folder / "disk.raw"
        self.console = folder / "console.log"
        with self.disk.open("wb") as file:
            file.truncate(disk_bytes)
        self.engine_port = free_port()
        self.same_port = free_port()
        """A port of the loopback that leads to the same port of the guest."""
        self.ssh_port = free_port()
        self._disk_format = "raw"
        self._process: subprocess.Popen[bytes] | None = None

    def boot(self, *, channel: bool = True) -> None:
        """Start QEMU without waiting for the guest."""
        assert self._process is None
        kernel_line = f"{CONSOLE} {'pymachine.identity=channel' if channel else ''} {self.image.command_line}"
        forwards = f"hostfwd=tcp:127.0.0.1:{self.engine_port}-:2376,hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"
        forwards += f",hostfwd=tcp:127.0.0.1:{self.same_port}-:{self.same_port}"
        argv = ["qemu-system-x86_64", "-machine", "q35,vmport=off", "-accel", "tcg,thread=multi,tb-size=256"]
        argv += ["-cpu", "max,la57=off", "-smp", "1", "-m", "1024", "-nodefaults", "-display", "none"]
        argv += ["-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd), "-append", kernel_line]
        argv += ["-drive", f"file={self.image.iso},format=raw,readonly=on,if=virtio"]
        argv += ["-drive", f"file={self.disk},format={self._disk_format},if=virtio,discard=unmap"]
        argv += ["-netdev", f"user,id=net,{forwards}", "-device", "virtio-net-pci,netdev=net,romfile="]
        argv += ["-qmp", f"unix:{self.folder}/qmp,server=on,wait=off"]
        argv += ["-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console"]
        if channel:
            argv += ["-chardev", f"socket,id=identity,path={self.folder}/channel,server=on,wait=off"]
            argv += ["-device", "virtio-serial-pci"]
            argv += ["-device", "virtserialport,chardev=identity,name=org.pymachine.identity"]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        _until((self.folder / "qmp").exists, "QEMU to start", 20)

    def channel(self) -> Channel:
        """Connect to the identity channel."""
        return Channel(self.folder / "channel")

    def press_power_button(self) -> None:
        """Press the guest's power button, as `stop` does; call `ended` to wait for its end."""
        self.execute_qmp("system_powerdown")

    def use_overlay(self) -> None:
        """Put an overlay on the disk, so that `save` works. Call it before `boot`."""
        overlay = self.folder / "disk.qcow2"
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(self.disk), str(overlay)]
        subprocess.run(argv, check=True)
        self.disk, self._disk_format = overlay, "qcow2"

    def save(self, moment: str) -> None:
        """Save memory and disk under the name `moment`."""
        self._execute_hmp(f"savevm {moment}")

    def restore(self, moment: str) -> None:
        """Restore a saved moment, with the clock as it was then."""
        self._execute_hmp(f"loadvm {moment}")

    def _execute_hmp(self, line: str) -> None:
        output = self.execute_qmp("human-monitor-command", **{"command-line": line})
        assert output == "", f"{line}: {output}"

    def execute_qmp(self, command: str, **arguments: object) -> object:
        """Execute a command of QEMU's monitor and return its answer; fail if QEMU reports an error."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(60)
            monitor.connect(str(self.folder / "qmp"))
            with monitor.makefile("rw", encoding="utf-8") as stream:
                for each, words in (("qmp_capabilities", {}), (command, arguments)):
                    stream.write(json.dumps({"execute": each, "arguments": words}) + "\n")
                    stream.flush()
                    while '"return"' not in (answer := stream.readline()):
                        assert '"error"' not in answer, answer
        value: object = json.loads(answer)["return"]
        return value

    def ended(self, timeout: float = 90) -> None:
        """Wait until the guest has switched itself off."""
        assert self._process is not None
        self._process.wait(timeout)
        self._process = None
        for name in ("qmp", "channel"):
            (self.folder / name).unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill QEMU, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self.ended()

    def console_says(self, text: str, *, times: int = 1, timeout: float = BOOT_SECONDS) -> None:
        """Wait until `text` is on the serial console that many `times`."""

        def output() -> bool:
            return self.console.exists() and self.console.read_bytes().count(text.encode()) >= times

        _until(output, f"the console to say {text!r}", timeout)

    def stages(self) -> list[dict[str, float]]:
        """Read from the console, for each boot, the seconds at which each stage was reached."""
        boots: list[dict[str, float]] = []
        for name, at in re.findall(r"STAGE (\w+) ([\d.]+)", self.console.read_text(errors="replace")):
            if name == "init":
                boots.append({})
            boots[-1][name] = float(at)
        return boots

    def ssh(self, key: Path, command: str, *, stdin: str = "", host_key: str = "") -> str:
        """Run a command as user docker; with `host_key` ("type base64"), accept only that host key."""
        options = ["-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=60", "-o", "LogLevel=ERROR"]
        known = self.folder / "known_hosts"
        known.write_text(f"guest {host_key}\n" if host_key else "")
        options += ["-o", f"UserKnownHostsFile={known}", "-o", "HostKeyAlias=guest"]
        options += ["-o", f"StrictHostKeyChecking={'yes' if host_key else 'no'}"]
        argv = [
            "ssh",
            "-F",
            os.devnull,
            *options,
            "-i",
            str(key),
            "-p",
            str(self.ssh_port),
            "docker@127.0.0.1",
            command,
        ]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, f"{command!r} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout


class Api:
    """The engine's API over mutual TLS."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._port = port
        self._context = context

    def connect(self) -> ssl.SSLSocket:
        """Open a connection. With TLS 1.3 a refusal shows at the first read."""
        plain = socket.create_connection(("127.0.0.1", self._port), timeout=120)
        return self._context.wrap_socket(plain, server_hostname="127.0.0.1")

    def server_certificate(self) -> bytes:
        """Return the certificate that the engine serves now, in DER."""
        with self.connect() as connection:
            return connection.getpeercert(binary_form=True) or b""

    def __call__(self, method: str, path: str, body: object = None) -> Any:
        """Send a request and return the answer, parsed if it is JSON, else as bytes; fail on an error status.

        `body` is bytes (a tar) or a value to send as JSON.
        """
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=180, context=self._context)
        kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, content, {"Content-Type": kind})
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        assert answer.status < 400, f"{method} {path}: {answer.status} {data!r}"
        return json.loads(data) if answer.headers.get("Content-Type", "").endswith("json") and data else data


@contextmanager
def machine(folder: Path, image: ImageFiles) -> Iterator[Guest]:
    """A guest whose QEMU is killed afterwards. If the test fails, the end of its console log is printed."""
    guest = Guest(folder, image)
    try:
        yield guest
    except BaseException:
        if guest.console.exists():
            print(guest.console.read_text(errors="replace")[-6000:])  # noqa: T201 (pytest shows it)
        raise
    finally:
        guest.kill()


def _until(done: Callable[[], bool], what: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, f"waited {timeout:g} s for {what}"
        time.sleep(0.1)
