"""The image's downloads through a real forward proxy, with and without a password."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.system.http_client import FetchError, Session
from support import tinyproxy

NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "file").write_text("content")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/file"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("login", [{}, {"user": "ann", "password": "s3cret"}])
def test_downloads_go_through_the_proxy(
    server: str, login: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tinyproxy.running(tmp_path, **login) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with Session() as session:
            assert session.read(server, largest=100, seconds=20) == b"content"
        assert proxy.requests() == [f"GET {server} HTTP/1.1"]
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with Session() as session:
            assert session.read(server, largest=100, seconds=20) == b"content"
        assert len(proxy.requests()) == 1


def test_a_wrong_password_is_reported_and_not_printed(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tinyproxy.running(tmp_path, user="ann", password="right") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("right", "s3cret"))
        with Session() as session, pytest.raises(FetchError, match="40[17]") as raised:
            session.read(server, largest=100, seconds=20)
    assert "s3cret" not in str(raised.value)
