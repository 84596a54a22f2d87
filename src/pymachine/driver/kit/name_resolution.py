"""Add to an identity what a guest needs to resolve names as this host does.

This is for guests in a network that uses the host's resolver: QEMU's user network, VirtualBox's NAT. It does not pass
on the host's search domains and the entries of its ``/etc/hosts``. They are part of the identity instead of the
hypervisor's settings, so that clones get the host's current ones, not their template's.
"""

from __future__ import annotations

from pymachine.driver.contract import BootRequest, Endpoint
from pymachine.driver.kit import host_names, search_domains
from pymachine.driver.kit.identity_files import with_files

SEARCH = "search"
HOSTS = "hosts"
OWN_NAMES = "host-names"


def identity(request: BootRequest, endpoint: Endpoint) -> bytes:
    """Return the machine's identity, with the host's search domains and the entries of its ``/etc/hosts``."""
    names = host_names.host_names()
    lines = {
        SEARCH: " ".join(search_domains.host_domains()),
        OWN_NAMES: " ".join(names.own),
        HOSTS: "\n".join(names.entries),
    }
    files = {name: f"{text}\n".encode() for name, text in lines.items() if text}
    tar = request.identity(endpoint)
    return with_files(tar, files) if files else tar
