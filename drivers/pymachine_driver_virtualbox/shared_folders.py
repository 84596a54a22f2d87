"""The folders of `BootRequest.shares` as shared folders of VirtualBox, which the guest mounts with vboxsf.

docker-machine's own share is in `shares`. Unlike in that one, guests make no symbolic links in these:
``SharedFoldersEnableSymlinksCreate`` is not set. VirtualBox checks the path that a guest requests only as text, and the
host resolves the links in it (``vbsfOpenFile`` in VirtualBox's ``SharedFolders/vbsf.cpp``). So a link of its own would
lead a hostile guest to any file of the user.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pymachine.driver.errors import DriverError, UsageError
from pymachine.driver.kit import guest_mounts
from pymachine.driver.kit.system import Reporter
from pymachine.driver.shares import Share, in_mount_order, problem
from pymachine_driver_virtualbox import output, shares as own_shares

if TYPE_CHECKING:
    from pymachine_driver_virtualbox.vboxmanage import VBoxManage

# VirtualBox itself shares at most 64 with a guest, among them docker-machine's and those of its own window.
MOST = 32
_NAME = re.compile(r"pymachine-[0-9a-f]{8}\Z")
# The image's user `docker`, to whom vboxsf gives all files. Other ids are not known to the host.
_OPTIONS = "uid=1000,gid=1000"
KIND = "vboxsf"


def name(share: Share) -> str:
    """Return the name of the share in VirtualBox, which is another one for each path, guest path and mode.

    A guest boots with the identity of its last start, and gets a new one later. With names such as share0, it would
    mount another folder in place of a removed one.
    """
    text = f"{share.path}\0{share.guest_path}\0{share.read_only}"
    return f"pymachine-{hashlib.sha256(os.fsencode(text)).hexdigest()[:8]}"


def by_name(shares: Iterable[Share]) -> dict[str, Share]:
    """Return the shares whose folder can be shared now by their names in VirtualBox, in mount order."""
    return {name(share): share for share in in_mount_order(list(shares)) if not problem(share)}


def existing(info: Mapping[str, str]) -> dict[str, str]:
    """Return the paths of the machine's folders of this kind by their names, from ``showvminfo``."""
    return {name: path for name, path in output.shared_folders(info).items() if _NAME.match(name)}


def others(info: Mapping[str, str]) -> list[own_shares.Share]:
    """Return the machine's other shared folders: docker-machine's, and those added in VirtualBox itself."""
    found = output.shared_folders(info)
    return [own_shares.Share(Path(path), name) for name, path in found.items() if not _NAME.match(name)]


def update(vbox: VBoxManage, vm: str, info: Mapping[str, str], shares: Iterable[Share]) -> None:
    """Make the shared folders of a machine that is off equal to `shares`. Only differences cost a call."""
    wanted, found = by_name(shares), existing(info)
    for each in found:
        if each not in wanted:
            vbox("sharedfolder", "remove", vm, "--name", each)
    for each, share in wanted.items():
        if each not in found:
            mode = ["--readonly"] if share.read_only else []
            vbox("sharedfolder", "add", vm, "--name", each, "--hostpath", share.path, *mode)


def with_mounts(identity: bytes, shares: Iterable[Share], shared: Collection[str] | None = None) -> bytes:
    """Return `identity` with the folders to mount added: those of `shares` whose names are among `shared`, if given."""
    mounts = [
        guest_mounts.Mount(kind=KIND, source=name, options=_OPTIONS, share=share)
        for name, share in by_name(shares).items()
        if shared is None or name in shared
    ]
    return guest_mounts.with_mounts(identity, mounts)


def not_mounted(proc_mounts: str, shared: Collection[str]) -> set[str]:
    """Return those of the names `shared` that are not in the guest's ``/proc/mounts``."""
    lines = [line.split(" ") for line in proc_mounts.splitlines()]
    return set(shared) - {words[0] for words in lines if len(words) > 2 and words[2] == KIND}


def check_resumable(
    machine: str, found: Mapping[str, str], shares: Sequence[Share], *, what: str, hint: str, reporter: Reporter
) -> None:
    """Check the folders `found` (paths by name) of a paused or saved machine, which VirtualBox cannot change.

    `what` is the state that has them. Raises `DriverError` if one is not shared any more, or at another path or in
    another mode: the resumed guest could use it. Warns of those that are missing.
    """
    wanted = {name(share) for share in shares}
    gone = sorted(str(path) for each, path in found.items() if each not in wanted)
    if gone:
        raise DriverError(
            f"{machine} cannot be resumed: {what} has shared folders that were changed since: {', '.join(gone)}",
            hint=hint,
        )
    for each, share in by_name(shares).items():
        if each not in found:
            reporter.warn(f"{share} is not shared until the machine starts without its memory: {what} lacks it.")


def check(shares: Sequence[Share], own: Iterable[own_shares.Share]) -> None:
    """Raise `UsageError` for shares that VirtualBox cannot take, or that conflict with docker-machine's share, `own`.

    VirtualBox 7.2 accepts commas, colons, quotes and blanks in a path, and paths of 4000 bytes.
    """
    if len(shares) > MOST:
        raise UsageError(
            f"a machine of the driver virtualbox shares at most {MOST} folders, not {len(shares)}",
            hint="Share a folder that contains several of them.",
        )
    for share in shares:
        try:
            os.fsencode(share.path).decode("utf-8")
        except UnicodeError as error:
            raise UsageError(
                f"{str(share)!a} cannot be shared: VirtualBox takes only paths in UTF-8",
                hint="Rename the folder, or share one above it.",
            ) from error
        for other in own:
            _check_pair(share, other)


def _check_pair(share: Share, other: own_shares.Share) -> None:
    point = PurePosixPath(other.mount_point)
    if share.read_only and share.path.resolve().is_relative_to(other.folder.resolve()):
        raise UsageError(
            f"{share} cannot be read-only: it is in {other.folder}, which the guest can change at {point}",
            hint=f"VirtualBox shares {other.folder} by --virtualbox-share-folder, or by docker-machine's default. "
            "A machine that is created with only --share lacks it.",
        )
    if point.is_relative_to(share.guest_path):
        raise UsageError(
            f"{share} cannot be shared: it would hide {other.folder}, which is shared at {point}",
            hint="Choose another GUEST_PATH, or another name in --virtualbox-share-folder.",
        )
    if share.guest_path.is_relative_to(point):
        inside = other.folder / share.guest_path.relative_to(point)
        if not inside.is_dir():
            raise UsageError(
                f"{share} cannot be mounted in {other.folder}: there is no folder {inside}",
                hint="Make that folder, or choose another GUEST_PATH.",
            )
