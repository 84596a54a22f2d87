"""Host entries for OpenSSH's configuration files, with which ``ssh NAME`` reaches a machine.

Unlike the command lines of `openssh`, an entry is read together with the user's own settings. So it has only the
options that lead to the machine, and those that must not come from another entry.
"""

from __future__ import annotations

import re
from pathlib import PurePath

from pymachine.ssh.target import SshError, Target

# OpenSSH replaces ``${NAME}`` by a variable of the environment, and has no way to write these characters.
_UNWRITABLE = re.compile(r"\$\{|[\x00-\x1f\x7f]")
_ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"', "%": "%%"})


class UnwritablePathError(SshError):
    """A path has characters that cannot be written in a configuration file of OpenSSH."""

    code = "ssh-config-path"


def options(target: Target) -> dict[str, str | PurePath]:
    """Return the options of the machine's entry, without quoting. A pinned host key is checked."""
    values: dict[str, str | PurePath] = {
        "HostName": target.host,
        "Port": str(target.port),
        "User": target.user,
        "PasswordAuthentication": "no",
        # A jump host that the user has set for all hosts does not lead to machines on this one.
        "ProxyCommand": "none",
    }
    if target.key is not None:
        values |= {"IdentityFile": target.key.absolute(), "IdentitiesOnly": "yes"}
    if target.known_hosts is None:
        # The host key is not checked, as in `openssh.settings`. Without "ERROR" each login would print a warning.
        return values | {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null", "LogLevel": "ERROR"}
    return values | {
        "HostKeyAlias": target.host_alias,
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "UserKnownHostsFile": target.known_hosts.absolute(),
        "GlobalKnownHostsFile": "/dev/null",
    }


def entry(target: Target) -> str:
    """Return the machine's entry as lines. Its name is `Target.host_alias`. Raises `UnwritablePathError`."""
    lines = [f"Host {target.host_alias}"]
    for name, value in options(target).items():
        if isinstance(value, PurePath):
            lines.append(f"    {name} {quoted_path(value)}")
        elif name == "HostName":  # an IPv6 zone may follow a "%"
            lines.append(f"    {name} {value.replace('%', '%%')}")
        else:
            lines.append(f"    {name} {_quoted(value)}")
    return "\n".join(lines) + "\n"


def quoted_path(path: PurePath) -> str:
    """Quote a path as OpenSSH 8.7 and later read it. Raises `UnwritablePathError`."""
    text = path.as_posix()  # On Windows, OpenSSH reads slashes too, and backslashes as escapes.
    if _UNWRITABLE.search(text):
        raise UnwritablePathError(
            f"the path {str(path)!r} cannot be written in a configuration file of OpenSSH",
            hint="It may have neither ${ nor control characters. Use `pymachine ssh` and `pymachine scp`, "
            "which can use any path, or move the store.",
        )
    return f'"{text.translate(_ESCAPED)}"'


def _quoted(value: str) -> str:
    """Quote a word, such as the user ``DOMAIN\\user``, unless it is plain."""
    if re.fullmatch(r"[\w.:/@+-]+", value, re.ASCII):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
