"""The command lines for OpenSSH's ssh and scp, and for rsync over it: pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from pymachine.ssh.target import SshError, Target

_OPTIONS = {
    "ConnectionAttempts": "3",
    "ConnectTimeout": "10",
    "ControlMaster": "no",
    "ControlPath": "none",
    # docker-machine says "quiet", which hides why a connection failed.
    "LogLevel": "ERROR",
    "PasswordAuthentication": "no",
    "ServerAliveInterval": "60",
}


def settings(target: Target) -> dict[str, str]:
    """What ssh is told of `target`, as in its configuration file; the host key is checked. No key and no port here."""
    values = dict(_OPTIONS)
    if target.known_hosts is None:
        values |= {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null"}
    else:
        values |= {
            "StrictHostKeyChecking": "accept-new" if target.learn else "yes",
            "UpdateHostKeys": "no",
            "UserKnownHostsFile": f'"{target.known_hosts}"',
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": target.host_alias,
        }
    return values


def options(target: Target) -> list[str]:
    """The options of ssh and scp alike, without the port: no configuration file, and what `settings` has."""
    words = ["-F", "/dev/null"]
    for name, value in settings(target).items():
        words += ["-o", f"{name}={value}"]
    if target.key is not None:
        words += ["-o", "IdentitiesOnly=yes", "-i", str(target.key)]
    return words


def ssh(program: str, target: Target, rest: Sequence[str]) -> list[str]:
    """The command line that logs in, or that runs `rest` (which goes to ssh as it is: options may be in front)."""
    return [program, *options(target), f"{target.user}@{target.host}", "-p", str(target.port), *rest]


def sshfs(program: str, target: Target, path: str, point: str) -> list[str]:
    """The command line that mounts the folder `path` of `target` at `point`; sshfs knows ssh's settings by ``-o``."""
    values = {**settings(target), "Port": str(target.port)}
    if target.key is not None:
        values |= {"IdentitiesOnly": "yes", "IdentityFile": f'"{target.key}"'}
    words = [program, "-F", "/dev/null"]
    for name, value in values.items():
        escaped = value.replace("\\", "\\\\").replace(",", "\\,")  # a comma would end the option
        words += ["-o", f"{name}={escaped}"]
    host = f"[{target.host}]" if ":" in target.host else target.host
    if ":" in target.user:  # for SSHFS the host would end there
        raise SshError(f"SSHFS cannot log in as {target.user!r}: there is a colon in the name")
    return [*words, f"{target.user}@{host}:{path}", point]


def rsync_shell(target: Target) -> str:
    """The value of rsync's ``-e`` that reaches `target`."""
    words = ["ssh", *options(target), "-p", str(target.port)]
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    """`word` as rsync splits it: rsync knows quotes, but no backslashes."""
    if word and not set(word) & set(" '\""):
        return word
    if "'" not in word:
        return f"'{word}'"
    return '"' + word.replace('"', '""') + '"'
