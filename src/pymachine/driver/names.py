"""Check machine names, and derive host names from them."""

from __future__ import annotations

import os
import re

from pymachine.errors import InvalidNameError

# docker-machine's own pattern, with the maximum length of a Linux host name.
NAME_PATTERN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-.]*\Z")
NAME_LENGTH = 63
# Names that older versions of docker-machine allowed, and that Linux accepts as host names and OpenSSH as words.
_WORD = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_\-.]*\Z")
_DIGEST_LENGTH = 6


def check_new_name(name: str) -> None:
    """Raise `InvalidNameError` unless a new machine can be called `name`, which becomes a host name and a folder."""
    if not NAME_PATTERN.match(name):
        raise InvalidNameError(
            "Error creating machine: Invalid hostname specified. Allowed hostname chars are: 0-9a-zA-Z . -",
            hint=f"The name given is {name!r}; it must begin with a letter or a digit.",
        )
    if len(name) > NAME_LENGTH:
        raise InvalidNameError(
            f"Error creating machine: Invalid hostname specified. It has {len(name)} characters; "
            f"at most {NAME_LENGTH} fit into a hostname"
        )


def is_folder_name(name: str) -> bool:
    """Return whether a machine called `name` can exist: one component of a path, and not hidden.

    Everything else (``..``, a path, NUL) must not be joined to a path.
    """
    separators = {os.sep, os.altsep, "\0"}
    return bool(name) and not name.startswith(".") and not any(each in name for each in separators if each)


def host_name(name: str) -> str:
    """Return a host name for the machine `name`: the name itself if it is valid, or otherwise one made from it.

    A digest keeps host names of different machines apart.
    """
    if _WORD.match(name) and len(name) <= NAME_LENGTH:
        return name
    import hashlib  # noqa: PLC0415 (loads OpenSSL, which most names do not need)

    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:_DIGEST_LENGTH]
    kept = re.sub(r"[^a-zA-Z0-9\-.]+", "-", name).strip("-.")[: NAME_LENGTH - _DIGEST_LENGTH - 1]
    return f"{kept}-{digest}" if kept else f"machine-{digest}"
