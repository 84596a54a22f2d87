"""A machine without root on libvirt: containers, the ports that they publish, a restart."""

from __future__ import annotations

import json

from pymachine.wait import until
from support.runner import Pymachine

PATIENT = "curl -sS --retry 30 --retry-delay 1 --retry-all-errors --max-time 20"
SERVE = "sh -c 'echo it works > /tmp/index.html; httpd -f -p 80 -h /tmp'"


def test_a_container_with_a_published_port_and_a_restart(intro: Pymachine) -> None:
    container = intro.shell(f"docker run -d -p 80 alpine:3.2 {SERVE}").stdout.strip()
    before = intro("env", "intro").stdout
    assert page(intro, container) == "it works\n"
    until(lambda: min(queues(intro)) > 1, deadline=30, what="longer queues")
    assert [row["Problem"] for row in json.loads(intro("ports", "--json", "intro").stdout)] == [""]
    intro("restart", "intro")
    assert intro("env", "intro").stdout == before
    intro.shell(f"docker start {container}")
    assert page(intro, container) == "it works\n"
    # The tutorial, where it follows, has the machine to itself.
    intro.shell(f"docker rm -f {container}")


def queues(intro: Pymachine) -> list[int]:
    """How many connections may wait at each port on which QEMU listens for the machine: 2376, SSH, the container's."""
    address = intro("ip", "intro").stdout.strip()
    lines = intro.shell(f"ss -Hltn src {address}").stdout.splitlines()
    assert len(lines) == 3
    return [int(line.split()[2]) for line in lines]


def page(intro: Pymachine, container: str) -> str:
    port = intro.shell(f"docker port {container} 80/tcp").stdout.splitlines()[0].rpartition(":")[2]
    return intro.shell(f'{PATIENT} "http://$(pymachine ip intro):{port}/"').stdout
