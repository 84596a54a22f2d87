"""The CA certificates that this process's downloads trust in addition to the usual ones.

They are set once, at the start of a command that may download. Downloads run in threads and far below it.
"""

from __future__ import annotations

from collections.abc import Iterable

_added: dict[str, None] = {}


def add(certificates: Iterable[str]) -> None:
    """Trust `certificates`, in PEM, in downloads that begin from now on."""
    _added.update(dict.fromkeys(certificates))


def added() -> str:
    """Return the certificates that were added, in PEM; an empty text if there are none."""
    return "".join(_added)
