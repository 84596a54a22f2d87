"""Fake hosts of many distributions: they answer the provisioning scripts and keep them for the test.

The os-release files and units are the distributions' own, shortened to the relevant lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from pymachine.provision.remote import ROOT_SHELL
from pymachine.system.run import Result

OS_RELEASE = {
    "ubuntu": 'PRETTY_NAME="Ubuntu 24.04.2 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n',
    "mint": 'NAME="Linux Mint"\nPRETTY_NAME="Linux Mint 22"\nID=linuxmint\nID_LIKE="ubuntu debian"\n',
    "raspberry": 'PRETTY_NAME="Raspbian GNU/Linux 12 (bookworm)"\nID=raspbian\nID_LIKE=debian\n',
    "fedora": 'NAME="Fedora Linux"\nVERSION="41 (Server Edition)"\nID=fedora\nVARIANT_ID=server\n',
    "fedora-coreos": 'NAME="Fedora Linux"\nID=fedora\nVARIANT_ID=coreos\n',
    "rocky": 'NAME="Rocky Linux"\nVERSION="9.4 (Blue Onyx)"\nID="rocky"\nID_LIKE="rhel centos fedora"\n',
    "alma": 'NAME="AlmaLinux"\nID="almalinux"\nID_LIKE="rhel centos fedora"\n',
    "rhel": 'NAME="Red Hat Enterprise Linux"\nID="rhel"\nID_LIKE="fedora"\n',
    "leap": 'NAME="openSUSE Leap"\nVERSION="15.6"\nID="opensuse-leap"\nID_LIKE="suse opensuse"\n',
    "arch": 'NAME="Arch Linux"\nID=arch\nBUILD_ID=rolling\n',
    "manjaro": 'NAME="Manjaro Linux"\nID=manjaro\nID_LIKE=arch\n',
    "alpine": 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.20.3\nPRETTY_NAME="Alpine Linux v3.20"\n',
    "flatcar": 'NAME="Flatcar Container Linux by Kinvolk"\nID=flatcar\nID_LIKE=coreos\n',
    "boot2docker": "NAME=Boot2Docker\nVERSION=19.03.12\nID=boot2docker\nID_LIKE=tcl\n",
    "void": 'NAME="Void"\nID="void"\nPRETTY_NAME="Void Linux"\n',
}
UNITS = {
    "ubuntu": "ExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock",
    "fedora": "ExecStart=/usr/bin/dockerd \\\n          --host=fd:// \\\n          $OPTIONS",
    "rocky": "ExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock",
    "leap": "ExecStart=/usr/bin/dockerd --add-runtime oci=/usr/sbin/runc $DOCKER_NETWORK_OPTIONS $DOCKER_OPTS",
    "arch": "ExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock",
    "flatcar": "ExecStart=/usr/bin/env PATH=${TORCX_BINDIR}:${PATH} ${TORCX_BINDIR}/dockerd --host=fd:// $DOCKER_OPTS",
}


@dataclass
class FakeHost:
    """Answers like a host of that `kind`, and keeps every script. It has the interface of `Connection`."""

    kind: str
    init: str = "systemd"
    engine: bool = False
    active: bool = True
    containers: int = 0
    swarm: bool = False
    sudo: bool = True
    sshfs: bool = False
    fuse: bool = True
    files: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    on_install: Callable[[], Result | None] = lambda: None
    on_apply: Callable[[], Result | None] = lambda: None
    present: list[str] = field(default_factory=list)
    scripts: list[tuple[str, str]] = field(default_factory=list)
    commands: int = 0

    def run(
        self,
        command: str,
        *,
        stdin: str = "",
        timeout: float | None = None,
        line: Callable[[str], None] | None = None,
    ) -> Result:
        """Answer a script, like `Connection.run`."""
        assert command == ROOT_SHELL
        self.commands += 1
        body = stdin.partition("\npymachine_main() {\n")[2]
        assert body.endswith("}\npymachine_main\n")
        if not self.sudo:
            return Result((), 77, "", "sudo: a password is required\n")
        if body.startswith("facts\n"):
            return self._result(self._facts())
        step, answer = ("install", self.on_install) if "\nfollow " in body else ("apply", self.on_apply)
        step = "sshfs" if "\nnote sshfs.before " in body else step
        if "put_back" in body or "remove_packages" in body:
            step, answer = "restore", lambda: None
        self.scripts.append((step, body))
        if result := answer():
            return result
        if step == "install":
            self.engine = True
        if step == "sshfs":
            self.sshfs = True
        if line:
            line("Unpacking docker ...")
        return self._result("")

    def body(self, step: str) -> str:
        """Return the only script that was sent for `step`."""
        (found,) = [body for name, body in self.scripts if name == step]
        return found

    def written(self) -> dict[str, str]:
        """Return the files that the last apply script writes, by path."""
        body = [body for name, body in self.scripts if name == "apply"][-1]
        found = re.findall(
            r"^stage (\S+) \d+ << 'PYMACHINE_END_OF_FILE'\n(.*?)PYMACHINE_END_OF_FILE$", body, re.MULTILINE | re.DOTALL
        )
        return dict(found)

    def _result(self, text: str) -> Result:
        return Result((), 0, "a banner of the login shell\npymachine-begin\n" + text, "")

    def _facts(self) -> str:
        lines = ["os-release", *_block(OS_RELEASE[self.kind]), f"init {self.init}"]
        lines.append(f"dockerd {'/usr/bin/dockerd' if self.engine else ''}")
        lines += [f"sshfs {'/usr/bin/sshfs' if self.sshfs else ''}", f"fuse {'yes' if self.fuse else 'no'}"]
        if self.engine:
            lines += [f"active {'active' if self.active else 'inactive'}", "enabled enabled"]
        lines.append("unit")
        if self.engine and self.kind in UNITS:
            lines += _block(f"# /usr/lib/systemd/system/docker.service\n[Service]\n{UNITS[self.kind]}\n")
        lines.append(f"containers {self.containers}")
        if self.swarm:
            lines.append("present /var/lib/docker/swarm/docker-state.json")
        lines += [f"present {path}" for path in self.present]
        for path, text in self.files.items():
            lines += [f"file {path}", *_block(text), ""]
        lines += [f"sha256 {digest} {path}" for path, digest in self.digests.items()]
        return "\n".join([*lines, "end", ""])


def _block(text: str) -> list[str]:
    return [f"|{line}" for line in text.splitlines()]
