"""Mount shared folders over SSH, and raise events in them, where drivers leave that to the core.

See the abilities `SshShareable`, `LateShareable` and `SshNotifiable`. A process for each machine, the keeper, does the
work: see `pymachine.hosts.share_keeper`. It is part of the core, not of the drivers' kit: it logs in with the core's
SSH, reads the machine's record, and begins only after an existing host has been provisioned.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pymachine.driver import shares
from pymachine.driver.abilities import LateShareable, SshShareable
from pymachine.driver.contract import Driver, State
from pymachine.driver.shares import Share
from pymachine.errors import PymachineError, TimeoutExpiredError
from pymachine.hosts.host import Host
from pymachine.hosts.timeouts import boot_timeout
from pymachine.store import paths
from pymachine.system import printable, run
from pymachine.system.wait import until

if TYPE_CHECKING:
    from pymachine.ssh.reverse_sshfs.status import MountStatus


class ShareMountError(PymachineError):
    """A shared folder cannot be mounted in the machine."""

    code = "share-mount"


def applies_to(driver: Driver) -> bool:
    """Return whether the core mounts all shared folders of the driver's machine."""
    return isinstance(driver, SshShareable) and driver.shares_over_ssh()


def mounts_later(driver: Driver) -> bool:
    """Return whether the core mounts a shared folder of the driver's machine that was missing, once it is back."""
    return isinstance(driver, LateShareable) or applies_to(driver)


def check(driver: Driver) -> None:
    """Raise `ShareMountError` if the core should mount the machine's shared folders, but cannot on this host."""
    if applies_to(driver):
        _check_host()


def _check_host(*, only_events: bool = False) -> None:
    if sys.platform == "win32":
        raise ShareMountError("folders of Windows cannot be shared with this machine, which needs SSH for that")
    if run.which("ssh") is None:
        action = "changes in shared folders are reported to" if only_events else "folders are shared with"
        raise ShareMountError(
            f"{action} this machine by OpenSSH's client, ssh, which is not installed",
            hint="Install it, for example: apt-get install openssh-client",
        )


def mount(host: Host) -> None:
    """Mount those shares of a running machine that the core mounts, and keep them mounted. Return when they are.

    A share whose folder is missing is not waited for. A keeper that runs already takes a changed record over. If the
    machine cannot mount a folder, or does not within the time of a boot, the keeper goes on trying, and:

    - `SshShareable`: this function raises `ShareMountError`.
    - `LateShareable`, whose driver has mounted all other folders: it prints a warning.

    For `SshNotifiable`, whose driver has mounted all folders, it starts the keeper, which raises events.
    """
    # The keeper does not run on Windows, where `_check_host` refuses folders to mount.
    has_events = bool(host.shares_with_events_over_ssh()) and sys.platform != "win32"
    if not host.shares_over_ssh() and not has_events:
        end(host.directory)
        return
    try:
        _check_host(only_events=not host.shares_over_ssh())
        _mount(host)
    except ShareMountError as error:
        if applies_to(host.driver):
            raise
        host.reporter.warn(f"{error.brief}. {error.hint}".strip())


def _mount(host: Host) -> None:
    from pymachine.ssh.reverse_sshfs import background  # noqa: PLC0415 (few machines need it)

    if not all(map(shares.problem, host.shares_over_ssh())):
        host.reporter.info("Mounting the shared folders...")
    tried = _attempts(host)
    process: subprocess.Popen[bytes] | None = None
    background.retry(host.directory)
    waiting = ["The process that mounts them has not begun."]

    def are_mounted() -> bool:
        nonlocal process
        if process is None and not _runs(host):  # a keeper that was killed may still have run at first
            process = _start(host)
            tried.clear()
        if process is not None and process.poll() is not None:
            raise _error(host, "the process that mounts them has ended")
        waiting[:] = _unmounted(host, tried)
        return not waiting

    try:
        until(are_mounted, deadline=boot_timeout(), what="mount", interval=0.02, longest=0.2)
    except TimeoutExpiredError as error:
        raise _error(host, "; ".join(waiting)) from error
    finally:
        if process is not None:
            # Prevent the warning about a child that was not waited for: the keeper runs on.
            process.returncode = process.returncode or 0


def only_until_restart(host: Host) -> list[Share]:
    """Return the shares of a running machine that the core mounts until its next start: see `LateShareable`."""
    if applies_to(host.driver) or not host.shares_over_ssh() or host.driver.state() is not State.RUNNING:
        return []
    return host.shares_over_ssh()


def problem(folder: Path, share: Share, *, needs_keeper: bool = False) -> str:
    """Return why a share of the machine in `folder` is not mounted now, or an empty text.

    If no keeper runs, as for a machine that is stopped or whose driver mounts the folders, it is empty too, unless the
    share `needs_keeper`.
    """
    found = None
    if (folder / paths.SHARES_LOCK).exists():
        found = _known(folder).get(str(share))
    if found is None:
        return "the process that mounts it is not running" if needs_keeper else ""
    from pymachine.ssh.reverse_sshfs.status import MountState  # noqa: PLC0415 (few machines need it)

    if found.state is MountState.MOUNTED:
        return ""
    return printable.line(found.problem) or "it is being mounted"


def end(folder: Path) -> bool:
    """End the keeper of the machine in `folder`, which unmounts its shares. Return whether one ran.

    Raises `PymachineError` if it does not end.
    """
    if not (folder / paths.SHARES_LOCK).exists():
        return False
    from pymachine.ssh.reverse_sshfs import background  # noqa: PLC0415 (few machines need it)

    return background.end(folder)


@contextmanager
def unmounted(host: Host) -> Iterator[None]:
    """Unmount the shares for a block that stops the machine. If it fails, they are mounted again in the background."""
    ran = end(host.directory)
    try:
        yield
    except BaseException:
        if ran and not _runs(host):
            _start(host).returncode = 0  # it runs on
        raise


def _runs(host: Host) -> bool:
    from pymachine.ssh.reverse_sshfs import background  # noqa: PLC0415 (few machines need it)

    return background.find(host.directory) != 0


def _start(host: Host) -> subprocess.Popen[bytes]:
    from pymachine.ssh.reverse_sshfs import background  # noqa: PLC0415 (few machines need it)

    # -P: do not search the working directory for modules.
    argv = [sys.executable, "-P", "-m", "pymachine.hosts.share_keeper", str(host.store.root), host.name]
    return background.start(host.directory, argv)


def _known(folder: Path) -> Mapping[str, MountStatus]:
    """Return what the keeper that runs has recorded, by the text of each share."""
    from pymachine.ssh.reverse_sshfs import background, status  # noqa: PLC0415 (few machines need it)

    pid, known = background.find(folder), status.load(folder)
    return known.shares if known and known.pid == pid else {}


def _attempts(host: Host) -> dict[str, int]:
    return {text: known.attempts for text, known in _known(host.directory).items()}


def _unmounted(host: Host, tried: Mapping[str, int]) -> list[str]:
    """Return a line for each share that is not mounted or unmounted yet.

    A share whose folder vanished is not waited for. Raises `ShareMountError` if the machine refuses one, unless that
    came of an attempt that is counted in `tried`.
    """
    from pymachine.ssh.reverse_sshfs import status  # noqa: PLC0415 (few machines need it)

    known, wanted = _known(host.directory), [str(share) for share in host.shares_over_ssh()]
    lines = [f"{printable.line(text)}: it is not unmounted yet" for text in known if text not in wanted]
    for text in wanted:
        found = known.get(text)
        is_new = found is not None and found.attempts > tried.get(text, 0)
        if found and is_new and found.state is status.MountState.REFUSED:
            raise _error(host, f"{printable.line(text)}: {found.problem}")
        if found is None or found.state in (status.MountState.CONNECTING, status.MountState.REFUSED):
            why = found.problem if found else ""
            lines.append(f"{printable.line(text)}: {why or 'it is not mounted yet'}")
    return lines


def _error(host: Host, why: str) -> ShareMountError:
    return ShareMountError(
        f'the shared folders of "{host.name}" cannot be mounted: {why}',
        hint=f"The log is {host.directory / paths.SHARES_LOG}. To try again: pymachine start {shlex.quote(host.name)}",
    )
