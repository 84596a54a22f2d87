"""Errors of the operating system as messages: the reason, the file, and a hint what to do."""

from __future__ import annotations

import errno
import os
import stat
import sys
from typing import TypeVar

from pymachine.errors import PymachineError

ErrorT = TypeVar("ErrorT", bound=PymachineError)

STORE_OPTION = "--storage-path"
_ELSEWHERE = "choose another place with {elsewhere}."
_HINTS = {
    errno.ENOSPC: f"Free some space on that disk, or {_ELSEWHERE}",
    errno.EROFS: f"The file system is read-only: {_ELSEWHERE}",
    errno.EMFILE: "Raise the limit on open files (ulimit -n).",
    errno.ENFILE: "The whole system has too many files open: end programs, or raise fs.file-max.",
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), or use a file system that takes larger ones.",
    errno.ENAMETOOLONG: "Choose a shorter path with {elsewhere}.",
    errno.ENOTDIR: f"A file is where a folder should be: move it away, or {_ELSEWHERE}",
    errno.EISDIR: "A folder is where a file should be: move it away.",
    errno.ELOOP: "A symbolic link leads to itself: correct it, or remove it.",
    errno.EIO: "The disk cannot be read or written: see the kernel's log (dmesg).",
    errno.ENOMEM: "Free some memory, or raise the limit on it (ulimit -v).",
    errno.EAGAIN: "Raise the limit on processes (ulimit -u), or end some.",
}
NO_SPACE = {errno.ENOSPC}
if hasattr(errno, "EDQUOT"):  # not on Windows
    NO_SPACE.add(errno.EDQUOT)
    _HINTS[errno.EDQUOT] = f"Free some space within your quota, or {_ELSEWHERE}"


def wrapped(kind: type[ErrorT], what: str, error: OSError, *, elsewhere: str = STORE_OPTION) -> ErrorT:
    """Return an error of `kind` that says what failed, why, and what to do.

    `elsewhere` is the option or variable that chooses another place.
    """
    return kind(f"{what}: {reason(error, said=what)}", hint=hint(error, elsewhere=elsewhere))


def reason(error: OSError, *, said: str = "") -> str:
    """Return the system's reason, with the file that it is about unless `said` names it."""
    if _without_working_directory(error):
        return "the working directory no longer exists"
    text = error.strerror or str(error) or type(error).__name__
    file = _file(error)
    return f"{text}: {file}" if file and file not in said else text


def hint(error: OSError, *, elsewhere: str = STORE_OPTION) -> str:
    """Return a hint what to do about an error. It is empty if there is no general remedy."""
    if _without_working_directory(error):
        return "Change to a folder that exists, or use absolute paths."
    if error.errno in (errno.EACCES, errno.EPERM):
        text = _permission_hint(_file(error))
    else:
        text = _HINTS.get(error.errno or 0, "")
    return text.format(elsewhere=elsewhere)


def _without_working_directory(error: OSError) -> bool:
    """Return whether a relative path could not be resolved because the working directory was removed.

    Python reports that as a missing file without a name.
    """
    if error.errno != errno.ENOENT or error.filename is not None:
        return False
    try:
        os.getcwd()  # noqa: PTH109 (this is the call that fails)
    except FileNotFoundError:
        return True
    return False


def _file(error: OSError) -> str:
    if isinstance(error.filename, str | bytes | os.PathLike):
        return os.fsdecode(error.filename)
    return ""


def _permission_hint(file: str) -> str:
    """Return a hint that names the folder or file that denies access to `file`, and its owner."""
    found = _blocking(os.path.abspath(file)) if file else None  # noqa: PTH100 (links stay)
    if found is None:
        return f"Check who owns it and its mode, or {_ELSEWHERE}"
    place, owner, mode = found
    facts = f"{place} belongs to {owner} and has mode {mode:04o}".replace("{", "{{").replace("}", "}}")
    return f"{facts}: change its owner or its mode, or {_ELSEWHERE}"


def _blocking(file: str) -> tuple[str, str, int] | None:
    """Return the first parent of `file` that may not be entered, else `file` or its nearest existing parent."""
    place = os.sep
    for part in file.split(os.sep):  # noqa: PTH206
        below = os.path.join(place, part)  # noqa: PTH118
        try:
            status = os.stat(below)  # noqa: PTH116
        except OSError:
            break
        place = below
        if stat.S_ISDIR(status.st_mode) and not os.access(place, os.X_OK):
            break
    try:
        status = os.stat(place)  # noqa: PTH116
    except OSError:
        return None
    return place, _user(status.st_uid), stat.S_IMODE(status.st_mode)


def _user(number: int) -> str:
    if sys.platform == "win32":
        return f"user {number}"
    import pwd  # noqa: PLC0415 (not on Windows)

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
