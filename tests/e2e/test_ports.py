"""Ports of a machine, with a real docker client and real servers in containers."""

from __future__ import annotations

import http.client
import ssl
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from pymachine.wait import until
from support.runner import Pymachine

pytestmark = pytest.mark.timeout(900)

CLIENTS = 100
CLIENT_SECONDS = 60.0
IMAGE = "pm-servers:1"
DOCKERFILE = """\
FROM alpine:3.2
RUN apk add nginx
RUN sed -i 's/worker_connections 64/worker_connections 1024/' /etc/nginx/nginx.conf
RUN echo hello > /usr/share/nginx/html/index.html
CMD ["nginx", "-g", "daemon off;"]
"""


@pytest.fixture(scope="module")
def host(intro: Pymachine, tmp_path_factory: pytest.TempPathFactory) -> Pymachine:
    """The machine ``intro``, with an image that serves HTTP."""
    project = tmp_path_factory.mktemp("servers")
    (project / "Dockerfile").write_text(DOCKERFILE)
    intro.shell(f"cd {project} && DOCKER_BUILDKIT=0 docker build -t {IMAGE} .")
    return intro


@pytest.fixture(scope="module")
def address(host: Pymachine) -> str:
    return host("ip", "intro").stdout.strip()


def folder(host: Pymachine) -> Path:
    return host.store / "machines" / "intro"


def at_once(client: Callable[[], bytes]) -> list[bytes | OSError]:
    """What `CLIENTS` clients that begin at the same moment get, or what became of them."""
    ready = Barrier(CLIENTS)

    def one(_: int) -> bytes | OSError:
        ready.wait()
        try:
            return client()
        except OSError as error:
            return error

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(one, range(CLIENTS)))


def test_a_burst_on_a_published_port(host: Pymachine, address: str) -> None:
    host.shell(f"docker run -d --name burst -p 8090:80 {IMAGE}")

    def get() -> bytes:
        connection = http.client.HTTPConnection(address, 8090, timeout=CLIENT_SECONDS)
        connection.request("GET", "/index.html")
        return connection.getresponse().read()

    def answers() -> bool:
        try:
            return get() == b"hello\n"
        except OSError:
            return False

    try:
        until(answers, deadline=60, what="the published port")
        assert at_once(get) == [b"hello\n"] * CLIENTS
    finally:
        host.shell("docker rm -f burst")


def test_a_burst_on_the_engines_port(host: Pymachine, address: str) -> None:
    context = ssl.create_default_context(cafile=str(folder(host) / "ca.pem"))
    context.load_cert_chain(folder(host) / "cert.pem", folder(host) / "key.pem")

    def ping() -> bytes:
        connection = http.client.HTTPSConnection(address, 2376, timeout=CLIENT_SECONDS, context=context)
        connection.request("GET", "/_ping")
        return connection.getresponse().read()

    assert at_once(ping) == [b"OK"] * CLIENTS


def test_a_client_that_ends_its_input_early_gets_all_output(host: Pymachine) -> None:
    size = 3_000_000
    script = f'eval "$(pymachine env intro)"; docker run -i --rm {IMAGE} sh -c "sleep 1; cat"'
    done = subprocess.run(
        ["bash", "-c", script], input=b"x" * size, env=host.environment(), capture_output=True, timeout=300, check=True
    )
    assert len(done.stdout) == size
