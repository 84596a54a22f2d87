"""Downloads from servers that send endless, slow or compressed answers, or redirect to another scheme."""

from __future__ import annotations

import hashlib
import resource
import ssl
from pathlib import Path

import pytest

from pymachine.image import imported
from pymachine.image.debian.download import Cache, Downloader, Item
from pymachine.image.errors import DigestError, ImageError, MirrorError
from pymachine.provision import session as provisioning
from pymachine.provision.errors import ProvisionError
from pymachine.system import http_client
from pymachine.system.http_client import FetchError, Session, TooLargeError
from pymachine.system.progress import Silent
from support import hostile

DATA = b"a package" * 1000
# Far above what a bounded answer takes, and far below what an endless one would.
MOST_KIB = 256 * 1024


def read(port: int, *, stall_seconds: float = 60.0, head_seconds: float = 60.0, seconds: float = 60.0) -> bytes:
    with Session(stall_seconds=stall_seconds, head_seconds=head_seconds) as http:
        return http.read(f"http://127.0.0.1:{port}/file", largest=1_000_000, seconds=seconds)


@pytest.mark.parametrize("name", hostile.FLOODS)
def test_an_endless_answer_is_refused_at_a_size_limit(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hostile.serving(hostile.FLOODS[name]) as port, pytest.raises(FetchError):
        read(port)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_KIB


@pytest.mark.parametrize("name", hostile.DRIPS)
def test_a_slow_answer_counts_as_stalled(name: str) -> None:
    with (
        hostile.serving(hostile.DRIPS[name]) as port,
        pytest.raises(FetchError, match=r"head did not come in time|fewer than 1000 bytes a second"),
    ):
        read(port, stall_seconds=0.5, head_seconds=0.5)


@pytest.mark.parametrize("name", hostile.DRIPS)
def test_a_small_file_has_a_total_time_limit(name: str) -> None:
    with hostile.serving(hostile.DRIPS[name]) as port, pytest.raises(FetchError, match=r"in time|within 0\.[0-9]+ sec"):
        read(port, seconds=0.5)


def test_a_slow_but_steady_server_is_accepted() -> None:
    transfer = http_client._Transfer(1_000_000, seconds=None, stall_seconds=60, head_seconds=60)
    transfer.head_is_over()
    for _ in range(100):
        transfer.count(http_client.SLOWEST_BYTES_PER_SECOND * 2, seconds=1.9)
        assert transfer.timeout() > 0


def test_a_server_below_the_minimum_rate_is_given_up() -> None:
    transfer = http_client._Transfer(1_000_000, seconds=None, stall_seconds=60, head_seconds=60)
    transfer.head_is_over()
    with pytest.raises(OSError, match="fewer than 1000 bytes a second came"):
        for _ in range(100):
            transfer.count(http_client.SLOWEST_BYTES_PER_SECOND, seconds=1.1)
            transfer.timeout()


def test_a_compressed_answer_is_refused() -> None:
    with hostile.serving(hostile.inflating()) as port, pytest.raises(FetchError, match="encoded as gzip"):
        read(port)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1:70/"])
def test_a_redirect_to_another_scheme_is_not_followed(target: str) -> None:
    with hostile.serving(hostile.redirect(target)) as port, pytest.raises(FetchError, match="is not followed"):
        read(port)


def test_a_redirect_from_https_to_http_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hostile.engine(tmp_path, hostile.endless()):
        pass  # for the certificates
    folder = tmp_path / "machines" / "hostile"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server-key.pem")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(folder / "ca.pem"))
    with (
        hostile.serving(hostile.answer(b"reached")) as other,
        hostile.serving(hostile.redirect(f"http://127.0.0.1:{other}/"), context=context) as port,
        Session() as http,
        pytest.raises(FetchError, match="from https to http://127"),
    ):
        http.read(f"https://127.0.0.1:{port}/", largest=100, seconds=60.0)


def test_a_redirect_is_followed_and_a_redirect_loop_is_refused() -> None:
    with (
        hostile.serving(hostile.answer(b"reached")) as other,
        hostile.serving(hostile.redirect(f"http://127.0.0.1:{other}/")) as port,
    ):
        assert read(port) == b"reached"
    with hostile.serving(hostile.redirect("/again")) as port, pytest.raises(FetchError, match="more than 10 redirects"):
        read(port)


@pytest.mark.parametrize("length", [b"9" * 5000, b"-1", b"x", "²".encode("latin-1")])
def test_an_invalid_content_length_is_refused(length: bytes) -> None:
    behaviour = hostile.endless(hostile.OK + b"Content-Length: " + length + b"\r\n\r\n")
    with hostile.serving(behaviour) as port, pytest.raises(FetchError):
        read(port)


def item(port: int, data: bytes = DATA) -> Item:
    return Item(f"http://127.0.0.1:{port}/pool/tool.deb", hashlib.sha256(data).hexdigest(), len(data))


def test_a_package_is_cut_off_at_the_size_in_the_index(tmp_path: Path) -> None:
    with hostile.serving(hostile.endless()) as port, pytest.raises(DigestError, match=r"tool\.deb") as caught:
        Downloader(Cache(tmp_path), reporter=Silent()).fetch([item(port)], title="")
    assert "expected 9000, found more" in caught.value.details
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.part")) <= len(DATA)


def test_a_package_whose_size_differs_from_the_index_is_not_fetched(tmp_path: Path) -> None:
    behaviour = hostile.endless(hostile.OK + b"Content-Length: 99999999999\r\n\r\n")
    with hostile.serving(behaviour) as port, pytest.raises(DigestError) as caught:
        Downloader(Cache(tmp_path), reporter=Silent()).fetch([item(port)], title="")
    assert "found 99999999999" in caught.value.details


def test_a_package_is_never_inflated(tmp_path: Path) -> None:
    """Some servers call a .gz an encoding; the index has the digest of the compressed bytes."""
    with hostile.serving(hostile.answer(DATA, "Content-Encoding: x-gzip")) as port:
        (path,) = Downloader(Cache(tmp_path), reporter=Silent()).fetch([item(port)], title="")
    assert path.read_bytes() == DATA


@pytest.mark.parametrize(("sha256", "size"), [("../" * 21 + "x", 1), ("A" * 64, 1), ("a" * 64, -1), ("a" * 64, 10**18)])
def test_an_index_with_an_invalid_digest_or_size_is_refused(sha256: str, size: int) -> None:
    with pytest.raises(ImageError, match="is not a"):
        Item("http://127.0.0.1/x", sha256, size)


@pytest.mark.parametrize("name", hostile.FLOODS)
def test_an_image_over_the_size_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(imported, "MAX_IMAGE_BYTES", 3_000_000)
    with hostile.serving(hostile.FLOODS[name]) as port, pytest.raises(MirrorError):
        imported.import_image(f"http://127.0.0.1:{port}/x.iso", store=tmp_path, reporter=Silent())
    assert not list(tmp_path.rglob("fetched"))


def test_an_image_whose_content_length_is_over_the_limit_is_not_fetched(tmp_path: Path) -> None:
    behaviour = hostile.endless(hostile.OK + b"Content-Length: 99999999999\r\n\r\n")
    with hostile.serving(behaviour) as port, pytest.raises(MirrorError, match="99999999999 bytes"):
        imported.import_image(f"http://127.0.0.1:{port}/x.iso", store=tmp_path, reporter=Silent())


@pytest.mark.parametrize("name", hostile.FLOODS)
def test_an_install_script_over_the_size_limit_is_refused(tmp_path: Path, name: str) -> None:
    with hostile.serving(hostile.FLOODS[name]) as port, pytest.raises(ProvisionError):
        provisioning.fetch_script(f"http://127.0.0.1:{port}/install.sh", keep=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_too_large_has_its_own_error_code() -> None:
    with hostile.serving(hostile.answer(bytes(1_000_001))) as port, pytest.raises(TooLargeError, match="1000000 bytes"):
        read(port)
