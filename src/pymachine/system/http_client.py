"""HTTP downloads with limits on size, time and redirects.

requests handles proxies and TLS, but limits only the time of each read. So all data from a server passes through
`_Paced` here: status line, headers, interim answers, chunks and trailers.
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self, cast
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from pymachine.system import trust
from pymachine.system.limits import CHUNK_BYTES
from pymachine.system.wait import Deadline

CONNECT_SECONDS = 15.0
HEAD_SECONDS = 60.0
LARGEST_HEAD = 256 * 1024
# A large download may take long, but not at a lower rate. dnf's `minrate` has the same value.
SLOWEST_BYTES_PER_SECOND = 1000
STALL_SECONDS = 60.0
# The limit of apt.
MOST_REDIRECTS = 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class FetchError(Exception):
    """An answer did not come, did not end, or redirects to a refused place."""


class TooLargeError(FetchError):
    """The answer is larger than allowed."""


class _LimitError(OSError):
    """A server exceeds a limit. urllib3 wraps this error, so `_Transfer` has the text too."""


class _Transfer:
    """The bytes and the time that one request has left."""

    def __init__(self, largest: int, *, seconds: float | None, stall_seconds: float, head_seconds: float) -> None:
        self.problem = ""
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds
        self._largest = LARGEST_HEAD
        # With room for the chunked encoding; `Answer.chunks` counts the data itself.
        self._with_body = LARGEST_HEAD + largest + largest // 4
        self._came = 0
        self._head_end: float | None = time.monotonic() + head_seconds
        self._stall_seconds = stall_seconds
        self._waited = 0.0
        self._came_in_window = 0

    def head_is_over(self) -> None:
        """Expect the body from now on."""
        self._head_end = None
        self._largest = self._with_body

    def timeout(self) -> float:
        """Return how many seconds the next read may take. Raises `_LimitError` if none are left."""
        if self._came >= self._largest:
            raise self.failed(f"more than {self._largest} bytes came")
        left = self._stall_seconds - self._waited
        if self._head_end is not None:
            left = min(left, self._head_end - time.monotonic())
        if self._end is not None:
            left = min(left, self._end - time.monotonic())
        if left <= 0:
            raise self.too_slow()
        return left

    def count(self, size: int, seconds: float) -> None:
        """Note that `size` bytes took `seconds` to come.

        Only waiting counts: a slow local disk or a suspended host is not the server's fault.
        """
        self._came += size
        self._came_in_window += size
        self._waited += seconds
        if self._came_in_window >= SLOWEST_BYTES_PER_SECOND * self._stall_seconds:
            self._waited, self._came_in_window = 0.0, 0

    def too_slow(self) -> _LimitError:
        """Return the error about a server that is too slow."""
        if self._head_end is not None:
            return self.failed("the answer's head did not come in time")
        if self._end is not None and time.monotonic() >= self._end:
            return self.failed(f"it did not come within {self._seconds:g} seconds")
        return self.failed(
            f"fewer than {SLOWEST_BYTES_PER_SECOND} bytes a second came, for {self._stall_seconds:g} seconds"
        )

    def failed(self, problem: str) -> _LimitError:
        """Return the error to raise for `problem`, and remember it."""
        self.problem = problem
        return _LimitError(problem)


# requests cannot pass this to the connection that it uses.
_TRANSFER: ContextVar[_Transfer] = ContextVar("transfer")


class _Paced(io.RawIOBase):
    """Reads from a socket within the limits of a transfer."""

    def __init__(self, raw: io.RawIOBase, sock: Any, transfer: _Transfer) -> None:
        self._raw = raw
        self._sock = sock
        self._transfer = transfer

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """See `io.RawIOBase.readinto`. Raises `_LimitError`."""
        self._sock.settimeout(self._transfer.timeout())
        began = time.monotonic()
        try:
            size = cast("int | None", self._raw.readinto(buffer))
        except TimeoutError as error:
            raise self._transfer.too_slow() from error
        self._transfer.count(size or 0, time.monotonic() - began)
        return size

    def close(self) -> None:
        """Close the socket."""
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._transfer = _TRANSFER.get()
        self.fp = io.BufferedReader(_Paced(self.fp.detach(), sock, self._transfer))

    def begin(self) -> None:
        super().begin()
        self._transfer.head_is_over()


class _Connection(HTTPConnection):
    response_class = _Response


class _TlsConnection(HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    def __init__(self, tls: dict[str, Any]) -> None:
        self._tls = tls
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **(kwargs | self._tls))
        _limit(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        return _limit(super().proxy_manager_for(*args, **(kwargs | self._tls)))


def _tls_options() -> dict[str, Any]:
    """Return the options of a pool that trusts the certificates of `trust`. requests adds the usual ones."""
    added = trust.added()
    if not added:
        return {}
    context = create_urllib3_context()
    context.load_verify_locations(cadata=added)
    return {"ssl_context": context}


def _limit(manager: Any) -> Any:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return manager


class _Session(requests.Session):
    def get_redirect_target(self, resp: Any) -> str | None:  # noqa: ARG002
        # requests would read the whole body of a redirect, however long. `Session.get` follows redirects.
        return None


class Answer:
    """A server's answer: its status, and its body without decompression."""

    def __init__(self, url: str, response: requests.Response, transfer: _Transfer, largest: int) -> None:
        self.url = url
        """The URL after all redirects."""
        self.status = response.status_code
        self.encoding = response.headers.get("Content-Encoding", "identity").lower()
        """The encoding of the body, although none was requested."""
        self._response = response
        self._transfer = transfer
        self._largest = largest

    @property
    def length(self) -> int | None:
        """The length of the body in bytes, if the server sent it."""
        said = self._response.headers.get("Content-Length", "")
        return int(said) if said.isascii() and said.isdigit() and len(said) < 20 else None

    def chunks(self) -> Iterator[bytes]:
        """Yield the body in pieces. Raises `FetchError`, and `TooLargeError` if it is larger than allowed."""
        came = 0
        body = self._response.raw.stream(CHUNK_BYTES, decode_content=False)
        while True:
            with _explained(self._transfer):
                chunk = next(body, b"")
            if not chunk:
                return
            came += len(chunk)
            if came > self._largest:
                raise TooLargeError(f"more than {self._largest} bytes came")
            yield chunk


class Session:
    """A context manager that keeps connections for the next request. Several threads may use it."""

    def __init__(self, *, stall_seconds: float = STALL_SECONDS, head_seconds: float = HEAD_SECONDS) -> None:
        self._stall_seconds = stall_seconds
        self._head_seconds = head_seconds
        self._http = _Session()
        self._http.headers["User-Agent"] = "pymachine"
        # A proxy or mirror must not change the data.
        self._http.headers["Accept-Encoding"] = "identity"
        for scheme in ("http://", "https://"):
            self._http.mount(scheme, _Adapter(_tls_options()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @contextmanager
    def get(
        self, url: str, *, largest: int, seconds: float | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[Answer]:
        """GET `url`, following redirects, for a body of at most `largest` bytes. Raises `FetchError`.

        Without `seconds` it may take any time, unless it stalls.
        """
        asked = url
        end = None if seconds is None else Deadline(seconds)
        for _ in range(MOST_REDIRECTS + 1):
            transfer = _Transfer(
                largest,
                seconds=end.remaining() if end else None,
                stall_seconds=self._stall_seconds,
                head_seconds=self._head_seconds,
            )
            with self._ask(asked, transfer, headers or {}) as response:
                target = response.headers.get("Location")
                if response.status_code not in _REDIRECTS or target is None:
                    yield Answer(asked, response, transfer, largest)
                    return
            asked = _redirected(asked, target)
        raise FetchError(f"more than {MOST_REDIRECTS} redirects")

    @contextmanager
    def _ask(self, url: str, transfer: _Transfer, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        token = _TRANSFER.set(transfer)
        try:
            with _explained(transfer):
                response = self._http.get(
                    url, headers=dict(headers), stream=True, timeout=(CONNECT_SECONDS, self._head_seconds)
                )
        finally:
            _TRANSFER.reset(token)
        with response:
            yield response

    def read(self, url: str, *, largest: int, seconds: float) -> bytes:
        """Return the whole body at `url`: at most `largest` bytes, within `seconds`. Raises `FetchError`."""
        with self.get(url, largest=largest, seconds=seconds) as answer:
            if answer.status != 200:
                raise FetchError(f"the server answered {answer.status}")
            if answer.encoding != "identity":
                raise FetchError(f"it comes encoded as {answer.encoding}, which was not asked for")
            return b"".join(answer.chunks())


def _redirected(url: str, target: str) -> str:
    """Return the URL of a redirect. Raises `FetchError` for redirects that apt does not follow either."""
    found = urljoin(url, target)
    before, after = urlsplit(url).scheme.lower(), urlsplit(found).scheme.lower()
    if after not in {"http", "https"} or (before == "https" and after == "http"):
        raise FetchError(f"a redirect from {before} to {found} is not followed")
    return found


@contextmanager
def _explained(transfer: _Transfer) -> Iterator[None]:
    """Turn the errors of a transfer into a `FetchError`."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise FetchError(transfer.problem or str(error)) from error
