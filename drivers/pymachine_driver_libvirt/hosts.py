"""Which libvirt a machine is on: connection URIs, and hosts that the user gave names in ``config.toml``.

The file is in the store's root::

    [libvirt.hosts]
    attic = "qemu+ssh://root@attic.example.org/system"
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pymachine.driver.errors import UsageError
from pymachine.driver.kit.system import os_errors

CONFIG_FILE = "config.toml"
# Transports whose other end is this host.
_LOCAL = frozenset({"", "unix"})


class HostsError(UsageError):
    """The file with the hosts' names cannot be read as one, or does not have the name."""

    code = "libvirt-hosts"


def resolve(asked: str, store: Path) -> tuple[str, str]:
    """The name (empty for a URI) and the URI of what `asked` means in the store at `store`.

    Raises `HostsError` for a name that is not known, and `UsageError` for a URI that is not one of QEMU's.
    """
    if ":" in asked:
        check(asked)
        return "", asked
    known = read(store)
    if asked not in known:
        names = ", ".join(sorted(known)) or "none"
        raise HostsError(
            f"there is no libvirt host called {asked!r} in {store / CONFIG_FILE}",
            hint=f'Hosts there: {names}. One is added so:\n[libvirt.hosts]\n{asked} = "qemu+ssh://root@HOST/system"',
        )
    check(known[asked])
    return asked, known[asked]


def read(store: Path) -> dict[str, str]:
    """All named hosts: name -> URI. Without a file there are none. Raises `HostsError`."""
    import tomllib  # noqa: PLC0415 (only for those who name a host)

    path = store / CONFIG_FILE
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise os_errors.wrapped(HostsError, f"cannot read {path}", error) from error
    except ValueError as error:
        raise HostsError(f"{path} is not TOML: {error}") from error
    section = document.get("libvirt", {})
    hosts = section.get("hosts", {}) if isinstance(section, dict) else None
    if not isinstance(hosts, dict) or not all(isinstance(uri, str) for uri in hosts.values()):
        raise HostsError(
            f'{path}: [libvirt.hosts] must have lines of the form NAME = "URI"',
            hint='For example: attic = "qemu+ssh://root@attic.example.org/system"',
        )
    return dict(hosts)


def check(uri: str) -> None:
    """Raise `UsageError` unless `uri` is of libvirt's QEMU driver."""
    if runs_program(uri):
        raise UsageError(
            f"{uri} has libvirt run a program of the URI's choice, which a machine's record must not",
            hint="Without command= and qemu+ext. What ssh needs for that host can be in ~/.ssh/config.",
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
        f"--libvirt-uri is {uri!r}: the machines of this driver are QEMU's, expected a URI that begins with qemu",
        hint="For example: qemu:///system, qemu:///session, qemu+ssh://root@HOST/system.",
    )


def runs_program(uri: str) -> bool:
    """Whether the URI itself names a program for libvirt to run: the transport ``ext``, or another ssh."""
    parts = urlsplit(uri)
    keys = {word.partition("=")[0].lower() for word in re.split("[&;]", unquote(parts.query))}
    return parts.scheme.endswith("+ext") or "command" in keys


def is_local(uri: str) -> bool:
    """Whether the libvirt at `uri` is on this host."""
    parts = urlsplit(uri)
    return not parts.hostname and parts.scheme.partition("+")[2] in _LOCAL


def is_session(uri: str) -> bool:
    """Whether it is a user's own libvirt, which has no networks."""
    return urlsplit(uri).path.rstrip("/") == "/session"


def address(uri: str) -> str:
    """The host's name or address; empty for this host."""
    return urlsplit(uri).hostname or ""
