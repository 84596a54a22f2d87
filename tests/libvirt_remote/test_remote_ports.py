"""Ports of a machine on another host's libvirt: the guest's reports come through SSH, QEMU listens there."""

from __future__ import annotations

import json

from pymachine.system.wait import until
from support import libvirtd
from support.runner import Pymachine

PATIENT = "curl -sS --retry 30 --retry-delay 1 --retry-all-errors --max-time 20"
SERVE = "sh -c 'echo it works > /tmp/index.html; httpd -f -p {} -h /tmp'"


def test_what_listens_in_the_guest_is_reached(intro: Pymachine) -> None:
    intro.shell(f"docker run -d --name web -p 8888:80 alpine:3.2 {SERVE.format(80)}")
    intro.shell(f"docker run -d --name net --net=host alpine:3.2 {SERVE.format(8889)}")
    for port in (8888, 8889):
        assert intro.shell(f"{PATIENT} http://{libvirtd.THERE}:{port}/").stdout == "it works\n"
    assert forwarded(intro) == {8888: "", 8889: ""}
    intro.shell("docker rm -f web net")
    until(lambda: forwarded(intro) == {}, deadline=60, what="the ports to be closed")


def forwarded(intro: Pymachine) -> dict[int, str]:
    """The ports, and why one is not forwarded."""
    return {row["Port"]: row["Problem"] for row in json.loads(intro("ports", "--json", "intro").stdout)}
