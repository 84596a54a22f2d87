"""Read the host's DNS search domains, for guests that resolve names as the host does."""

from __future__ import annotations

import re
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")
# More than some resolvers accept: musl takes 256 bytes, glibc before 2.26 six domains.
MOST_DOMAINS = 32
MOST_BYTES = 1000
_LARGEST_FILE = 65536
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")


def host_domains(path: Path = RESOLV_CONF) -> list[str]:
    """Return the search domains in a resolv.conf; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return parse(file.read(_LARGEST_FILE).decode(errors="replace"))
    except OSError:
        return []


def parse(text: str) -> list[str]:
    """Return the domains of the last ``search`` or ``domain`` line of a resolv.conf, without invalid names.

    They are at most `MOST_DOMAINS`, of at most `MOST_BYTES` together.
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
