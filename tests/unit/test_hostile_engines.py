"""The engine client against engines whose answers are endless, too slow or too deeply nested."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from pymachine.docker import api
from pymachine.docker.api import EngineError
from pymachine.driver.contract import Endpoint
from pymachine.store.client_files import ClientFiles
from pymachine.tls import handshake
from support import hostile

NO_FILES = ClientFiles(Path("/none"), Path("/none"), Path("/none"))
# Far above what a bounded answer takes, and far below what an endless one would.
MOST_KIB = 256 * 1024


def plain(port: int) -> Endpoint:
    return Endpoint("127.0.0.1", docker_port=port, docker_url=f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("name", [name for name in hostile.FLOODS if name != "redirect"])
def test_an_endless_answer_is_refused_at_a_size_limit(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with hostile.serving(hostile.FLOODS[name]) as port, pytest.raises(EngineError, match="more than 1048576 bytes"):
        api.version(plain(port), certificates=NO_FILES, timeout=60.0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_KIB


@pytest.mark.parametrize("name", hostile.DRIPS)
def test_a_slow_answer_is_a_timeout(name: str) -> None:
    """Each byte comes in time, but the timeout is for the whole answer."""
    with hostile.serving(hostile.DRIPS[name]) as port, pytest.raises(handshake.TlsError, match="i/o timeout"):
        api.get(plain(port), certificates=NO_FILES, timeout=0.5)


def test_a_slow_answer_over_tls_is_a_timeout(tmp_path: Path) -> None:
    certs = tmp_path / "certs"
    files = ClientFiles(certs / "ca.pem", certs / "cert.pem", certs / "key.pem")
    with hostile.engine(tmp_path, hostile.endless()) as port, pytest.raises(EngineError, match="more than"):
        api.version(Endpoint("127.0.0.1", docker_port=port), certificates=files, timeout=60.0)
    with hostile.engine(tmp_path, hostile.drip()) as port, pytest.raises(handshake.TlsError, match="i/o timeout"):
        api.get(Endpoint("127.0.0.1", docker_port=port), certificates=files, timeout=2.0)


@pytest.mark.parametrize("check", [handshake.check, handshake.connect])
def test_a_slow_handshake_is_a_timeout(tmp_path: Path, check: Callable[..., object]) -> None:
    with hostile.engine(tmp_path, hostile.endless()):
        pass  # for the certificates
    certs = tmp_path / "certs"
    # The head of a record of TLS that has 16 KiB, and then that, slowly.
    dripping = hostile.drip_at_once(b"\x16\x03\x03\x40\x00" + bytes(4096), pause=0.02)
    with hostile.serving(dripping) as port, pytest.raises(handshake.TlsError, match="i/o timeout"):
        check(
            "127.0.0.1",
            port,
            ca=certs / "ca.pem",
            cert=certs / "cert.pem",
            key=certs / "key.pem",
            timeout=0.5,
        )


def test_endlessly_nested_json_is_refused() -> None:
    with hostile.serving(hostile.nested()) as port, pytest.raises(EngineError, match="status 200"):
        api.get(plain(port), certificates=NO_FILES, timeout=60.0)


@pytest.mark.parametrize(("ask", "body"), [(api.get, b"[]"), (api.get_list, b"{}"), (api.get_list, b"null")])
def test_an_answer_of_another_kind_is_refused(ask: Callable[..., object], body: bytes) -> None:
    with hostile.serving(hostile.answer(body)) as port, pytest.raises(EngineError, match="status 200"):
        ask(plain(port), certificates=NO_FILES, path="/images/json", timeout=60.0)


def test_a_compressed_answer_is_not_inflated() -> None:
    with hostile.serving(hostile.inflating()) as port, pytest.raises(EngineError, match="status 200"):
        api.get(plain(port), certificates=NO_FILES, timeout=60.0)


def test_a_long_version_is_refused() -> None:
    with (
        hostile.serving(hostile.answer(b'{"Version":"' + b"9" * 100_000 + b'"}')) as port,
        pytest.raises(EngineError, match="names one of 100000 characters"),
    ):
        api.version(plain(port), certificates=NO_FILES, timeout=60.0)


def test_a_silent_engine_on_a_unix_socket_is_a_timeout(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)
        endpoint = Endpoint("", docker_port=0, docker_url=f"unix://{path}")
        with pytest.raises(handshake.TlsError, match="timeout"):
            api.get(endpoint, certificates=NO_FILES, timeout=0.3)
