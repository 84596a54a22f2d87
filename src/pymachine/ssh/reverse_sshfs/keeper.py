"""Keep the shared folders of one machine mounted: connect again after a lost connection, a reboot, or an end of sshfs.

A folder that vanishes from this host is unmounted, and mounted again when it is back. A folder inside of another one is
mounted after that.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pymachine.driver.shares import Share, in_mount_order, problem
from pymachine.errors import PymachineError
from pymachine.ssh.background import END, RETRY
from pymachine.ssh.reverse_sshfs import status
from pymachine.ssh.reverse_sshfs.order import Event, Order, Report
from pymachine.ssh.reverse_sshfs.status import MountState, MountStatus, Status
from pymachine.ssh.target import Target
from pymachine.system import os_errors, printable
from pymachine.system.wait import GrowingPause

_TICK_SECONDS = 1.0
# Longer than a session takes to end ssh; see `remote_script.end`.
_END_SECONDS = 15.0
_CHUNK = 65536

_CRASHED = Report(event=Event.LOST, problem="the process that served the folder has ended")

Say = Callable[[str], None]
FindTarget = Callable[[], Target]
"""Return the machine's SSH endpoint. Raises `PymachineError` if there is none now."""


class _Mount:
    """Keeps one folder mounted, by one session after the other."""

    def __init__(self, share: Share, *, source: str, target: FindTarget, say: Say) -> None:
        self.share = share
        self.status = MountStatus(MountState.CONNECTING)
        self._source = source
        self._target = target
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._received = b""
        self._last = _CRASHED
        self._folder: tuple[int, int] | None = None
        self._began = 0.0
        self._pause = GrowingPause()
        self._retry_at = 0.0
        self._attempts = 0

    @property
    def is_mounted(self) -> bool:
        """Whether the machine says so."""
        return self.status.state is MountState.MOUNTED

    def fileno(self) -> int | None:
        """Return the descriptor that becomes readable if the session reports something; None without a session."""
        return self._process.stdout.fileno() if self._process and self._process.stdout else None

    def update(self, *, may_mount: bool) -> None:
        """Start or end the session as necessary. Without `may_mount` the folder around this one is not mounted."""
        self._take_reports()
        why = problem(self.share)
        if self._process and (why or not may_mount or _identity(self.share.path) != self._folder):
            # A new folder at the same path is another one: the session would serve the removed one.
            self.end()
            self._retry_at = 0.0
        if why:
            self._set(MountState.MISSING, why)
        elif self._process is None and may_mount and time.monotonic() >= self._retry_at:
            self._begin()

    def end(self) -> None:
        """End the session, which unmounts the folder."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)
            self._set(MountState.CONNECTING)

    def retry(self) -> None:
        """Try again now if the folder is not mounted."""
        self._pause, self._retry_at = GrowingPause(), 0.0

    def _begin(self) -> None:
        if sys.platform == "win32":  # where `ssh_shares.check` refuses such shares
            return
        self._attempts += 1
        self._began = time.monotonic()
        self._received, self._last = b"", _CRASHED
        self._folder = _identity(self.share.path)
        if self.status.state is MountState.MISSING:
            self._set(MountState.CONNECTING)
        try:
            order = Order(target=self._target(), share=self.share, source=self._source)
            # -P: do not search the working directory for modules.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pymachine.ssh.reverse_sshfs.session"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert self._process.stdin is not None  # noqa: S101 (for the type checker)
            assert self._process.stdout is not None  # noqa: S101
            os.set_blocking(self._process.stdout.fileno(), False)
            self._process.stdin.write(order.line().encode())
            self._process.stdin.flush()
        except PymachineError as error:
            self._pause_after(MountState.CONNECTING, error.brief)
        except OSError as error:
            self._pause_after(MountState.CONNECTING, os_errors.reason(error))

    def _take_reports(self) -> None:
        """Read what the session reports, and note its end."""
        if self._process is None or self._process.stdout is None:
            return
        try:
            data = os.read(self._process.stdout.fileno(), _CHUNK)
        except BlockingIOError:
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._last = Report.from_line(line)
            if self._last.event is Event.MOUNTED:
                self._set(MountState.MOUNTED)
        if data:
            return
        process, self._process = self._process, None
        _end(process)
        state = MountState.REFUSED if self._last.event is Event.REFUSED else MountState.CONNECTING
        self._pause_after(state, self._last.problem or _CRASHED.problem)

    def _pause_after(self, state: MountState, why: str) -> None:
        now = time.monotonic()
        self._retry_at = now + self._pause.after(now - self._began)
        self._set(state, why)

    def _set(self, state: MountState, why: str = "") -> None:
        before, self.status = self.status, MountStatus(state, why, self._attempts)
        if (before.state, before.problem) != (state, why):
            self._say(f"{printable.line(str(self.share))}: {state.value}{f' ({why})' if why else ''}")


class Keeper:
    """Keeps the shares of one machine mounted, and records in `folder` which are."""

    def __init__(self, folder: Path, *, target: FindTarget, say: Say) -> None:
        self._folder = folder
        self._target = target
        self._say = say
        known = status.load(folder)
        self._source = known.source if known else f"pymachine-{secrets.token_hex(8)}"
        self._mounts: list[_Mount] = []
        self._saved: Status | None = None
        self.mount_count = 0
        """How many times a folder has been mounted."""

    @property
    def has_mounted(self) -> bool:
        """Whether any folder is mounted now."""
        return any(mount.is_mounted for mount in self._mounts)

    def run(
        self,
        shares: Callable[[], Sequence[Share] | None],
        *,
        wake: socket.socket,
        retry: Callable[[], object] = lambda: None,
    ) -> None:
        """Keep the result of `shares` mounted until that is None, or `END` comes from `wake`.

        `shares` is called every second. After `RETRY` has come, folders that could not be mounted are tried again at
        once, and `retry` is called. The folders are unmounted at the end.
        """
        try:
            while (wanted := shares()) is not None:
                self._follow(wanted)
                self._save()
                woken = self._wait(wake)
                if END in woken:
                    break
                if RETRY in woken:
                    retry()
                    for mount in self._mounts:
                        mount.retry()
        finally:
            self._follow([])
            self._save()

    def _follow(self, shares: Sequence[Share]) -> None:
        """Mount and unmount folders so that exactly `shares` are mounted, as far as that is possible now."""
        for mount in reversed(self._mounts):
            if mount.share not in shares:
                mount.end()
        kept = {mount.share: mount for mount in self._mounts if mount.share in shares}
        self._mounts = [
            kept.get(share) or _Mount(share, source=self._source, target=self._target, say=self._say)
            for share in in_mount_order(shares)
        ]
        for mount in self._mounts:
            was_mounted = mount.is_mounted
            mount.update(may_mount=all(other.is_mounted for other in self._around(mount)))
            self.mount_count += mount.is_mounted and not was_mounted

    def _around(self, mount: _Mount) -> list[_Mount]:
        """Return the mounts in whose folders `mount` is, except for those whose folder vanished."""
        path = mount.share.guest_path
        return [
            other
            for other in self._mounts
            if other is not mount
            and path.is_relative_to(other.share.guest_path)
            and other.status.state is not MountState.MISSING
        ]

    def _wait(self, wake: socket.socket) -> bytes:
        """Wait for a report or a second, and return what came from `wake`."""
        with selectors.DefaultSelector() as selector:
            selector.register(wake, selectors.EVENT_READ)
            for mount in self._mounts:
                if (number := mount.fileno()) is not None:
                    selector.register(number, selectors.EVENT_READ)
            ready = selector.select(_TICK_SECONDS)
        return wake.recv(_CHUNK) if any(key.fileobj is wake for key, _ in ready) else b""

    def _save(self) -> None:
        shares = {str(mount.share): mount.status for mount in self._mounts}
        current = Status(pid=os.getpid(), source=self._source, shares=shares)
        if current == self._saved or not self._folder.is_dir():
            return
        with contextlib.suppress(OSError):  # the disk is full, or the machine is being removed: tried again
            status.save(self._folder, current)
            self._saved = current


def _identity(folder: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another one at the same path, or None if it vanished."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a session: close its input, and kill it if it does not end then."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # it has ended without reading its order
                stream.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    process.kill()
    process.wait()
