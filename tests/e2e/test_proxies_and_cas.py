"""Pulls and containers behind a real forward proxy with a password, and pulls from a registry of a private CA.

Both are engine settings that change on the fly, so all tests use one machine. They run in the order of this file.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.store import paths
from support import images, registry as registries, tinyproxy
from support.registry import USER_NETWORK_HOST, Registry
from support.runner import Pymachine, private_store
from support.tinyproxy import Proxy

pytestmark = pytest.mark.timeout(1500)

NAME = "behind"
SECRET = "s3cret"
# An old form of 127.0.0.1. The guest's engine takes it for a name, and leaves it to the proxy.
LOOPBACK_NAME = "127.1"
CONTAINER_STATE = "docker inspect -f '{{.State.StartedAt}} {{.State.Pid}} {{.State.Running}}' kept"


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    """A registry with a certificate of a private CA.

    It has TLS for the proxy too: of plain HTTP requests, tinyproxy drops all but one of the engine's `Accept` headers.
    """
    with tempfile.TemporaryDirectory(prefix="pm-registry-") as data, registries.under_private_ca(Path(data)) as running:
        tags = ["1", "2", "3"]
        running.push("team/alpine", tags, images.alpine_like("1", packages="http://none.invalid"), images.config())
        yield running


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with tinyproxy.running(tmp_path_factory.mktemp("proxy"), user="ann", password=SECRET) as running:
        yield running


@pytest.fixture(scope="module")
def machine(registry: Registry, proxy: Proxy) -> Iterator[Pymachine]:
    """A machine that uses the proxy, and trusts the CA. It reaches the registry through the proxy without the CA."""
    insecure = ["--engine-insecure-registry", f"{LOOPBACK_NAME}:{registry.port}"]
    with private_store(HTTP_PROXY="", HTTPS_PROXY=proxy.url, NO_PROXY="intern.example") as program:
        made = program("--debug", "create", "--no-share", *insecure, "--ca-cert", str(registry.ca), NAME)
        assert SECRET not in made.text
        yield program


@pytest.fixture(scope="module")
def proxied(registry: Registry) -> str:
    """The image's name without a tag, in the registry that the engine reaches through the proxy."""
    return f"{LOOPBACK_NAME}:{registry.port}/team/alpine"


@pytest.fixture(scope="module")
def signed(registry: Registry) -> str:
    """The image's name without a tag, in the registry that the engine reaches directly, and verifies."""
    return f"{USER_NETWORK_HOST}:{registry.port}/team/alpine"


def docker(program: Pymachine, command: str, *, code: int | None = 0) -> str:
    script = f'set -e\nunset HTTPS_PROXY\neval "$(pymachine env --shell bash {NAME})"\n{command}'
    return program.run(["bash", "-c", script], code=code).text


def is_trusted(program: Pymachine, image: str) -> bool:
    """Whether the engine trusts the registry. It looks for a tag that the registry does not have."""
    output = docker(program, f"docker pull -q {image}:missing", code=1)
    assert ("not found" in output) != ("certificate signed by unknown authority" in output)
    return "not found" in output


def files_with_the_password(folder: Path) -> list[Path]:
    # grep skips the holes of disks.
    words = ["grep", "--recursive", "--binary", "--devices=skip", "--files-with-matches", "--fixed-strings"]
    done = subprocess.run([*words, SECRET, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return [Path(line) for line in done.stdout.splitlines()]


def is_private(path: Path, folder: Path) -> bool:
    inner = [each for each in (path, *path.parents) if folder in each.parents]
    return any(each.stat().st_mode & 0o077 == 0 for each in inner)


def test_pulls_go_through_the_proxy(machine: Pymachine, proxy: Proxy, registry: Registry, proxied: str) -> None:
    shown = docker(machine, f"docker pull -q {proxied}:1; docker info")
    assert f"{proxied}:1" in shown
    assert f"CONNECT {LOOPBACK_NAME}:{registry.port} HTTP/1.1" in proxy.requests()
    assert "10.0.2.2" in shown
    # The password is shown only in the record.
    words = (("inspect", NAME), ("ls",), ("logs", NAME), ("inspect", "--origin", NAME))
    assert SECRET not in "".join([shown, *(machine(*each).text for each in words)])


def test_pulls_from_a_registry_of_a_private_ca(machine: Pymachine, signed: str) -> None:
    assert f"{signed}:1" in docker(machine, f"docker pull -q {signed}:1")


def test_containers_and_builds_have_the_proxy_with_the_option(machine: Pymachine, proxy: Proxy, proxied: str) -> None:
    create = f"docker create --name without {proxied}:1 env; docker inspect -f '{{{{.Config.Env}}}}' without"
    assert "proxy" not in docker(machine, create).lower()
    assert SECRET not in machine("--debug", "modify", "--container-proxy", NAME).text
    reached = proxy.url.replace("127.0.0.1", "10.0.2.2")
    run = f"docker run -d --name kept --stop-signal=KILL {proxied}:1 sleep 100000 > /dev/null"
    # The proxy answers for this name itself.
    look = f"env; http_proxy=$HTTPS_PROXY wget -q -O - http://{tinyproxy.STATISTICS}/"
    shown = docker(machine, f"{run}; docker exec kept sh -c '{look}'")
    exceptions = "intern.example,10.0.2.2,host.docker.internal,localhost,127.0.0.1,::1"
    for variable in (f"HTTPS_PROXY={reached}", f"https_proxy={reached}", f"NO_PROXY={exceptions}"):
        assert f"{variable}\n" in shown
    assert "HTTP_PROXY=" not in shown.replace("HTTPS_PROXY=", "")
    assert "tinyproxy" in shown.rpartition("PROXY=")[2]
    build = f"printf 'FROM {proxied}:1\nRUN env\n' | DOCKER_BUILDKIT=0 docker build --no-cache -"
    assert f"HTTPS_PROXY={reached}" in docker(machine, build)


def test_the_password_is_only_in_private_files_and_in_no_command_line(machine: Pymachine) -> None:
    holders = files_with_the_password(machine.store.parent)
    assert {"config.json"} <= {path.name for path in holders}
    assert [path for path in holders if path.suffix == ".log" or not is_private(path, machine.store.parent)] == []
    assert SECRET not in "".join(machine.processes().values())


def test_changes_restart_no_container(machine: Pymachine, registry: Registry, proxied: str, signed: str) -> None:
    before = docker(machine, CONTAINER_STATE)
    assert before.endswith(" true\n")
    # Without the proxy, pulls are refused, and with it they work again.
    machine("modify", "--no-host-proxy", NAME)
    docker(machine, f"docker pull -q {proxied}:2", code=1)
    # The same for the CA.
    machine("modify", "--host-proxy", "--ca-cert", "", NAME)
    assert f"{proxied}:2" in docker(machine, f"docker pull -q {proxied}:2")
    assert not is_trusted(machine, signed)
    machine("modify", "--ca-cert", str(registry.ca), NAME)
    assert is_trusted(machine, signed)
    assert docker(machine, CONTAINER_STATE) == before
    # The engine's settings are as before: it does not keep containers alive by default.
    # The container can still be used.
    state = "docker info -f '{{.LiveRestoreEnabled}}'; docker exec kept echo used"
    assert docker(machine, state) == "false\nused\n"


def test_the_next_start_uses_the_proxy_and_the_ca_of_config_toml(
    machine: Pymachine, registry: Registry, proxied: str, signed: str
) -> None:
    machine("stop", NAME)
    machine("modify", "--ca-cert", "", NAME)
    (machine.store / paths.USER_CONFIG).write_text(f'[certificates]\nca = ["{registry.ca}"]\n')
    machine("start", NAME)
    assert f"{proxied}:3" in docker(machine, f"docker pull -q {proxied}:3")
    assert is_trusted(machine, signed)


def test_no_file_has_the_password_after_rm(machine: Pymachine) -> None:
    machine("rm", "-y", NAME)
    assert files_with_the_password(machine.store.parent) == []
