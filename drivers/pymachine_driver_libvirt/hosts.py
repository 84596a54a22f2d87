"""libvirt's connection URIs, and the names that users give to hosts in ``config.toml``.

That file is in the store's root::

    [libvirt.hosts]
    attic = "qemu+ssh://root@attic.example.org/system"
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pymachine.driver.errors import UsageError
from pymachine.driver.kit.system import toml_files

CONFIG_FILE = "config.toml"
# The transports that connect to this host.
_LOCAL = frozenset({"", "unix"})


class HostsError(UsageError):
    """The file with the hosts' names is not valid, or does not contain the name."""

    code = "libvirt-hosts"


def resolve(asked: str, store: Path) -> tuple[str, str]:
    """Return the name and the URI of the host `asked`, which is a name in config.toml or a URI (then the name is "").

    Raises `HostsError` for an unknown name, and `UsageError` for a URI that is not for QEMU.
    """
    if ":" in asked:
        check(asked)
        return "", asked
    known = read(store)
    if asked not in known:
        names = ", ".join(sorted(known)) or "none"
        raise HostsError(
            f"there is no libvirt host called {asked!r} in {store / CONFIG_FILE}",
            hint=f'Known hosts: {names}. To add one:\n[libvirt.hosts]\n{asked} = "qemu+ssh://root@HOST/system"',
        )
    check(known[asked])
    return asked, known[asked]


def read(store: Path) -> dict[str, str]:
    """Return the URIs of the named hosts by name; none if the file does not exist. Raises `HostsError`."""
    path = store / CONFIG_FILE
    document = toml_files.read(path, HostsError)
    section = document.get("libvirt", {})
    hosts = section.get("hosts", {}) if isinstance(section, dict) else None
    if not isinstance(hosts, dict) or not all(isinstance(uri, str) for uri in hosts.values()):
        raise HostsError(
            f'{path}: [libvirt.hosts] must have lines of the form NAME = "URI"',
            hint='For example: attic = "qemu+ssh://root@attic.example.org/system"',
        )
    return dict(hosts)


def check(uri: str) -> None:
    """Raise `UsageError` unless `uri` is for libvirt's QEMU driver."""
    if runs_program(uri):
        raise UsageError(
            f"{uri} would make libvirt run a program named in the URI, which is not allowed in a machine's record",
            hint="Do not use command= and qemu+ext. Options of ssh for that host can be in ~/.ssh/config.",
        )
    driver = urlsplit(uri).scheme.partition("+")[0]
    if driver == "qemu":
        return
    if driver == "test":
        raise UsageError(
            f"{uri} is libvirt's test driver, whose machines exist only in memory and run nothing",
            hint="Use qemu:///system, qemu:///session, or a remote one such as qemu+ssh://root@HOST/system.",
        )
    raise UsageError(
        f"--libvirt-uri is {uri!r}, expected a URI that begins with qemu: this driver's machines run in QEMU",
        hint="For example: qemu:///system, qemu:///session, qemu+ssh://root@HOST/system.",
    )


def runs_program(uri: str) -> bool:
    """Return whether the URI names a program for libvirt to run: the transport ``ext``, or ``command=``."""
    parts = urlsplit(uri)
    keys = {word.partition("=")[0].lower() for word in re.split("[&;]", unquote(parts.query))}
    return parts.scheme.endswith("+ext") or "command" in keys


def is_local(uri: str) -> bool:
    """Return whether the libvirt at `uri` is on this host."""
    parts = urlsplit(uri)
    return not parts.hostname and parts.scheme.partition("+")[2] in _LOCAL


def is_session(uri: str) -> bool:
    """Return whether `uri` is a user's own libvirt, which has no networks."""
    return urlsplit(uri).path.rstrip("/") == "/session"


def address(uri: str) -> str:
    """Return the host's name or address, or "" for this host."""
    return urlsplit(uri).hostname or ""
