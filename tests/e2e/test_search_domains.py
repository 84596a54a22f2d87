"""The host's DNS search domains in machines: in a clone, in its containers, and after the host has moved elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.runner import Pymachine, private_store

pytestmark = pytest.mark.timeout(1500)

IMPORT = """set -e; mkdir -p /tmp/box/bin; cp /usr/bin/busybox /tmp/box/bin; ln -s busybox /tmp/box/bin/cat
tar -C /tmp/box -c . | sudo docker import - box"""


def at(program: Pymachine, folder: Path, domains: str, *words: str) -> None:
    """Run ``pymachine WORDS`` where the host's resolv.conf has those search domains: in mounts of its own."""
    servers = [line for line in Path("/etc/resolv.conf").read_text().splitlines() if line.startswith("nameserver")]
    resolv = folder / "resolv.conf"
    resolv.write_text("\n".join([*servers, f"search {domains}", ""]))
    script = 'mount --bind "$0" /etc/resolv.conf && exec pymachine "$@"'
    unshare = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    program.run([*unshare, "sh", "-c", script, str(resolv), *words])


def searched(program: Pymachine, command: str) -> list[str]:
    said = program("ssh", "clone", command).stdout
    assert "nameserver 10.0.2.3" in said
    return [line for line in said.splitlines() if line.startswith("search")]


def test_they_follow_the_host(tmp_path: Path) -> None:
    with private_store() as program:
        # Whoever made the template has given it none: the next machine of its kind has its own host's.
        at(program, tmp_path, "corp.example lab.example", "create", "clone")
        guest, container = "cat /etc/resolv.conf", "docker run --rm box cat /etc/resolv.conf"
        program("ssh", "clone", IMPORT)
        for place in (guest, container):
            assert searched(program, place) == ["search corp.example lab.example"]
        program("ssh", "clone", "sudo sh -c 'for each in $(pidof udhcpc); do kill -USR1 $each; done; sleep 5'")
        assert searched(program, guest) == ["search corp.example lab.example"], "a new lease changes nothing"
        at(program, tmp_path, "home.example", "restart", "clone")
        for place in (guest, container):
            assert searched(program, place) == ["search home.example"]
