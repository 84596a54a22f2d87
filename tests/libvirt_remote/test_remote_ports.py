"""Forwarded ports of a machine on another host: reports of the guest come over SSH, and QEMU listens on that host."""

from __future__ import annotations

import json

from pymachine.system.wait import until
from support import libvirtd
from support.runner import Pymachine

CURL = "curl -sS --retry 30 --retry-delay 1 --retry-all-errors --max-time 20"
SERVE = "sh -c 'echo it works > /tmp/index.html; httpd -f -p {} -h /tmp'"


def test_ports_of_containers_are_forwarded_on_the_other_host(intro: Pymachine) -> None:
    intro.shell(f"docker run -d --name web -p 8888:80 alpine:3.2 {SERVE.format(80)}")
    intro.shell(f"docker run -d --name net --net=host alpine:3.2 {SERVE.format(8889)}")
    for port in (8888, 8889):
        assert intro.shell(f"{CURL} http://{libvirtd.THERE}:{port}/").stdout == "it works\n"
    assert forwarded(intro) == {8888: "", 8889: ""}
    intro.shell("docker rm -f web net")
    until(lambda: forwarded(intro) == {}, deadline=60, what="the ports to be closed")


def forwarded(intro: Pymachine) -> dict[int, str]:
    """Return the ports, each with the problem that prevents its forwarding, if any."""
    return {row["Port"]: row["Problem"] for row in json.loads(intro("ports", "--json", "intro").stdout)}
