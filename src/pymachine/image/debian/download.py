"""Fetch files by digest: in parallel, resumed after interruptions, verified, and cached."""

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
MAX_TEXT_BYTES = 10_000_000
TEXT_SECONDS = 300.0
MIRROR_HINT = "Check the network, or choose another mirror: --mirror URL, or PYMACHINE_MIRROR."


@dataclass(frozen=True)
class Item:
    """A file to fetch. `size` is in bytes. Raises `ImageError` for an invalid digest or size."""

    url: str
    sha256: str
    size: int
    suffix: str = ""
    """The suffix of the cached file's name, for people who look into the cache."""

    def __post_init__(self) -> None:
        # The digest comes from an index or a lock file, and becomes a file name.
        if not re.fullmatch(r"[0-9a-f]{64}", str(self.sha256)):
            raise ImageError(f"{self.url}: {self.sha256!r} is not a SHA-256")
        if not re.fullmatch(r"[0-9]{1,18}", str(self.size)):
            raise ImageError(f"{self.url}: {self.size!r} is not a size in bytes")


class Cache:
    """Files under ``<first two digits>/<digest><suffix>``. They are complete, since they are renamed into place."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, item: Item) -> Path:
        """Return the path of the cached file for `item`, whether it exists or not."""
        return self.directory / item.sha256[:2] / (item.sha256 + item.suffix)

    def has(self, item: Item) -> bool:
        """Whether the file exists with the right size. Readers must check its digest."""
        try:
            return self.path(item).stat().st_size == item.size
        except OSError:
            return False


class Downloader:
    """Fetches items into a cache."""

    def __init__(self, cache: Cache, *, reporter: Reporter, pause: float = PAUSE_SECONDS) -> None:
        self.cache = cache
        self._reporter = reporter
        self._pause = pause

    def fetch(self, items: Sequence[Item], *, title: str) -> list[Path]:
        """Fetch the missing items, and return the path of each item.

        Raises `MirrorError` if the mirror does not answer or lacks a file, and `DigestError` for a file that does not
        match its digest or size.
        """
        missing = list({item.sha256: item for item in items if not self.cache.has(item)}.values())
        if missing:
            total = sum(item.size for item in missing)
            with self._reporter.task(title, total=total, unit="B") as task, session() as http:
                self._fetch_all(missing, lambda item: self._fetch_one(http, item, task))
        return [self.cache.path(item) for item in items]

    @staticmethod
    def _fetch_all(items: Sequence[Item], fetch: Callable[[Item], None]) -> None:
        """Call `fetch` for each item in parallel. The first that raises cancels those that have not started."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            jobs = [pool.submit(fetch, item) for item in items]
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _fetch_one(self, http: Session, item: Item, task: Task) -> None:
        target = self.cache.path(item)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        _resume_partial(part)
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


def _resume_partial(part: Path) -> None:
    """Rename a partial file of an ended process to `part`, to resume its download."""
    name = part.name.rsplit(".", 2)[0]
    for leftover in part.parent.glob(f"{name}.*.part"):
        pid = leftover.name.rsplit(".", 2)[1]
        if leftover != part and not process_exists(int(pid)):
            leftover.replace(part)
            return


def session() -> Session:
    """Return an HTTP session for mirrors, which limits the size of answers and ends stalled transfers."""
    from pymachine.system.http_client import Session  # noqa: PLC0415 (heavy)

    return Session()


def get(http: Session, item: Item, part: Path, task: Task) -> None:
    """Append the missing part of `item` to the file `part`, and never read more than that.

    Raises `MirrorError` if the transfer is incomplete, and `DigestError` for an answer of another size.
    """
    from pymachine.system.http_client import FetchError, TooLargeError  # noqa: PLC0415

    offset = part.stat().st_size if part.exists() else 0
    if offset >= item.size:
        offset = 0
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    try:
        with http.get(item.url, largest=item.size, headers=headers) as answer:
            if answer.status not in {200, 206}:
                raise MirrorError(f"{item.url}: the mirror answered {answer.status}", hint=MIRROR_HINT)
            start = offset if answer.status == 206 else 0
            if answer.length not in {None, item.size - start}:
                raise _mismatch_error(item, f"size: expected {item.size}, found {start + (answer.length or 0)}")
            with part.open("ab" if start else "wb") as file:
                for chunk in answer.chunks():
                    file.write(chunk)
                    task.advance(len(chunk))
    except TooLargeError as error:
        raise _mismatch_error(item, f"size: expected {item.size}, found more") from error
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
        raise _mismatch_error(
            item, f"SHA-256: expected {item.sha256}, found {actual}\nsize: expected {item.size}, found {size}"
        )


def _mismatch_error(item: Item, details: str) -> DigestError:
    return DigestError(
        f"{item.url}: does not match the signed index",
        details=details,
        hint="The mirror may be updating, or the file was tampered with. "
        "Try again later, or choose another mirror with --mirror.",
    )


def fetch_text(http: Session, url: str) -> bytes:
    """Fetch a small file that the caller verifies. Raises `MirrorError`."""
    from pymachine.system.http_client import FetchError  # noqa: PLC0415

    try:
        return http.read(url, largest=MAX_TEXT_BYTES, seconds=TEXT_SECONDS)
    except FetchError as error:
        raise MirrorError(f"{url}: cannot be fetched from the mirror", details=str(error), hint=MIRROR_HINT) from error
