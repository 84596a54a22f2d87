"""Measure `create` on a host with an installed engine, compared with docker-machine's steps on the same host.

Print a table for docs/explanation/provisioning.md. The host is the tests' Debian system in an emulator. The steps are
those of docker-machine 0.16.2 on Debian with systemd, each over its own SSH connection.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support import packages
from support.debian import build
from support.debian.host import Host
from support.registry import USER_NETWORK_HOST
from support.runner import Pymachine, private_store

ROUNDS = 3
PACKAGES = "docker.io docker-cli"


def docker_machines_steps(host: Host, folder: Path) -> list[str]:
    """Return docker-machine's commands, in order. `folder` has the certificates."""
    unit = "/etc/systemd/system/docker.service.d/10-machine.conf"
    flags = "--tlsverify --tlscacert /etc/docker/ca.pem --tlscert /etc/docker/server.pem "
    flags += "--tlskey /etc/docker/server-key.pem"
    drop_in = f"[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H tcp://0.0.0.0:{host.engine_port} {flags}\n"
    copies = [
        f"printf '%s' {shlex.quote((folder / name).read_text())} | sudo tee /etc/docker/{name}"
        for name in ("ca.pem", "server.pem", "server-key.pem")
    ]
    return [
        "exit 0",
        "exit 0",
        "cat /etc/os-release",
        "if ! type sudo; then apt-get update && apt-get install -y sudo; fi",
        "sudo hostname found && echo found | sudo tee /etc/hostname",
        "grep -xq '127.0.1.1.*' /etc/hosts || echo '127.0.1.1 found' | sudo tee -a /etc/hosts",
        "sudo apt-get update",
        # docker-machine installed curl. Use another installed package here, as curl is installed on most hosts.
        "sudo DEBIAN_FRONTEND=noninteractive apt-get install -y tar",
        "if ! type docker; then curl -sSL https://get.example.org | sh -; fi",
        "sudo docker version",
        "sudo systemctl -f stop docker",
        'if [ ! -z "$(ip link show docker0)" ]; then sudo ip link delete docker0; fi',
        *copies,
        f"sudo mkdir -p $(dirname {unit}); printf %s {shlex.quote(drop_in)} | sudo tee {unit}",
        "sudo systemctl daemon-reload",
        "sudo systemctl -f start docker",
        "if ! type netstat 1>/dev/null; then ss -tln; else netstat -tln; fi",
        "sudo systemctl -f enable docker",
    ]


def measure_create(host: Host, program: Pymachine) -> tuple[float, int, int]:
    """Return seconds, connections and round trips of one `create`."""
    arguments = ["create", "--driver", "generic", "--generic-ip-address", "127.0.0.1", "--generic-ssh-user", "admin"]
    arguments += ["--generic-ssh-port", str(host.ssh_port), "--generic-engine-port", str(host.engine_port)]
    began = time.monotonic()
    finished = program("--debug", *arguments, "--generic-ssh-key", str(host.built.key), "far")
    seconds = time.monotonic() - began
    trips = re.search(r"far: (\d+) round trips over one connection", finished.stderr)
    assert trips
    return seconds, 1, int(trips[1])


def main() -> None:
    """Measure and print the table."""
    built = build.ensure()
    folder = Path(tempfile.mkdtemp(prefix="pm-bench-", dir="/tmp"))
    with packages.serving(built.packages, USER_NETWORK_HOST) as port, private_store() as program:
        host = Host(folder, built, apt_port=port)
        try:
            host.await_ssh()
            host.run(
                f"dpkg --configure -a; apt-get -q update && apt-get -q -y --no-install-recommends install {PACKAGES}"
            )
            host.save("prepared")
            rows = []
            for _ in range(ROUNDS):
                host.restore("prepared")
                create = measure_create(host, program)
                began = time.monotonic()
                program("provision", "far")
                again = time.monotonic() - began
                shutil.copytree(program.store / "machines" / "far", folder / "far", dirs_exist_ok=True)
                program("rm", "-y", "far")
                host.restore("prepared")
                began = time.monotonic()
                steps = docker_machines_steps(host, folder / "far")
                for step in steps:
                    host.run(step, user="admin", code=None)
                rows.append((time.monotonic() - began, len(steps), create, again))
        finally:
            host.kill()
            shutil.rmtree(folder)
    best = min(rows, key=lambda row: row[2][0])
    theirs = min(row[0] for row in rows)
    print("| | SSH connections | round trips | seconds |")
    print("|---|---|---|---|")
    print(f"| docker-machine's steps | {best[1]} | {best[1]} | {theirs:.1f} |")
    print(f"| `pymachine create` | {best[2][1]} | {best[2][2]} | {best[2][0]:.1f} |")
    print(f"| `pymachine provision` again | 1 | 1 | {min(row[3] for row in rows):.1f} |")


if __name__ == "__main__":
    main()
