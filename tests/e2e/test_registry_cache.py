"""Real machines that pull through the registry cache of this host. The tests run in the order of this file."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_clones import MADE, RESUMED, with_own_templates

from pymachine.registry_cache.place import KEEPER
from pymachine.system.wait import until
from support import registry as registries
from support.registry import Registry
from support.runner import Pymachine, private_store

pytestmark = pytest.mark.timeout(2400)

CREDENTIALS = "ann:s3cret"
BLOBS = "library/box/blobs/"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("upstream")


@pytest.fixture(scope="module")
def upstream(data: Path) -> Iterator[Registry]:
    """The registry that plays Docker Hub."""
    with registries.running(data) as running:
        for tag in ("1", "2", "3", "4"):
            running.push("library/box", [tag], layer(tag), {"os": "linux", "architecture": "amd64"})
        yield running


@pytest.fixture(scope="module")
def program(upstream: Registry) -> Iterator[Pymachine]:
    """A store with a running cache and a machine. No template for machines with this cache exists before."""
    with private_store() as program:
        with_own_templates(program)
        program("cache", "start", "--upstream", upstream.url)
        try:
            assert MADE in program("create", "--no-share", "one").text
            yield program
        finally:
            program("cache", "stop", code=None)


def layer(tag: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("tag")
        entry.size = len(tag)
        archive.addfile(entry, io.BytesIO(tag.encode()))
    return buffer.getvalue()


def folder(program: Pymachine) -> Path:
    return Path(program.env["PYMACHINE_CACHE"]) / "registry"


def stored(program: Pymachine) -> list[Path]:
    return sorted(folder(program).glob("storage-*/docker/registry/v2/blobs/*/*/*/data"))


def pull(program: Pymachine, tag: str, machine: str = "one", *, code: int = 0) -> str:
    """Pull the image again, whether the machine has it or not."""
    words = f"docker rmi box:{tag} > /dev/null 2>&1; docker pull box:{tag} 2>&1"
    return program("ssh", machine, words, code=code).stdout


def mirrors(program: Pymachine, machine: str = "one") -> list[str]:
    shown = program("ssh", machine, "docker info -f '{{json .RegistryConfig.Mirrors}}'").stdout
    found: list[str] = json.loads(shown) or []
    return found


def address(program: Pymachine) -> str:
    """Return the cache's address in machines."""
    port = json.loads((folder(program) / "state.json").read_text())["port"]
    return f"https://10.0.2.2:{port}"


def test_two_machines_and_a_second_pull_fetch_each_layer_once(program: Pymachine, data: Path) -> None:
    assert "Downloaded newer image" in pull(program, "1")
    until(lambda: len(stored(program)) == 3, deadline=30, what="the manifest, the configuration and the layer")
    fetched = registries.requests_in(data, BLOBS)
    assert fetched > 0
    pull(program, "1")
    # The template for machines with a cache is made once.
    created = program("create", "--no-share", "two").text
    assert (MADE in created, RESUMED in created) == (False, True)
    pull(program, "1", "two")
    assert registries.requests_in(data, BLOBS) == fetched
    assert mirrors(program) == mirrors(program, "two") == [f"{address(program)}/"]
    assert "registry-mirror" not in program("inspect", "two").stdout
    program("rm", "-y", "two")


def test_a_removed_layer_is_fetched_again(program: Pymachine, data: Path) -> None:
    fetched = registries.requests_in(data, BLOBS)
    program("cache", "prune", "--all")
    assert stored(program) == []
    pull(program, "1")
    assert registries.requests_in(data, BLOBS) > fetched
    until(lambda: len(stored(program)) == 3, deadline=30, what="the blobs")


def test_an_image_that_needs_a_login_is_pulled_directly_and_not_stored(
    program: Pymachine, tmp_path: Path, data: Path
) -> None:
    password = CREDENTIALS.partition(":")[2]
    with registries.running(data, users=registries.users_file(tmp_path, CREDENTIALS)) as locked:
        program("cache", "start", "--upstream", locked.url)
        # The registry itself, as Docker Hub is: the engine tries it after the cache.
        add_mirror(program, locked.url_from_guest)
        login = {"auths": {"https://index.docker.io/v1/": {"auth": base64.b64encode(CREDENTIALS.encode()).decode()}}}
        program("ssh", "one", f"mkdir -p .docker; echo '{json.dumps(login)}' > .docker/config.json")
        assert "Downloaded newer image" in pull(program, "2")
        assert "Downloaded newer image" in pull(program, "2")
    program("ssh", "one", "rm -r .docker")
    assert stored(program) == []
    kept = b"".join(path.read_bytes() for path in folder(program).rglob("*") if path.is_file())
    assert password.encode() not in kept
    assert base64.b64encode(CREDENTIALS.encode()) not in kept


def add_mirror(program: Pymachine, url: str) -> None:
    """Let the engine try another mirror after the cache, in the place of Docker Hub."""
    change = f""" sudo jq '."registry-mirrors" = [."registry-mirrors"[0], "{url}"]' /etc/docker/daemon.json"""
    write = "sudo tee /etc/docker/daemon.json > /dev/null; sudo /etc/init.d/docker reload"
    program("ssh", "one", f'set -e; changed=$({change}); echo "$changed" | {write}')
    assert mirrors(program)[1:] == [f"{url}/"]


def test_machines_pull_directly_once_the_cache_is_dead(program: Pymachine, upstream: Registry) -> None:
    add_mirror(program, upstream.url_from_guest)
    os.kill(KEEPER.find(folder(program)), signal.SIGKILL)
    program("cache", "status", code=1)
    assert "Downloaded newer image" in pull(program, "3")


def test_a_machine_gets_and_loses_the_mirror_by_provision(program: Pymachine, upstream: Registry) -> None:
    trust = "ls /etc/docker/certs.d 2> /dev/null"
    program("provision", "one")
    # The engine itself forgets it at its next start: a reload without the setting changes nothing.
    assert "mirror" not in program("ssh", "one", "cat /etc/docker/daemon.json").stdout
    assert program("ssh", "one", trust, code=None).stdout == ""
    program("template", "create", "without", "--from", "one")
    program("cache", "start", "--upstream", upstream.url)
    # Its engine has the mirrors of `one` from its memory until it has reloaded its settings, after `create`.
    program("create", "--no-share", "--template", "without", "three")
    until(lambda: mirrors(program, "three") == [f"{address(program)}/"], deadline=60, what="the mirror")
    assert "Downloaded newer image" in pull(program, "4", "three")
    program("rm", "-y", "three")
    program("modify", "--engine-registry-mirror", upstream.url_from_guest, "one")
    # The user's mirrors come first.
    assert mirrors(program) == [f"{upstream.url_from_guest}/", f"{address(program)}/"]
    program("modify", "--engine-registry-mirror", "", "one")
    assert mirrors(program) == [f"{address(program)}/"]
    assert program("ssh", "one", trust).stdout == f"{address(program).removeprefix('https://')}\n"
    program("rm", "-y", "one")
    program("cache", "stop")
    assert program.remaining_processes() == {}
