"""The shared folders of a machine: parse and check them, and leave out those whose folder vanished."""

from __future__ import annotations

import os
import posixpath
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pymachine.driver import fields
from pymachine.driver.abilities import DefaultShareable, Locatable, Shareable
from pymachine.driver.contract import Driver, Trait
from pymachine.driver.shares import MOST, Share, problem
from pymachine.errors import PymachineError, UsageError
from pymachine.hosts import ssh_shares
from pymachine.hosts.host import Host

# Guest paths that no share may be at or below: the guest's own system, and the engine's data.
_SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/home/docker", "/init", "/lib", "/lib32", "/lib64", "/libx32", "/proc"),
    *("/run", "/sbin", "/sys", "/usr", "/var/lib/boot2docker", "/var/lib/containerd", "/var/lib/docker"),
    *("/var/lock", "/var/log", "/var/run"),
)
# Folders of the guest that a share may be below, but not at, since their own content would be hidden.
_PARENTS = ("/", "/home", "/mnt", "/tmp", "/var", "/var/lib", "/var/tmp")  # noqa: S108
_DISK = re.compile(r"/mnt/[a-z]+\d+(?:/|\Z)")
_SHOWN_CHARACTERS = 120
_SHOWN_SHARES = 8
_WINDOWS_DRIVE = re.compile(r"([A-Za-z]):[\\/]")
_SYNTAX = "PATH[:GUEST_PATH][:ro]"
_NO_COLON = "A colon separates PATH and GUEST_PATH. docker run -v cannot name a folder with a colon in its path either."


class ShareError(UsageError):
    """A folder cannot be shared."""

    code = "share"


@dataclass(frozen=True, kw_only=True)
class ShareRequest:
    """The folders that a new machine shares."""

    shares: tuple[Share, ...] = ()
    is_default: bool = False
    """Whether they are a default. Folders of a default that cannot be shared are left out, with a warning."""
    problem: str = ""
    """Why there is no default, for a warning."""
    taken_over: bool = False
    """Whether another machine shares them already. They may be missing now, as at a start."""
    keeps_driver_defaults: bool = False
    """Whether a driver that is `DefaultShareable` may also share the folders that it shares by default."""


def parse(text: str, *, base: Path | None) -> Share:
    """Parse ``PATH[:GUEST_PATH][:ro]``. A relative PATH is relative to `base`, and refused without one.

    ``~`` is the user's home. Raises `ShareError`. Whether the folder exists is not checked.
    """
    _check_text(text, text)
    drive = _WINDOWS_DRIVE.match(text) if sys.platform == "win32" else None
    start = drive.end() if drive else 0
    words = text[start:].split(":")
    mode = words.pop() if len(words) > 1 and words[-1] in ("ro", "rw") else "rw"
    path, guest = text[:start] + words[0], words[1] if len(words) > 1 else ""
    if not path:
        raise ShareError(f"no folder to share in {shown(text)!r}: expected {_SYNTAX}")
    if len(words) > 2 or (len(words) == 2 and not guest.startswith("/")):
        raise ShareError(
            f"{shown(text)} cannot be shared: expected {_SYNTAX}, with an absolute GUEST_PATH", hint=_NO_COLON
        )
    folder = _absolute(path, text, base)
    return _share(folder, guest or _same_path(folder), text, read_only=mode == "ro")


def at_same_path(folder: Path) -> Share:
    """Return the share of the absolute path `folder` at its own path in the guest. Raises `ShareError`.

    Unlike in `parse`, a colon in the path separates nothing: it is refused.
    """
    if not folder.is_absolute():
        raise ShareError(f"{shown(folder)} cannot be shared: its path must be absolute")
    folder = Path(_normalized(str(folder)))
    return _share(folder, _same_path(folder), str(folder), read_only=False)


def check(shares: Sequence[Share], *, others: Sequence[Share] = ()) -> None:
    """Check that the folders can be shared now with one machine, which also has `others`. Raises `ShareError`."""
    for share in shares:
        why = problem(share)
        if why:
            raise ShareError(
                f"{shown(share)} cannot be shared: {why}", hint="Name a folder that exists and that you can read."
            )
    for index, share in enumerate(shares):
        for other in shares[:index]:
            _check_guest_paths(share, other)
    together = [*shares, *(other for other in others if other not in shares)]
    if len(together) > MOST:
        raise ShareError(f"a machine shares at most {MOST} folders, not {len(together)}")
    for share in together:
        for other in together:
            if share in shares or other in shares:
                _check_pair(share, other)


def accepted(driver: Driver, request: ShareRequest) -> list[Share]:
    """Return the shares of a new machine: those of `request`, or those of them that can be had if it is a default.

    The driver drops its own default shares from its configuration, unless `request` keeps them. Raises `ShareError` and
    the errors of `Shareable.check_shares` for shares that the user named.
    """
    if isinstance(driver, DefaultShareable) and not request.taken_over:
        if request.is_default and driver.chooses_shares():
            return []
        if not request.keeps_driver_defaults:
            driver.drop_default_shares()
    if request.is_default:
        return _accepted_defaults(driver, request)
    if request.shares and not request.taken_over:
        able = shareable(driver)
        check(request.shares)
        able.check_shares(request.shares)
    return list(request.shares)


def _accepted_defaults(driver: Driver, request: ShareRequest) -> list[Share]:
    if not is_on_this_host(driver):
        return []
    refused = request.problem
    found = []
    for share in request.shares:
        why = problem(share)
        if why:
            driver.reporter.warn(f"{shown(share)} is not shared with the machine: {why}. {_CHOOSE}")
        else:
            found.append(share)
    if found:
        try:
            check(found)
            shareable(driver).check_shares(found)
        except (UsageError, ssh_shares.ShareMountError) as error:
            refused = error.brief
        except PymachineError:
            return []  # `precreate_check` reports what the driver lacks
    if refused:
        driver.reporter.warn(f"The machine shares no folder with this host: {refused}. {_CHOOSE}")
        return []
    return found


_CHOOSE = "Choose others with --share, or none with --no-share."


def shareable(driver: Driver) -> Shareable:
    """Return the driver's ability to share folders.

    Raises `UnsupportedError` if it has none, and `ShareMountError` if the core would have to mount them, and cannot.
    """
    if not isinstance(driver, Shareable):
        raise driver.unsupported("shared folders")
    ssh_shares.check(driver)
    return driver


def is_on_this_host(driver: Driver) -> bool:
    """Return whether the machine runs on this host and can share its folders, as far as its driver says."""
    if Trait.PROVISION in driver.info.traits or not isinstance(driver, Shareable):
        return False
    return not (isinstance(driver, Locatable) and driver.location())


def warn_of_missing(host: Host) -> None:
    """Warn about shares whose folder vanished, which the machine starts without."""
    later = "It is mounted when it is back."
    if not ssh_shares.mounts_later(host.driver):
        later = "The first start after it is back shares it again."
    for share in host.record.shares:
        why = problem(share)
        if why:
            host.reporter.warn(f"{shown(share)} is not shared: {why}. {later}")


def changed(shares: Sequence[Share], *, added: Sequence[Share], removed: Sequence[str]) -> list[Share]:
    """Return the shares without those at the paths `removed`, and with `added`, which replace those at their path.

    Each of `removed` is the absolute path of a share on the host or in the guest, or the share as its text. Raises
    `ShareError` for an unknown one.
    """
    kept = list(shares)
    for word in removed:
        found = [share for share in kept if word in {str(share), str(share.path), str(share.guest_path)}]
        if not found:
            raise ShareError(
                f"{shown(word) or repr(word)} is not shared with the machine", hint=f"Shared folders: {listed(kept)}"
            )
        kept = [share for share in kept if share not in found]
    replaced = {share.guest_path for share in added}
    return [*(share for share in kept if share.guest_path not in replaced), *added]


def absolute(word: str, *, base: Path | None) -> str:
    """Return the absolute path that `word` stands for, on this host or in a guest, for `changed`.

    A relative one is relative to `base`. Without a `base`, and if it is empty, it stays as it is.
    """
    if word.startswith("/"):
        return "/" + posixpath.normpath(word).lstrip("/")
    if not word or base is None or not fields.TEXT.fits(word):
        return word
    expanded = os.path.expanduser(word)  # noqa: PTH111 (Path has no error for an unknown user)
    return _normalized(os.path.join(base, expanded))  # noqa: PTH118


def listed(shares: Sequence[Share]) -> str:
    """Return the shares as the end of a line."""
    more = len(shares) - _SHOWN_SHARES
    texts = [shown(share) for share in shares[:_SHOWN_SHARES]]
    return ", ".join([*texts, *([f"{more} more"] if more > 0 else [])]) or "no folder"


def shown(value: object) -> str:
    """Return a path for a message: not longer than a line."""
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}... ({len(text)} characters)"


def _check_guest_paths(share: Share, other: Share) -> None:
    """Raise `ShareError` if both are at the same path in the guest."""
    if share.guest_path != other.guest_path:
        return
    if share.path == other.path:
        raise ShareError(f"{shown(share.path)} is given twice", hint="Leave one out, or give it another GUEST_PATH.")
    raise ShareError(
        f"two folders cannot be shared at the same path in the guest: {shown(other)}, {shown(share)}",
        hint="Give one of them another path: PATH:GUEST_PATH",
    )


def _check_pair(share: Share, other: Share) -> None:
    """Raise `ShareError` if `share`, inside of `other`, would not be what it says."""
    # Not `Path.resolve`, which raises for a loop. A folder of `other` may have become one.
    inner, outer = (Path(os.path.realpath(each.path)) for each in (share, other))
    if share.read_only and not other.read_only and inner.is_relative_to(outer):
        raise ShareError(
            f"{shown(share)} cannot be read-only: it is in {shown(other)}, through which the guest can write to it",
            hint="Share both read-only, or share the other folders in it one by one.",
        )
    if share is other or not share.guest_path.is_relative_to(other.guest_path):
        return
    below = share.guest_path.relative_to(other.guest_path)
    point = other.path / below
    if not os.path.isdir(point):  # noqa: PTH112 (never raises)
        raise ShareError(
            f"{shown(share)} cannot be mounted in {shown(other)}: there is no folder {shown(point)}",
            hint="Make that folder, or choose another GUEST_PATH.",
        )
    # The guest would follow the link to a folder of its own.
    if Path(os.path.realpath(point)) != outer / below:
        raise ShareError(
            f"{shown(share)} cannot be mounted in {shown(other)}: {shown(point)} is, or is below, a symbolic link",
            hint=f"Choose another GUEST_PATH, or share {shown(inner)} at its own path.",
        )


def _share(folder: Path, guest: str, text: str, *, read_only: bool) -> Share:
    """Return the share of an absolute folder. Raises `ShareError` for a path that cannot be used."""
    # Not only `text`: the current folder and the home may have any name. The guest gets a line for each folder.
    _check_text(str(folder), text)
    if ":" in str(folder)[len(folder.drive) :]:
        raise ShareError(f"{shown(folder)} cannot be shared: its path contains a colon", hint=_NO_COLON)
    return Share(path=folder, guest_path=_guest_path(guest, text, folder), read_only=read_only)


def _check_text(path: str, text: str) -> None:
    """Raise `ShareError` for a path that docker, or a line of text, cannot have."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ShareError(f"{shown(text)} cannot be shared: its path is not UTF-8 text, as docker requires") from error
    if not fields.TEXT.fits(path):
        raise ShareError(f"{shown(text)} cannot be shared: its path contains a control character")


def _absolute(path: str, text: str, base: Path | None) -> Path:
    expanded = os.path.expanduser(path)  # noqa: PTH111 (Path has no error for an unknown user)
    if not os.path.isabs(expanded) and base is None:  # noqa: PTH117
        raise ShareError(f"{shown(text)} cannot be shared: its path must be absolute, or begin with ~/")
    # Not resolved: `docker run -v "$PWD:/src"` names the folder by the path that the shell shows.
    return Path(_normalized(os.path.join(base or "/", expanded)))  # noqa: PTH118


def _normalized(path: str) -> str:
    """Return the path without ``.``, ``..`` and superfluous slashes, as docker does: two at the beginning, too."""
    normal = os.path.normpath(path)
    return normal[1:] if os.sep == "/" and normal.startswith("//") else normal


def _same_path(folder: Path) -> str:
    """Return the guest path of a folder that is shared at its own path, as /c/Users for Windows."""
    if not folder.drive:
        return str(folder)
    return f"/{folder.drive[0].lower()}{folder.as_posix()[len(folder.drive) :]}"


def _guest_path(path: str, text: str, folder: Path) -> PurePosixPath:
    """Return the path in the guest, if `folder` can be mounted there. Raises `ShareError`."""
    guest = PurePosixPath("/" + path.strip("/"))
    if ".." in guest.parts:
        raise ShareError(f"{shown(text)} cannot be shared: its path in the guest contains ..")
    if str(guest) == "/":
        raise ShareError(
            f"{shown(text)} cannot be shared: / is the guest's own root",
            hint="Name the folders that the machine needs, or another path in the guest: --share PATH:GUEST_PATH",
        )
    for hidden in _hidden(guest):
        elsewhere = shlex.quote(f"{folder}:/host{guest}")
        raise ShareError(
            f"{shown(text)} cannot be shared: in the guest it would hide {hidden}",
            hint=f"Choose another path in the guest: --share {shown(elsewhere)}",
        )
    return guest


def _hidden(guest: PurePosixPath) -> Iterator[str]:
    """Yield the paths of the guest's system that a folder mounted at `guest` would hide."""
    if str(guest) in _PARENTS or _DISK.match(str(guest)):
        yield f"{guest}"
    for path in _SYSTEM:
        if guest.is_relative_to(path):
            yield path
