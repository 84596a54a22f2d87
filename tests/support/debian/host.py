"""A Debian host in plain QEMU whose state can be saved and restored."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from support.debian.build import Built
from support.registry import USER_NETWORK_HOST, free_port

BOOT_SECONDS = 240.0
OPTIONS = (
    *("-F", os.devnull, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=30"),
    *("-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={os.devnull}", "-o", "LogLevel=ERROR"),
    # One connection for all commands, since a login takes more than a second in emulation.
    *("-o", "ControlMaster=auto", "-o", "ControlPersist=yes"),
)
LOGIN = "root@127.0.0.1"


class Host:
    """A running host: SSH on `ssh_port` of the loopback, and an engine, once installed, on `engine_port`."""

    def __init__(self, folder: Path, built: Built, *, apt_port: int) -> None:
        self.folder = folder
        self.built = built
        self.ssh_port = free_port()
        self.engine_port = free_port()
        self.console = folder / "console.log"
        disk = folder / "disk.qcow2"
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(built.disk), str(disk)], check=True
        )
        forwards = (
            f"hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22,hostfwd=tcp:127.0.0.1:{self.engine_port}-:{self.engine_port}"
        )
        line = "root=/dev/vda rw net.ifnames=0 quiet loglevel=3 console=ttyS0 systemd.show_status=0 "
        # QEMU before 8.0 translates a program again for each address that it is loaded at.
        line += f"norandmaps test.apt=http://{USER_NETWORK_HOST}:{apt_port}/"
        argv = ["qemu-system-x86_64", "-machine", "q35,vmport=off", "-accel", "tcg,thread=multi,tb-size=256"]
        argv += ["-cpu", "max,la57=off", "-smp", "1", "-m", "1024", "-nodefaults", "-display", "none"]
        argv += ["-kernel", str(built.kernel), "-initrd", str(built.initrd), "-append", line]
        argv += ["-drive", f"file={disk},format=qcow2,if=virtio,cache=unsafe,discard=unmap"]
        argv += ["-netdev", f"user,id=net,{forwards}", "-device", "virtio-net-pci,netdev=net,romfile="]
        argv += ["-qmp", f"unix:{folder}/qmp,server=on,wait=off"]
        argv += ["-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console"]
        self.console.touch()
        self._argv = argv
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)

    def run(self, command: str, *, stdin: str = "", code: int | None = 0, user: str = "") -> str:
        """Run a command over SSH and return what it printed: as root, or as `user` in a new session."""
        argv = self._ssh(f"{user}@127.0.0.1", command, shared=False) if user else self._ssh(LOGIN, command)
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=300, check=False)
        assert code in (None, done.returncode), f"{command!r} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def await_ssh(self) -> None:
        """Wait until root can log in."""
        deadline = time.monotonic() + BOOT_SECONDS
        while self.run("echo up", code=None) != "up\n":
            assert self._process.poll() is None, "QEMU ended"
            assert "Kernel panic" not in self.console.read_text(errors="replace"), "the kernel panicked"
            assert time.monotonic() < deadline, "the host did not come up"
            time.sleep(0.3)

    def save(self, moment: str) -> None:
        """Save memory and disk under the name `moment`."""
        self._disconnect()
        self._monitor(f"savevm {moment}")

    def restore(self, moment: str) -> None:
        """Restore a saved moment, then set the clock to the current time."""
        self._disconnect()
        self._monitor(f"loadvm {moment}")
        self.run(f"date -s @{time.time():.0f}")

    def switch_on(self, moment: str) -> None:
        """Start QEMU again, which has ended, in a saved moment."""
        self._disconnect()
        self._process.wait(BOOT_SECONDS)
        self._process = subprocess.Popen([*self._argv, "-loadvm", moment], stdin=subprocess.DEVNULL)
        self.await_ssh()

    def kill(self) -> None:
        """End QEMU."""
        self._disconnect()
        self._process.kill()
        self._process.wait()

    def copy(self, command: str, data: bytes) -> None:
        """Run a command as root that reads `data`."""
        subprocess.run(self._ssh(LOGIN, command), input=data, check=True, timeout=300)

    def reboot(self) -> None:
        """Shut the host down, boot it again, and wait until root can log in."""
        identify = "cat /proc/sys/kernel/random/boot_id"
        before = self.run(identify)
        self.run("systemctl reboot", code=None)
        self._disconnect()
        deadline = time.monotonic() + 2.5 * BOOT_SECONDS
        while self.run(identify, code=None) in ("", before):
            assert self._process.poll() is None, "QEMU ended"
            assert time.monotonic() < deadline, "the host did not come up"
            time.sleep(0.3)

    def _ssh(self, *words: str, shared: bool = True) -> list[str]:
        own = ["-i", str(self.built.key), "-p", str(self.ssh_port)]
        own += ["-o", f"ControlPath={self.folder}/ssh"] if shared else ["-o", "ControlPath=none"]
        return ["ssh", *OPTIONS, *own, *words]

    def _disconnect(self) -> None:
        """Close the connection that `run` keeps. That fails if there is none, or if the host has closed it."""
        subprocess.run(self._ssh("-O", "exit", LOGIN), capture_output=True, check=False)

    def _monitor(self, line: str) -> None:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.folder / "qmp"))
            with monitor.makefile("rw", encoding="utf-8") as stream:
                stream.readline()
                _qmp(stream, "qmp_capabilities")
                output = _qmp(stream, "human-monitor-command", {"command-line": line})
        assert output == "", f"{line}: {output}"


def _qmp(stream: Any, command: str, arguments: dict[str, str] | None = None) -> Any:
    """Execute one command and return its answer, skipping events before it."""
    stream.write(json.dumps({"execute": command, "arguments": arguments or {}}) + "\n")
    stream.flush()
    while True:
        answer = json.loads(stream.readline())
        assert "error" not in answer, answer
        if "return" in answer:
            return answer["return"]
