"""The shared folders of a machine: parse and check them, and leave out those whose folder vanished."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pymachine.driver.abilities import DefaultShareable, Locatable, Shareable
from pymachine.driver.contract import Driver, Trait
from pymachine.driver.shares import Share, problem
from pymachine.errors import PymachineError, UsageError
from pymachine.system.progress import Reporter

# Guest paths that no share may be at or below: the guest's own system, and the engine's data.
_SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/home/docker", "/init", "/lib", "/lib32", "/lib64", "/libx32", "/proc"),
    *("/run", "/sbin", "/sys", "/usr", "/var/lib/boot2docker", "/var/lib/containerd", "/var/lib/docker"),
    *("/var/log", "/var/run"),
)
# Folders of the guest that a share may be below, but not at, since their own content would be hidden.
_PARENTS = ("/", "/home", "/mnt", "/tmp", "/var", "/var/lib", "/var/tmp")  # noqa: S108
_DISK = re.compile(r"/mnt/[a-z]+\d+(?:/|\Z)")
_SHOWN_CHARACTERS = 120
_WINDOWS_DRIVE = re.compile(r"([A-Za-z]):[\\/]")


class ShareError(UsageError):
    """A folder cannot be shared."""

    code = "share"


@dataclass(frozen=True, kw_only=True)
class ShareRequest:
    """The folders that a new machine shares."""

    shares: tuple[Share, ...] = ()
    is_default: bool = False
    """Whether the user has not asked for them. Then a driver that cannot share them creates the machine without."""
    keeps_driver_defaults: bool = False
    """Whether a driver that is `DefaultShareable` may also share the folders that it shares by default."""


def parse(text: str, *, base: Path | None) -> Share:
    """Parse ``PATH[:GUEST_PATH][:ro]``. A relative PATH is relative to `base`, and refused without one.

    ``~`` is the user's home. Raises `ShareError`. Whether the folder exists is not checked.
    """
    if not text or not text.isprintable():
        raise ShareError(
            f"{_shown(text)} cannot be shared: expected PATH[:GUEST_PATH][:ro], without control characters"
        )
    drive = _WINDOWS_DRIVE.match(text) if sys.platform == "win32" else None
    start = drive.end() if drive else 0
    words = text[start:].split(":")
    mode = words.pop() if len(words) > 1 and words[-1] in ("ro", "rw") else "rw"
    path, guest = text[:start] + words[0], words[1] if len(words) > 1 else ""
    if len(words) > 2 or (len(words) == 2 and not guest.startswith("/")):
        raise ShareError(
            f"{_shown(text)} cannot be shared: expected PATH[:GUEST_PATH][:ro], with an absolute GUEST_PATH",
            hint="A folder with a colon in its path cannot be shared: docker run -v could not name it.",
        )
    folder = _absolute(path, text, base)
    return Share(path=folder, guest_path=_guest_path(guest or _same_path(folder), text), read_only=mode == "ro")


def check(shares: Sequence[Share], *, others: Sequence[Share] = ()) -> None:
    """Check that the folders can be shared now with one machine, which also has `others`. Raises `ShareError`."""
    for share in shares:
        why = problem(share)
        if why:
            raise ShareError(f"{_shown(share)} cannot be shared: {why}")
    for index, share in enumerate(shares):
        for other in shares[:index]:
            if share.guest_path == other.guest_path:
                raise ShareError(f"two folders cannot be shared at the same path: {_shown(other)}, {_shown(share)}")
    together = [*shares, *(other for other in others if other not in shares)]
    for share in together:
        for other in together:
            if share in shares or other in shares:
                _check_pair(share, other)


def accepted(driver: Driver, request: ShareRequest) -> list[Share]:
    """Return the shares of a new machine: those of `request`, or none if they are the default and cannot be had.

    The driver drops its own default shares from its configuration, unless `request` keeps them. Raises `ShareError` and
    the errors of `Shareable.check_shares` for shares that the user asked for.
    """
    if isinstance(driver, DefaultShareable):
        if request.is_default and driver.chooses_shares():
            return []
        if not request.keeps_driver_defaults:
            driver.drop_default_shares()
    if not request.shares:
        return []
    if request.is_default and not is_on_this_host(driver):
        return []
    try:
        check(request.shares)
        shareable(driver).check_shares(request.shares)
    except PymachineError as error:
        if not request.is_default:
            raise
        driver.reporter.warn(f"The machine shares no folder with this host: {error.brief}")
        return []
    return list(request.shares)


def shareable(driver: Driver) -> Shareable:
    """Return the driver's ability to share folders. Raises `UnsupportedError` if it has none."""
    if not isinstance(driver, Shareable):
        raise driver.unsupported("shared folders")
    return driver


def is_on_this_host(driver: Driver) -> bool:
    """Return whether the machine runs on this host, as far as its driver says."""
    if Trait.PROVISION in driver.info.traits or not isinstance(driver, Shareable):
        return False
    return not (isinstance(driver, Locatable) and driver.location())


def warn_of_missing(shares: Sequence[Share], reporter: Reporter) -> None:
    """Warn about shares whose folder vanished, which the machine starts without."""
    for share in shares:
        why = problem(share)
        if why:
            reporter.warn(f"{_shown(share)} is not shared: {why}. The next start with it shares it again.")


def changed(shares: Sequence[Share], *, added: Sequence[Share], removed: Sequence[str]) -> list[Share]:
    """Return the shares without those at the paths `removed`, and with `added`, which replace those at their path.

    Each of `removed` is the path of a share on the host or in the guest. Raises `ShareError` for an unknown one.
    """
    kept = list(shares)
    for word in removed:
        names = {word.rstrip("/") or "/", os.path.abspath(os.path.expanduser(word))}  # noqa: PTH100, PTH111
        found = [share for share in kept if {str(share.path), str(share.guest_path)} & names]
        if not found:
            shared = ", ".join(map(str, kept)) or "none"
            raise ShareError(f"{_shown(word)} is not shared with the machine", hint=f"Shared folders: {shared}")
        kept = [share for share in kept if share not in found]
    replaced = {share.guest_path for share in added}
    return [*(share for share in kept if share.guest_path not in replaced), *added]


def _check_pair(share: Share, other: Share) -> None:
    """Raise `ShareError` if `share`, inside of `other`, would not be what it says."""
    inner, outer = share.path.resolve(), other.path.resolve()
    if share.read_only and not other.read_only and inner.is_relative_to(outer):
        raise ShareError(
            f"{_shown(share)} cannot be read-only: it is in {_shown(other)}, through which the guest can write to it",
            hint="Share both read-only, or share the other folders in it one by one.",
        )
    if share is other or not share.guest_path.is_relative_to(other.guest_path):
        return
    point = other.path / share.guest_path.relative_to(other.guest_path)
    if not point.is_dir():
        raise ShareError(
            f"{_shown(share)} cannot be mounted in {_shown(other)}: there is no folder {_shown(point)}",
            hint="Make that folder, or choose another GUEST_PATH.",
        )


def _absolute(path: str, text: str, base: Path | None) -> Path:
    if not path:
        raise ShareError(f"{_shown(text)} cannot be shared: it has no PATH")
    expanded = os.path.expanduser(path)  # noqa: PTH111 (Path has no error for an unknown user)
    if not os.path.isabs(expanded) and base is None:  # noqa: PTH117
        raise ShareError(f"{_shown(text)} cannot be shared: its path must be absolute, or begin with ~/")
    # Not resolved: `docker run -v "$PWD:/src"` names the folder by the path that the shell shows.
    return Path(os.path.normpath(os.path.join(base or "/", expanded)))  # noqa: PTH118


def _same_path(folder: Path) -> str:
    """Return the guest path of a folder that is shared at its own path, as /c/Users for Windows."""
    if not folder.drive:
        return str(folder)
    return f"/{folder.drive[0].lower()}{folder.as_posix()[len(folder.drive) :]}"


def _guest_path(path: str, text: str) -> PurePosixPath:
    """Return the path in the guest, if a folder can be mounted there. Raises `ShareError`."""
    guest = PurePosixPath("/" + path.strip("/"))
    if ".." in guest.parts:
        raise ShareError(f"{_shown(text)} cannot be shared: its path in the guest contains ..")
    if str(guest) == "/":
        raise ShareError(f"{_shown(text)} cannot be shared: / is the guest's own root")
    for hidden in _hidden(guest):
        raise ShareError(
            f"{_shown(text)} cannot be shared: in the guest it would hide {hidden}",
            hint=f"Choose another path in the guest: --share {_shown(path)}:/host{_shown(guest)}",
        )
    return guest


def _hidden(guest: PurePosixPath) -> Iterator[str]:
    """Yield the paths of the guest's system that a folder mounted at `guest` would hide."""
    if str(guest) in _PARENTS or _DISK.match(str(guest)):
        yield f"{guest}"
    for path in _SYSTEM:
        if guest.is_relative_to(path):
            yield path


def _shown(value: object) -> str:
    """Return a path for a message: not longer than a line."""
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}... ({len(text)} characters)"
