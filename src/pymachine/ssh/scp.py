"""Copy files between machines and this computer: command lines of scp and rsync."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pymachine.ssh import openssh
from pymachine.ssh.target import Target

LOCALHOST = "localhost"


@dataclass(frozen=True)
class Location:
    """One end of a copy: a local path (`target` is None) or a path on a machine."""

    path: str
    target: Target | None = None


def parse(argument: str, resolve: Callable[[str, str | None], Target]) -> Location:
    """Parse ``[[user@]machine:]path``. ``localhost:`` means a local path.

    `resolve` returns the target for a machine and a user.
    """
    head, colon, path = argument.partition(":")
    if not colon or "/" in head:
        return Location(argument)
    user, at, machine = head.rpartition("@")
    if machine == LOCALHOST and not at:
        return Location(path)
    return Location(path, resolve(machine, user or None))


def scp(program: str, locations: Sequence[Location], *, config_file: str, recursive: bool, quiet: bool) -> list[str]:
    """Return scp's command line. ``-3`` sends a copy between two machines through this computer.

    scp's options apply to both machines, which differ in key, port and pinned host key. So `config_file`, with the
    text of `config`, has one section for each machine.
    """
    words = [program, "-3", "-F", config_file]
    if recursive:
        words.append("-r")
    if quiet:
        words.append("-q")
    return [*words, *(_remote(location) for location in locations)]


def config(targets: Sequence[Target]) -> str:
    """Return an ssh_config with one Host section for each machine."""
    blocks = []
    for target in {target.host_alias: target for target in targets}.values():
        lines = [
            f"Host {target.host_alias}",
            f"  HostName {target.host.replace('%', '%%')}",  # an IPv6 zone may follow a "%"
            f"  Port {target.port}",
            f"  User {target.user}",
        ]
        words = openssh.options(target)[2:]
        for flag, value in zip(words[::2], words[1::2], strict=True):
            name, _, setting = value.partition("=")
            lines.append(f'  IdentityFile "{value}"' if flag == "-i" else f"  {name} {setting}")
        blocks.append("\n".join(lines))
    return "\n".join(blocks) + "\n"


def rsync(program: str, locations: Sequence[Location], *, shell: str = "", recursive: bool, quiet: bool) -> list[str]:
    """Return rsync's command line. It copies only differences, to the last of `locations`. `shell` is for ``-e``.

    rsync cannot copy directly between two machines; see `relay`.
    """
    words = [program]
    if not quiet:
        words.append("--progress")
    if shell:
        words += ["-e", shell]
    if recursive:
        words.append("-r")
    for location in locations:
        words.append(_rsync_remote(location.target, location.path) if location.target else local_path(location.path))
    return words


def _rsync_remote(target: Target, path: str) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"{target.user}@{host}:{path}"


def relay(source: Location, folder: Path) -> list[Location]:
    """Return what to copy to the second machine after `source`, on the first one, was copied into `folder`."""
    if source.path.endswith("/"):
        return [Location(f"{folder}/")]  # a trailing slash makes rsync copy the folder's contents
    return [Location(str(path)) for path in sorted(folder.iterdir())]


def _remote(location: Location) -> str:
    if location.target is not None:
        return f"{location.target.host_alias}:{location.path}"
    return local_path(location.path)


def local_path(path: str) -> str:
    """Return `path` so that programs read it as a local path, not as ``host:path`` or an option."""
    if ":" in path.partition("/")[0] or path.startswith("-"):
        return f"./{path}"
    return path or "."
