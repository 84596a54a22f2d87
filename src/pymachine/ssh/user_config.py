"""The user's own configuration file of OpenSSH: add and remove an ``Include`` line, and list its hosts."""

from __future__ import annotations

import glob
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath

from pymachine.ssh.target import SshError
from pymachine.system import files, os_errors

# OpenSSH reads the path as a pattern, and its versions differ in the escapes for these characters.
_SPECIAL = re.compile(r'[%$"\\*?\[\]{}\x00-\x1f\x7f]')
_LOCK_SECONDS = 60.0
_LONGEST = 16 << 20
# OpenSSH's own limit for files that include others.
_DEEPEST = 16
_LINE = re.compile(r"(\w+)(?:\s*=\s*|\s+)(.*)")
# Options that say where a host is. An entry without them only adds settings to another one.
_ADDRESS_OPTIONS = {"hostname", "port", "user", "proxycommand", "proxyjump"}


class UserConfigError(SshError):
    """The user's configuration file of OpenSSH cannot be read or changed."""

    code = "ssh-user-config"


def path() -> Path:
    """Return the path of the user's configuration file, ``~/.ssh/config``."""
    return Path(os.path.expanduser("~"), ".ssh", "config")  # noqa: PTH111 (never raises)


def read_by_openssh() -> Path:
    """Return the path of the file that OpenSSH reads: it does not use HOME."""
    if sys.platform == "win32":
        return path()
    import pwd  # noqa: PLC0415 (not on Windows)

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir, ".ssh", "config")
    except KeyError:
        return path()


def include_line(included: PurePath) -> str:
    """Return the line that includes the file `included`."""
    return f'Include "{_SPECIAL.sub("?", included.as_posix())}"'


def add(included: Path) -> bool:
    """Include the file `included`, before all other lines. Return whether that is a change.

    The rest of the file, its mode, its owner and a symbolic link at its path are kept. Raises `UserConfigError`.
    """
    line = os.fsencode(include_line(included))
    with _changing(included) as config:
        before = _read(config)
        if line in _global_lines(before):
            return False
        files.rewrite(config, line + b"\n" + _without(before, line))
        return True


def remove(included: Path) -> bool:
    """Remove the line that includes the file `included`. Return whether there was one. Raises `UserConfigError`."""
    if not os.path.lexists(path()):
        return False
    line = os.fsencode(include_line(included))
    with _changing(included) as config:
        before = _read(config)
        after = _without(before, line)
        if after != before:
            files.rewrite(config, after)
        return after != before


def hosts(*, without: Path) -> set[str]:
    """Return the names of hosts whose address the user has set, but not those of the included file `without`.

    Patterns are left out, and so are files that cannot be read.
    """
    return set(_hosts(path(), without, 0))


@contextmanager
def _changing(included: Path) -> Iterator[Path]:
    """Lock the user's file, and yield its path. Raises `UserConfigError` for an OSError."""
    config = path()
    lock = config.with_name(".pymachine.lock")
    try:
        with files.acquire_lock(lock, timeout=_LOCK_SECONDS):
            try:
                yield config
            finally:
                files.discard_lock(lock)
    except OSError as error:  # a TimeoutError, too
        wrapped = os_errors.wrapped(UserConfigError, f"cannot change {config}", error, elsewhere="HOME")
        wrapped.hint = f"{wrapped.hint}\nThe line to have or not to have in it: {include_line(included)}".strip()
        raise wrapped from error


def _read(config: Path) -> bytes:
    try:
        return files.read_regular(config, longest=_LONGEST)
    except FileNotFoundError:
        return b""


def _without(content: bytes, line: bytes) -> bytes:
    return b"".join(each for each in content.splitlines(keepends=True) if each.strip() != line)


def _global_lines(content: bytes) -> list[bytes]:
    """Return the lines that hold for all hosts: those before the first Host or Match."""
    lines = []
    for line in content.splitlines():
        if re.match(rb"\s*(?:host|match)\b", line, re.IGNORECASE):
            break
        lines.append(line.strip())
    return lines


def _hosts(config: Path, without: Path, depth: int) -> Iterator[str]:
    try:
        text = files.read_regular(config, longest=_LONGEST).decode(errors="surrogateescape")
    except OSError:
        return
    names: list[str] = []
    for line in text.splitlines():
        found = _LINE.match(line.strip())
        if found is None:
            continue
        keyword, rest = found[1].lower(), found[2]
        if keyword in ("host", "match"):
            names = [word for word in _words(rest) if not set(word) & set("*?!")] if keyword == "host" else []
        elif keyword in _ADDRESS_OPTIONS:
            yield from names
        elif keyword == "include" and depth < _DEEPEST:
            for file in _included(rest):
                if file != without:
                    yield from _hosts(file, without, depth + 1)


def _included(rest: str) -> Iterator[Path]:
    for word in _words(rest):
        pattern = os.path.join(path().parent, os.path.expanduser(word))  # noqa: PTH111, PTH118 (a pattern)
        yield from map(Path, sorted(glob.glob(pattern)))  # noqa: PTH207 (it may be absolute)


def _words(text: str) -> list[str]:
    with suppress(ValueError):  # a quote without end
        return shlex.split(text, comments=True)
    return []
