"""The host's DNS search domains, for guests in QEMU's user network, which resolves as the host does, but passes none.

They are part of the identity and not of QEMU's command line: a template has none, so that its clones have the host's
current ones, without a DHCP lease of their own.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

from pymachine.driver.contract import BootRequest, Endpoint

RESOLV_CONF = Path("/etc/resolv.conf")
MEMBER = "search"
# A resolver takes no more: musl's has room for 256 bytes, glibc before 2.26 for six domains; others for more.
MOST_DOMAINS = 32
MOST_BYTES = 1000
_LARGEST_FILE = 65536
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def identity(request: BootRequest, endpoint: Endpoint) -> bytes:
    """Return the machine's identity, with the host's search domains in it if there are any."""
    tar = request.identity(endpoint)
    domains = host_domains()
    return with_domains(tar, domains) if domains else tar


def host_domains(path: Path = RESOLV_CONF) -> list[str]:
    """Return the search domains in a resolv.conf; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return parse(file.read(_LARGEST_FILE).decode(errors="replace"))
    except OSError:
        return []


def parse(text: str) -> list[str]:
    """Return the domains of the last ``search`` or ``domain`` line of a resolv.conf, without what is no domain name.

    At most `MOST_DOMAINS`, of at most `MOST_BYTES` together.
    """
    words: list[str] = []
    for line in text.splitlines():
        keyword, *rest = line.split()[: MOST_DOMAINS + 1] or [""]
        if keyword == "search" and rest:
            words = rest
        elif keyword == "domain" and rest:
            words = rest[:1]
    domains: list[str] = []
    for word in words:
        domain = word.removesuffix(".")
        if len(domain) > 253 or not _DOMAIN.fullmatch(domain) or domain in domains:
            continue
        if sum(len(each) + 1 for each in [*domains, domain]) > MOST_BYTES:
            break
        domains.append(domain)
    return domains


def with_domains(tar: bytes, domains: Sequence[str]) -> bytes:
    """Return the identity `tar` with `domains` in it."""
    content = (" ".join(domains) + "\n").encode()
    buffer = io.BytesIO(tar)
    with tarfile.open(fileobj=buffer, mode="a", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo(MEMBER)
        entry.mode, entry.size = 0o644, len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
