"""Build command lines for OpenSSH's ssh, for sshfs, and for rsync over ssh."""

from __future__ import annotations

from collections.abc import Sequence

from pymachine.ssh.target import SshError, Target

_OPTIONS = {
    "ConnectionAttempts": "3",
    "ConnectTimeout": "10",
    "ControlMaster": "no",
    "ControlPath": "none",
    # docker-machine uses "quiet", which hides why a connection failed.
    "LogLevel": "ERROR",
    "PasswordAuthentication": "no",
    "ServerAliveInterval": "60",
}


def settings(target: Target) -> dict[str, str]:
    """Return the ssh_config settings for `target`, without key and port. A pinned host key is checked."""
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
    """Return the options that ssh and scp share: no configuration file, and `settings`. The port is not included."""
    words = ["-F", "/dev/null"]
    for name, value in settings(target).items():
        words += ["-o", f"{name}={value}"]
    if target.key is not None:
        words += ["-o", "IdentitiesOnly=yes", "-i", str(target.key)]
    return words


def ssh(program: str, target: Target, rest: Sequence[str]) -> list[str]:
    """Return the command line that logs in or runs `rest`, which ssh gets unchanged: it may begin with options."""
    return [program, *options(target), f"{target.user}@{target.host}", "-p", str(target.port), *rest]


def sshfs(program: str, target: Target, path: str, point: str) -> list[str]:
    """Return the command line that mounts the folder `path` of `target` at `point`."""
    values = {**settings(target), "Port": str(target.port)}
    if target.key is not None:
        values |= {"IdentitiesOnly": "yes", "IdentityFile": f'"{target.key}"'}
    words = [program, "-F", "/dev/null"]
    for name, value in values.items():
        escaped = value.replace("\\", "\\\\").replace(",", "\\,")  # a comma would end the option
        words += ["-o", f"{name}={escaped}"]
    host = f"[{target.host}]" if ":" in target.host else target.host
    if ":" in target.user:  # SSHFS would split the address there
        raise SshError(f"SSHFS cannot log in as {target.user!r}: the name contains a colon")
    return [*words, f"{target.user}@{host}:{path}", point]


def rsync_shell(target: Target) -> str:
    """Return the value of rsync's ``-e`` that connects to `target`."""
    words = ["ssh", *options(target), "-p", str(target.port)]
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    """Quote `word` for rsync, which understands quotes but not backslashes."""
    if word and not set(word) & set(" '\""):
        return word
    if "'" not in word:
        return f"'{word}'"
    return '"' + word.replace('"', '""') + '"'
