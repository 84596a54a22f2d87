"""The process that keeps the registry cache running: ``python -m pymachine.registry_cache.keeper FOLDER PROGRAM``.

It starts docker-registry, starts it again when it has ended, and keeps its storage below the limit. `cache start`
starts it, and `cache stop` ends it. Its log, and that of docker-registry, is ``registry.log`` in the cache's folder.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymachine.driver.kit.port_forwarding import LARGEST_LOG, log
from pymachine.registry_cache import configuration, report, state as states, storage
from pymachine.registry_cache.place import CONFIGURATION, KEEPER
from pymachine.registry_cache.state import State
from pymachine.ssh.background import END, wake_on_signals
from pymachine.system import run, tied_processes
from pymachine.system.wait import Deadline, GrowingPause

TRIM_SECONDS = 120.0
# Downloads that nothing was written to for so long were given up by docker-registry.
STALE_SECONDS = 3600.0
_END_SECONDS = 10.0
# Without pidfd_open, the end of a child is noticed after this time.
_POLL_SECONDS = 1.0


class Keeper:
    """Keeps one docker-registry running."""

    def __init__(self, folder: Path, program: str, state: State, wake: socket.socket) -> None:
        self._folder = folder
        self._program = program
        self._storage = folder / state.storage
        self._limit = state.limit_mib << 20
        self._wake = wake
        self._next_trim = Deadline(0)

    def run(self) -> None:
        """Keep docker-registry running until a signal ends that."""
        storage.remove_downloads(self._storage)
        pause = GrowingPause(first=2.0, longest=60.0)
        while True:
            began, begin = time.monotonic(), os.fstat(sys.stdout.fileno()).st_size
            with self._registry() as child:
                if not self._has_ended(child):
                    return
            seconds = pause.after(time.monotonic() - began)
            self._report(child.returncode, begin, seconds)
            if self._end_requested(Deadline(seconds)):
                return

    @contextmanager
    def _registry(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run docker-registry during the block."""
        child = subprocess.Popen(
            [self._program, "serve", str(self._folder / CONFIGURATION)],
            stdin=subprocess.DEVNULL,
            env=configuration.environment(self._folder),
            cwd="/",
            preexec_fn=tied_processes.tie(),  # noqa: PLW1509 (see there)
        )
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _has_ended(self, child: subprocess.Popen[bytes]) -> bool:
        """Wait for the end of docker-registry, and return True.

        Return False if this process gets SIGTERM, or if the cache's folder was removed.
        """
        handle = os.pidfd_open(child.pid) if hasattr(os, "pidfd_open") else None
        try:
            while child.poll() is None:
                self._trim_if_due()
                if self._is_removed():
                    log("the cache's folder was removed")
                    return False
                seconds = self._next_trim.remaining(at_most=_POLL_SECONDS if handle is None else None)
                watched = [self._wake.fileno(), *([] if handle is None else [handle])]
                ready, _, _ = select.select(watched, [], [], seconds)
                if self._wake.fileno() in ready:
                    if END in self._wake.recv(64):
                        return False
                    self._next_trim = Deadline(0)  # SIGHUP
        finally:
            if handle is not None:
                os.close(handle)
        return True

    def _is_removed(self) -> bool:
        return not (self._folder / KEEPER.lock).exists()

    def _end_requested(self, pause: Deadline) -> bool:
        """Wait for the end of `pause`, or for SIGTERM, and return whether that came."""
        while not pause.expired:
            ready, _, _ = select.select([self._wake], [], [], pause.remaining())
            if ready and END in self._wake.recv(64):
                return True
        return False

    def _report(self, code: int, begin: int, seconds: float) -> None:
        why = report.reason(self._folder, begin=begin) or f"docker-registry {run.describe_exit(code)}"
        log(f"docker-registry has ended ({why}): starting it again in {seconds:g} seconds")
        report.save(self._folder, why)

    def _trim_if_due(self) -> None:
        if not self._next_trim.expired:
            return
        self._next_trim = Deadline(TRIM_SECONDS)
        try:
            storage.remove_downloads(self._storage, unchanged_seconds=STALE_SECONDS)
            removed = storage.trim(self._storage, limit=self._limit)
        except OSError as error:
            log(f"the storage cannot be cleaned up: {error}")
            return
        if removed:
            size = sum(blob.size for blob in removed)
            log(f"removed the {len(removed)} blobs that were used least recently, {size >> 20} MiB")
        if os.fstat(sys.stdout.fileno()).st_size > LARGEST_LOG:
            os.ftruncate(sys.stdout.fileno(), 0)


def main(folder: Path, program: str) -> int:
    """Run the keeper, and return the exit code."""
    wake = wake_on_signals()
    try:
        with KEEPER.locked(folder):
            state = states.load(folder)
            if state is None:
                log("ended: there are no settings")
                return 1
            log(f"running {program} for {state.upstream} at port {state.port}, as process {os.getpid()}")
            Keeper(folder, program, state, wake).run()
    except OSError as error:
        log(f"ended by an error: {error!r}")
        return 1
    log("ended")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
