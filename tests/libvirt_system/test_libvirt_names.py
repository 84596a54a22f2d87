"""Names in containers of a machine in a libvirt network."""

from __future__ import annotations

from support.libvirtd import GATEWAY
from support.registry import Registry
from support.runner import Pymachine


def test_containers_reach_the_host_and_machines_of_the_network_by_name(intro: Pymachine, registry: Registry) -> None:
    """The network's name server knows each machine; this one's own /etc/hosts is not used in containers."""
    url = registry.url_from_guest.replace(GATEWAY, "host.docker.internal")
    script = f"wget -q -O - {url}/v2/_catalog && ping -c 1 intro"
    for network in ("bridge", "own"):
        intro.shell(f"docker network inspect {network} > /dev/null || docker network create {network}")
        output = intro.shell(f"docker run --rm --network={network} alpine:3.2 sh -c '{script}'").stdout
        address = intro("ip", "intro").stdout.strip()
        assert f"PING intro ({address})" in output
        assert "1 packets received" in output
