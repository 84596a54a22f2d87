"""Read the names in the host's ``/etc/hosts``, for guests that resolve names as the host does.

In a guest, loopback addresses are its own. So the names that this file gives the host's loopback are listed apart, and
the guest gives them the address at which it reaches the host.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path

HOSTS = Path("/etc/hosts")
# Some hosts files block a hundred thousand names. Every clone would carry them.
MOST_ENTRIES = 500
MOST_BYTES = 16000
MOST_OWN_NAMES = 64
_LARGEST_FILE = 1 << 20
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
# Each system has its own entries for these names. Docker's are the guest's to answer.
_LOCAL = re.compile(r"localhost[46]?(?:\..*)?|.+\.localhost|ip6-.*|broadcasthost|(?:.+\.)?docker\.internal")


@dataclass(frozen=True)
class HostNames:
    """The entries of a hosts file that guests can use."""

    entries: tuple[str, ...] = ()
    """Lines of a hosts file, without loopback addresses."""
    own: tuple[str, ...] = ()
    """The names of loopback addresses, which are names of the host itself."""


def host_names(path: Path = HOSTS) -> HostNames:
    """Return the names in a hosts file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            return parse(file.read(_LARGEST_FILE).decode(errors="replace"))
    except OSError:
        return HostNames()


def parse(text: str) -> HostNames:
    """Return the names in the text of a hosts file, without invalid lines and names.

    They are at most `MOST_OWN_NAMES` names of the host, and the first `MOST_ENTRIES` entries with `MOST_BYTES`.
    """
    entries: list[str] = []
    own: dict[str, None] = {}
    size = 0
    for line in text.splitlines():
        address, *words = line.partition("#")[0].split() or [""]
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            continue
        # Files that block names may give all of them a loopback address.
        if parsed.is_loopback and len(own) >= MOST_OWN_NAMES:
            continue
        names = [word for word in words if is_for_guests(word)]
        if parsed.is_loopback:
            own.update(dict.fromkeys(names))
        # An address with a scope belongs to an interface of the host.
        elif names and "%" not in address and not parsed.is_multicast:
            entry = " ".join([str(parsed), *names])
            size += len(entry) + 1
            if size <= MOST_BYTES and len(entries) < MOST_ENTRIES:
                entries.append(entry)
    return HostNames(tuple(entries), tuple(own)[:MOST_OWN_NAMES])


def is_for_guests(text: str) -> bool:
    """Return whether the text is a host name that a guest may get from outside: not ``localhost``, for example."""
    return is_name(text) and not _LOCAL.fullmatch(text.lower())


def is_name(text: str) -> bool:
    """Return whether the text is a host name, which may have underscores as many real ones do."""
    return len(text) <= 253 and _NAME.fullmatch(text) is not None
