"""A fake host in a folder: runs the real provisioning scripts in a real shell, with fake system programs.

Absolute paths in the scripts are moved below the folder. The fake programs record their calls in the file ``calls``.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pymachine.provision.remote import ROOT_SHELL
from pymachine.system.run import Result

BELOW = re.compile(r"(?<![\w$}/.])/(etc|var|run|proc|tmp|usr/lib)(?=/)")
# Each fake program records its call, then does the part of its work that a script can notice.
STAND_INS = {
    "systemctl": """
case "$1 $2" in
    "-q is-active") grep -q '^active' "$ROOT/active" ;;
    "is-active docker.service") cat "$ROOT/active" ;;
    "is-enabled docker.service") cat "$ROOT/enabled" ;;
    "cat docker.service")
        for each in "$ROOT"/usr/lib/systemd/system/docker.service "$ROOT"/etc/systemd/system/docker.service.d/*.conf; do
            [ -e "$each" ] && echo "# ${each#"$ROOT"}" && cat "$each"
        done
        ;;
    "restart docker.service")
        # Like the engine, fail to start with an unknown storage driver.
        if grep -q nonsense "$ROOT/etc/docker/daemon.json"; then echo failed > "$ROOT/active"; exit 1; fi
        echo active > "$ROOT/active"
        ;;
    "reload docker.service") ;;
    "stop docker.service") echo inactive > "$ROOT/active" ;;
    "enable docker.service") echo enabled > "$ROOT/enabled" ;;
    "disable docker.service") echo disabled > "$ROOT/enabled" ;;
esac
""",
    "docker": """
case "$*" in
    "ps -q") [ ! -e "$ROOT/containers" ] || cat "$ROOT/containers" ;;
    *LiveRestoreEnabled*) grep -q '"live-restore": true' "$ROOT/etc/docker/daemon.json" && echo true || echo false ;;
esac
""",
    "dockerd": 'case "$1" in --help) echo "      --validate   Validate" ;; esac\n',
    "journalctl": "echo 'the engine said: unknown storage driver'\n",
    "apt-get": """
case "$*" in
    *install*sshfs*) printf 'sshfs\\nlibfuse3-3\\ninotify-tools\\n' >> "$ROOT/packages" ;;
    *install*)
        mkdir -p "$ROOT/usr/lib/systemd/system" "$ROOT/etc/docker" "$ROOT/var/lib/docker/overlay2"
        printf '[Service]\\nExecStart=/usr/sbin/dockerd -H fd://\\n' > "$ROOT/usr/lib/systemd/system/docker.service"
        ln -sf "$ROOT/stand-ins/dockerd" "$ROOT/bin/dockerd"
        printf 'docker.io\\nrunc\\n' >> "$ROOT/packages"
        echo active > "$ROOT/active"
        echo "Unpacking docker.io ..."
        ;;
esac
""",
    "apt-cache": 'case "$*" in *docker-cli) ;; *) echo "Package: $3" ;; esac\n',
    "dpkg": """
case "$1" in
    --purge)
        for each; do sed -i "/^$each\\$/d" "$ROOT/packages"; done
        case "$*" in
            *docker.io*) rm -f "$ROOT/usr/lib/systemd/system/docker.service" "$ROOT/bin/dockerd" ;;
        esac
        ;;
esac
""",
    "dpkg-query": "sed 's/^/ii  /' \"$ROOT/packages\"\n",
    "apk": """
case "$1" in
    info) cat "$ROOT/packages" ;;
    search) case "$4" in docker) echo docker ;; esac ;;
    add) ln -sf "$ROOT/stand-ins/dockerd" "$ROOT/bin/dockerd"; echo docker >> "$ROOT/packages" ;;
    del) shift 2; for each; do sed -i "/^$each\\$/d" "$ROOT/packages"; done; rm -f "$ROOT/bin/dockerd" ;;
esac
""",
    "rc-service": """
case "$2" in
    status) grep -q '^active' "$ROOT/active" ;;
    stop) echo inactive > "$ROOT/active" ;;
    *) echo active > "$ROOT/active" ;;
esac
""",
    "rc-update": """
case "$1" in
    add) mkdir -p "$ROOT/etc/runlevels/default" && : > "$ROOT/etc/runlevels/default/docker" ;;
    del) rm -f "$ROOT/etc/runlevels/default/docker" ;;
esac
""",
    "ip": "",
    "hostname": 'mkdir -p "$ROOT/proc/sys/kernel" && echo "$1" > "$ROOT/proc/sys/kernel/hostname"\n',
    "groupdel": "sed -i '/^docker:/d' \"$ROOT/etc/group\"\n",
    # Scripts wait for a socket, which cannot exist here: socket paths are limited in length.
    "sleep": "",
}
SYSTEMD = ("systemctl", "journalctl", "docker", "apt-get", "apt-cache", "dpkg", "dpkg-query", "ip", "groupdel")
OPENRC = ("rc-service", "rc-update", "docker", "apk", "ip", "groupdel")


@dataclass
class LocalHost:
    """A fake host below `root`, with the interface of `Connection`."""

    root: Path
    programs: tuple[str, ...] = SYSTEMD
    commands: int = 0
    alter_script: Callable[[str], str] = lambda text: text
    """Changes each script before it runs, so that tests can make steps fail."""
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for folder in ("bin", "stand-ins", "etc", "proc/1", "tmp", "var/lib", "run", "usr/lib"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for name, body in STAND_INS.items():
            program = self.root / "stand-ins" / name
            program.write_text(f'#!/bin/sh\nROOT={self.root}\necho "{name} $*" >> "$ROOT/calls"\n{body}')
            program.chmod(0o755)
        for name in (*self.programs, "hostname", "sleep"):
            (self.root / "bin" / name).symlink_to(self.root / "stand-ins" / name)
        if "systemctl" in self.programs:
            (self.root / "run/systemd/system").mkdir(parents=True)
            (self.root / "etc/systemd/system").mkdir(parents=True)
            (self.root / "usr/lib/systemd/system").mkdir(parents=True)
        for name, text in {"active": "inactive\n", "enabled": "disabled\n", "packages": "base\n", **self.files}.items():
            self.put(name, text)

    def put(self, path: str, text: str) -> None:
        """Write a file on the host."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def get(self, path: str) -> str:
        """Read a file on the host."""
        return (self.root / path.lstrip("/")).read_text()

    def calls(self) -> list[str]:
        """Return the calls of fake programs since the last call of this method."""
        log = self.root / "calls"
        found = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return found

    def tree(self) -> dict[str, tuple[int, str]]:
        """Return every file and folder with its mode and content."""
        found = {}
        for top in ("etc", "var", "usr"):
            for path in sorted((self.root / top).rglob("*")):
                content = path.read_text() if path.is_file() else ""
                found[str(path.relative_to(self.root))] = (path.stat().st_mode, content)
        return found | {"packages": (0, self.get("packages"))}

    def run(
        self,
        command: str,
        *,
        stdin: str = "",
        timeout: float | None = None,
        line: Callable[[str], None] | None = None,
    ) -> Result:
        """Run a script, like `Connection.run`."""
        assert command == ROOT_SHELL
        self.commands += 1
        script = BELOW.sub(rf"{self.root}/\1", self.alter_script(stdin))
        env = {**os.environ, "PATH": f"{self.root}/bin:/usr/bin:/bin"}
        script = script.replace("PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", ":")
        done = subprocess.run(["dash", "-s"], input=script, env=env, capture_output=True, text=True, check=False)
        out = done.stdout.replace(str(self.root) + "/", "/")
        return Result((command,), done.returncode, out, done.stderr)
