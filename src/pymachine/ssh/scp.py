"""Copying between machines and this host: the command lines of scp and rsync."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymachine.ssh import openssh
from pymachine.ssh.target import Target

LOCALHOST = "localhost"


@dataclass(frozen=True)
class Place:
    """One end of a copy: a path here (`target` is None), or on a machine."""

    path: str
    target: Target | None = None


def parse(argument: str, resolve: Callable[[str, str | None], Target]) -> Place:
    """``[[user@]machine:]path``; ``localhost:`` is here. `resolve` gives the target of a machine and a user."""
    head, colon, path = argument.partition(":")
    if not colon or "/" in head:
        return Place(argument)
    user, at, machine = head.rpartition("@")
    if machine == LOCALHOST and not at:
        return Place(path)
    return Place(path, resolve(machine, user or None))


def scp(program: str, places: Sequence[Place], *, config_file: str, recursive: bool, quiet: bool) -> list[str]:
    """The command line of scp. ``-3`` sends what goes between two machines through this host.

    Two machines differ in key, port and pinned host key, and scp's options are for both alike: `config_file` has
    the text of `config`, a section for each.
    """
    words = [program, "-3", "-F", config_file]
    if recursive:
        words.append("-r")
    if quiet:
        words.append("-q")
    return [*words, *(_remote(place) for place in places)]


def config(targets: Sequence[Target]) -> str:
    """An ssh_config with one Host a machine: what differs between the two ends of a copy."""
    blocks = []
    for target in {target.host_alias: target for target in targets}.values():
        lines = [
            f"Host {target.host_alias}",
            f"  HostName {target.host.replace('%', '%%')}",  # the zone of an address
            f"  Port {target.port}",
            f"  User {target.user}",
        ]
        words = openssh.options(target)[2:]
        for flag, value in zip(words[::2], words[1::2], strict=True):
            name, _, setting = value.partition("=")
            lines.append(f'  IdentityFile "{value}"' if flag == "-i" else f"  {name} {setting}")
        blocks.append("\n".join(lines))
    return "\n".join(blocks) + "\n"


def rsync(program: str, places: Sequence[Place], *, shell: str = "", recursive: bool, quiet: bool) -> list[str]:
    """The command line of rsync, which copies only what differs, to the last of `places`; `shell` is for its ``-e``.

    rsync itself cannot copy between two machines: see `relay`.
    """
    words = [program]
    if not quiet:
        words.append("--progress")
    if shell:
        words += ["-e", shell]
    if recursive:
        words.append("-r")
    for place in places:
        words.append(_rsync_remote(place.target, place.path) if place.target else local(place.path))
    return words


def _rsync_remote(target: Target, path: str) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{target.user}@{host}:{path}"


def relay(source: Place, folder: Path) -> list[Place]:
    """What to send on of `source`, a place on a machine, once it has been copied into `folder`."""
    if source.path.endswith("/"):
        return [Place(f"{folder}/")]  # rsync takes what is in a folder whose name ends so
    return [Place(str(path)) for path in sorted(folder.iterdir())]


def _remote(place: Place) -> str:
    if place.target is not None:
        return f"{place.target.host_alias}:{place.path}"
    return local(place.path)


def local(path: str) -> str:
    """`path`, so that programs take it for one here: not its head for a host, and not a dash for an option."""
    if ":" in path.partition("/")[0] or path.startswith("-"):
        return f"./{path}"
    return path or "."
