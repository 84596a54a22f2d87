"""Pulls and containers behind a real forward proxy with a password, which listens on this host's loopback."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images, registry as registries, tinyproxy
from support.registry import Registry
from support.runner import Pymachine, private_store
from support.tinyproxy import Proxy

pytestmark = pytest.mark.timeout(1500)

NAME = "behind"
SECRET = "s3cret"
# An old form of 127.0.0.1. The guest's engine takes it for a name, and leaves it to the proxy.
LOOPBACK_NAME = "127.1"


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    """A registry with TLS: of plain HTTP requests, tinyproxy drops all but one of the engine's `Accept` headers."""
    with tempfile.TemporaryDirectory(prefix="pm-registry-") as data, registries.under_private_ca(Path(data)) as running:
        tags = ["1", "2", "3"]
        running.push("team/alpine", tags, images.alpine_like("1", packages="http://none.invalid"), images.config())
        yield running


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with tinyproxy.running(tmp_path_factory.mktemp("proxy"), user="ann", password=SECRET) as running:
        yield running


def docker(program: Pymachine, command: str, *, code: int | None = 0) -> str:
    script = f'set -e\nunset HTTPS_PROXY\neval "$(pymachine env --shell bash {NAME})"\n{command}'
    return program.run(["bash", "-c", script], code=code).text


def files_with_the_password(folder: Path) -> list[Path]:
    # grep skips the holes of disks.
    words = ["grep", "--recursive", "--binary", "--devices=skip", "--files-with-matches", "--fixed-strings"]
    done = subprocess.run([*words, SECRET, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return [Path(line) for line in done.stdout.splitlines()]


def is_private(path: Path, folder: Path) -> bool:
    inner = [each for each in (path, *path.parents) if folder in each.parents]
    return any(each.stat().st_mode & 0o077 == 0 for each in inner)


def test_pulls_go_through_the_proxy(registry: Registry, proxy: Proxy) -> None:
    address = f"{LOOPBACK_NAME}:{registry.port}"
    image = f"{address}/team/alpine"
    with private_store(HTTP_PROXY="", HTTPS_PROXY=proxy.url, NO_PROXY="intern.example") as program:
        made = program("--debug", "create", "--no-share", "--engine-insecure-registry", address, NAME)
        assert SECRET not in made.text
        assert image in docker(program, f"docker pull -q {image}:1")
        assert f"CONNECT {address} HTTP/1.1" in proxy.requests()
        info = docker(program, "docker info")
        assert "10.0.2.2" in info
        assert SECRET not in info
        # The password is shown only in the record.
        shown = [
            program(*words).text
            for words in (("inspect", NAME), ("ls",), ("logs", NAME), ("inspect", "--origin", NAME))
        ]
        assert SECRET not in "".join([*program.processes().values(), *shown])
        # Containers get no proxy without the option.
        assert "proxy" not in docker(program, f"docker run --rm {image}:1 env").lower()
        assert SECRET not in program("--debug", "modify", "--container-proxy", NAME).text
        reached = proxy.url.replace("127.0.0.1", "10.0.2.2")
        # The proxy answers for this name itself.
        look = f"env; http_proxy=$HTTPS_PROXY wget -q -O - http://{tinyproxy.STATISTICS}/"
        shown_inside = docker(program, f"docker run --rm {image}:1 sh -c '{look}'")
        exceptions = "intern.example,10.0.2.2,host.docker.internal,localhost,127.0.0.1,::1"
        for variable in (f"HTTPS_PROXY={reached}", f"https_proxy={reached}", f"NO_PROXY={exceptions}"):
            assert f"{variable}\n" in shown_inside
        assert "HTTP_PROXY=" not in shown_inside.replace("HTTPS_PROXY=", "")
        assert "tinyproxy" in shown_inside.rpartition("PROXY=")[2]
        build = f"printf 'FROM {image}:1\nRUN env\n' | DOCKER_BUILDKIT=0 docker build --no-cache -"
        assert f"HTTPS_PROXY={reached}" in docker(program, build)
        # The password is only in files that only the user can read, and in no log.
        holders = files_with_the_password(program.store.parent)
        assert {"config.json"} <= {path.name for path in holders}
        assert [path for path in holders if path.suffix == ".log" or not is_private(path, program.store.parent)] == []
        docker(program, f"docker run -d --name kept {image}:1 sleep 100000")
        started = "docker inspect -f '{{.State.StartedAt}} {{.State.Pid}} {{.State.Running}}' kept"
        before = docker(program, started)
        program("modify", "--no-host-proxy", NAME)
        docker(program, f"docker pull -q {image}:2", code=1)
        program("modify", "--host-proxy", NAME)
        assert image in docker(program, f"docker pull -q {image}:2")
        assert docker(program, started) == before
        # The engine has it after a start, too.
        program("restart", NAME)
        assert image in docker(program, f"docker pull -q {image}:3")
        program("rm", "-y", NAME)
        assert files_with_the_password(program.store.parent) == []
