"""Fetching files by digest: side by side, resumed after a cut, verified, and kept for the next time."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pymachine.image.errors import DigestError, ImageError, MirrorError
from pymachine.system.progress import Reporter, Task
from pymachine.system.run import process_exists

if TYPE_CHECKING:
    from pymachine.system.http_client import Session

TRIES = 4
PAUSE_SECONDS = 0.5
PARALLEL = 6
# apt's limit for a Release file (Acquire::MaxReleaseFileSize).
LARGEST_TEXT = 10_000_000
TEXT_SECONDS = 300.0
MIRROR_HINT = "Check the network, or choose another mirror: --mirror URL, or PYMACHINE_MIRROR."


@dataclass(frozen=True)
class Item:
    """One file that is wanted. `size` is in bytes. Raises `ImageError` for a digest or a size that is none."""

    url: str
    sha256: str
    size: int
    suffix: str = ""
    """How the cached file's name ends, for people who look into the cache."""

    def __post_init__(self) -> None:
        # The digest becomes a file's name; it comes from an index or a lock file.
        if not re.fullmatch(r"[0-9a-f]{64}", str(self.sha256)):
            raise ImageError(f"{self.url}: {self.sha256!r} is not a SHA-256")
        if not re.fullmatch(r"[0-9]{1,18}", str(self.size)):
            raise ImageError(f"{self.url}: {self.size!r} is not a size in bytes")


class Cache:
    """Files under ``<first two digits>/<digest><suffix>``; a file there is whole, since it was renamed into place."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, item: Item) -> Path:
        """Where the file of `item` is, or will be."""
        return self.directory / item.sha256[:2] / (item.sha256 + item.suffix)

    def has(self, item: Item) -> bool:
        """Whether the file is there with the right size. Whoever reads it checks its digest."""
        try:
            return self.path(item).stat().st_size == item.size
        except OSError:
            return False


class Downloader:
    """Brings items into a cache."""

    def __init__(self, cache: Cache, *, reporter: Reporter, pause: float = PAUSE_SECONDS) -> None:
        self.cache = cache
        self._reporter = reporter
        self._pause = pause

    def fetch(self, items: Sequence[Item], *, title: str) -> list[Path]:
        """Where each item is, after those that were missing have been fetched.

        Raises `MirrorError` if the mirror does not answer or does not have a file, and `DigestError` for a file
        that is not the one described.
        """
        missing = list({item.sha256: item for item in items if not self.cache.has(item)}.values())
        if missing:
            total = sum(item.size for item in missing)
            with self._reporter.task(title, total=total, unit="B") as task, session() as http:
                self._all(missing, lambda item: self._one(http, item, task))
        return [self.cache.path(item) for item in items]

    @staticmethod
    def _all(items: Sequence[Item], fetch: Callable[[Item], None]) -> None:
        """Call `fetch` for each item, several at once; the first that raises stops those not begun."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            jobs = [pool.submit(fetch, item) for item in items]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _one(self, http: Session, item: Item, task: Task) -> None:
        target = self.cache.path(item)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        _adopt(part)
        task.note(item.url.rpartition("/")[2])
        for attempt in range(TRIES):
            try:
                get(http, item, part, task)
                break
            except MirrorError:
                if attempt == TRIES - 1:
                    raise
                time.sleep(self._pause * 2**attempt)
        _verify(part, item)
        part.replace(target)


def _adopt(part: Path) -> None:
    """Go on with what an interrupted process left of the same file, if there is such a thing."""
    name = part.name.rsplit(".", 2)[0]
    for left in part.parent.glob(f"{name}.*.part"):
        pid = left.name.rsplit(".", 2)[1]
        if left != part and not process_exists(int(pid)):
            left.replace(part)
            return


def session() -> Session:
    """Connections to mirrors, whose answers are of bounded size, and do not stall."""
    from pymachine.system.http_client import Session  # noqa: PLC0415 (heavy)

    return Session()


def get(http: Session, item: Item, part: Path, task: Task) -> None:
    """Append to `part` what is missing of `item`; never more is read than that.

    Raises `MirrorError` if it does not all come, and `DigestError` for an answer of another size.
    """
    from pymachine.system.http_client import FetchError, TooLargeError  # noqa: PLC0415

    have = part.stat().st_size if part.exists() else 0
    if have >= item.size:
        have = 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with http.get(item.url, largest=item.size, headers=headers) as answer:
            if answer.status not in {200, 206}:
                raise MirrorError(f"{item.url}: the mirror answered {answer.status}", hint=MIRROR_HINT)
            begin = have if answer.status == 206 else 0
            if answer.length not in {None, item.size - begin}:
                raise _not_the_file(item, f"size: expected {item.size}, found {begin + (answer.length or 0)}")
            with part.open("ab" if begin else "wb") as file:
                for chunk in answer.chunks():
                    file.write(chunk)
                    task.advance(len(chunk))
    except TooLargeError as error:
        raise _not_the_file(item, f"size: expected {item.size}, found more") from error
    except FetchError as error:
        raise MirrorError(f"{item.url}: cannot be fetched", details=str(error), hint=MIRROR_HINT) from error
    if part.stat().st_size < item.size:
        raise MirrorError(f"{item.url}: the connection ended early", hint=MIRROR_HINT)


def _verify(part: Path, item: Item) -> None:
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != item.sha256:
        size = part.stat().st_size
        part.unlink()
        raise _not_the_file(
            item, f"SHA-256: expected {item.sha256}, found {actual}\nsize: expected {item.size}, found {size}"
        )


def _not_the_file(item: Item, details: str) -> DigestError:
    return DigestError(
        f"{item.url}: not the file that the signed index describes",
        details=details,
        hint="The mirror may be in the middle of an update, or the file tampered with: "
        "try again later, or choose another mirror with --mirror.",
    )


def fetch_text(http: Session, url: str) -> bytes:
    """A small file that is verified by other means. Raises `MirrorError`."""
    from pymachine.system.http_client import FetchError  # noqa: PLC0415

    try:
        return http.read(url, largest=LARGEST_TEXT, seconds=TEXT_SECONDS)
    except FetchError as error:
        raise MirrorError(f"{url}: cannot be fetched from the mirror", details=str(error), hint=MIRROR_HINT) from error
