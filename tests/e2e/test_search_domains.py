"""The host's DNS search domains in a clone and its containers, also after the host changes networks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.runner import Pymachine, private_store

pytestmark = pytest.mark.timeout(1500)

IMPORT = """set -e; mkdir -p /tmp/box/bin; cp /usr/bin/busybox /tmp/box/bin; ln -s busybox /tmp/box/bin/cat
tar -C /tmp/box -c . | sudo docker import - box"""


def run_with_domains(program: Pymachine, folder: Path, domains: str, *words: str) -> None:
    """Run ``pymachine WORDS`` in a mount namespace whose resolv.conf has those search domains."""
    servers = [line for line in Path("/etc/resolv.conf").read_text().splitlines() if line.startswith("nameserver")]
    resolv = folder / "resolv.conf"
    resolv.write_text("\n".join([*servers, f"search {domains}", ""]))
    script = 'mount --bind "$0" /etc/resolv.conf && exec pymachine "$@"'
    unshare = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    program.run([*unshare, "sh", "-c", script, str(resolv), *words])


def search_lines(program: Pymachine, command: str) -> list[str]:
    output = program("ssh", "clone", command).stdout
    assert "nameserver 169.254.53.53" in output
    return [line for line in output.splitlines() if line.startswith("search")]


def test_machines_have_the_search_domains_of_the_host(tmp_path: Path) -> None:
    with private_store() as program:
        # The template has none; each clone gets those of its host.
        run_with_domains(program, tmp_path, "corp.example lab.example", "create", "clone")
        guest, container = "cat /etc/resolv.conf", "docker run --rm box cat /etc/resolv.conf"
        program("ssh", "clone", IMPORT)
        for command in (guest, container):
            assert search_lines(program, command) == ["search corp.example lab.example"]
        program("ssh", "clone", "sudo sh -c 'for each in $(pidof udhcpc); do kill -USR1 $each; done; sleep 5'")
        assert search_lines(program, guest) == ["search corp.example lab.example"], "a new lease changes nothing"
        run_with_domains(program, tmp_path, "home.example", "restart", "clone")
        for command in (guest, container):
            assert search_lines(program, command) == ["search home.example"]
