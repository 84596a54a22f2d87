"""The command lines for OpenSSH's ssh and scp, and for rsync over it: pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from pymachine.ssh.target import Target

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


def options(target: Target) -> list[str]:
    """The options of ssh and scp alike, without the port: no configuration file, and the host key checked."""
    values = dict(_OPTIONS)
    if target.known_hosts is None:
        values |= {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null"}
    else:
        values |= {
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": f'"{target.known_hosts}"',
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": target.alias,
        }
    words = ["-F", "/dev/null"]
    for name, value in values.items():
        words += ["-o", f"{name}={value}"]
    if target.key is not None:
        words += ["-o", "IdentitiesOnly=yes", "-i", str(target.key)]
    return words


def ssh(program: str, target: Target, rest: Sequence[str], *, tty: bool = False) -> list[str]:
    """The command line that logs in, or that runs `rest` (which goes to ssh as it is: options may be in front)."""
    words = [program, *options(target), f"{target.user}@{target.host}", "-p", str(target.port)]
    if tty:
        words.append("-t")
    return [*words, *rest]


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
