"""The guest's side of events for shared folders: it keeps the host's requests, and answers `mark`."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from pymachine.driver.kit.share_events.follower import Follower
from pymachine.driver.shares import Share
from pymachine.system.wait import until

SECONDS = 60.0
SYNC = "/run/pymachine/share-events/sync"


def share(path: Path, guest: str) -> Share:
    return Share(path=path, guest_path=PurePosixPath(guest))


class Guest:
    """A guest that is connected to a follower."""

    def __init__(self, connection: socket.socket, *, answers: bool = True) -> None:
        self._connection = connection
        self.answers = answers
        """Whether it makes the marks that the host wants."""
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        """All messages of the host: a word and paths."""
        self.before_mark: list[bytes] = []
        """Lines to send with the next mark, before it."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        # The test may end the connection at any moment, also between a mark and its answer.
        with self._connection.makefile("rb") as stream, suppress(ConnectionError):
            for line in stream:
                word, size = line.decode().split()
                data = stream.read(int(size))
                assert data.endswith(b"\0") or not data
                paths = tuple(os.fsdecode(path) for path in data.split(b"\0")[:-1])
                self.asked.append((word, paths))
                if word == "mark" and self.answers:
                    lines, self.before_mark = self.before_mark, []
                    self.send(*lines, f"event CLOSE_WRITE,CLOSE {SYNC}".encode())

    def send(self, *lines: bytes) -> None:
        self._connection.sendall(b"".join(line + b"\n" for line in lines))

    def mount(self, *paths: str) -> None:
        """Report the folders that containers mount."""
        self.send(b"folders " + json.dumps(paths).encode())

    def paths(self, word: str) -> list[str]:
        """Return the paths of all messages with a word."""
        return [path for each, paths in list(self.asked) for path in paths if each == word]

    def kept(self) -> set[str]:
        """Return the folders that the host wants to be kept open now."""
        found: set[str] = set()
        for word, paths in list(self.asked):
            if word == "hello":
                found.clear()
            elif word == "keep":
                found.update(paths)
            elif word == "release":
                found.difference_update(paths)
        return found

    def wait(self, check: Callable[[], object], what: str) -> None:
        until(lambda: bool(check()), deadline=SECONDS, what=what)

    def wait_for_folders(self, *paths: str) -> None:
        """Wait until exactly these folders are kept and watched."""

        def is_done() -> bool:
            words = [word for word, _ in list(self.asked) if word in ("keep", "watch")]
            return self.kept() == set(paths) and words[-1:] != ["keep"]

        self.wait(is_done, f"{paths} to be kept")

    def wait_for_change(self, path: str) -> None:
        self.wait(lambda: path in self.paths("change"), f"an event for {path}")


@contextmanager
def followed(
    shares: Sequence[Share], *, left_out: Sequence[str] = (), answers: bool = True, only_plain_files: bool = False
) -> Iterator[tuple[Guest, Follower, list[str]]]:
    """Run a follower in a thread. Yield the guest, the follower, and the lines of its log."""
    ours, theirs = socket.socketpair()
    said: list[str] = []
    number = theirs.fileno()
    follower = Follower(
        shares,
        left_out=frozenset(left_out),
        incoming=number,
        outgoing=number,
        say=said.append,
        only_plain_files=only_plain_files,
    )
    failed: list[BaseException] = []

    def run() -> None:
        try:
            follower.run()
        except BaseException as error:  # noqa: BLE001 (raised below)
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    with ours, theirs:
        guest = Guest(ours, answers=answers)
        thread.start()
        try:
            yield guest, follower, said
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            thread.join(SECONDS)
        assert not thread.is_alive()
    if failed:
        raise failed[0]
