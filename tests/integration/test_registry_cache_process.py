"""`cache`, with a real docker-registry in front of another one. No machine is started."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from pymachine.registry_cache import place
from pymachine.registry_cache.place import KEEPER
from pymachine.store import paths
from pymachine.system.wait import until
from support import registry as registries
from support.registry import MANIFEST, Registry
from support.runner import Pymachine, private_store

pytestmark = pytest.mark.timeout(300)

LAYER = b"layer" * 5000
ACCEPT = {"Accept": MANIFEST}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("upstream")


@pytest.fixture(scope="module")
def upstream(data: Path) -> Iterator[Registry]:
    with registries.running(data) as running:
        running.push("library/box", ["1"], LAYER, {"os": "linux"})
        yield running


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Pymachine]:
    with private_store(PYMACHINE_CACHE=str(tmp_path / "cache")) as program:
        yield program
        program("cache", "stop")
        assert not KEEPER.find(folder(program))


def folder(program: Pymachine) -> Path:
    return Path(program.env["PYMACHINE_CACHE"]) / "registry"


def started(program: Pymachine, upstream: Registry, *options: str) -> str:
    return str(json.loads(program("cache", "start", "--json", "--upstream", upstream.url, *options).stdout)["Address"])


def status(program: Pymachine, *, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(program("cache", "status", "--json", code=code).stdout)
    return found


def fetch(program: Pymachine, url: str, *, repository: str = "library/box") -> bytes:
    """Pull the image as an engine does, and return its layer."""
    verify = str(folder(program) / "ca.pem")
    manifest = requests.get(f"{url}/v2/{repository}/manifests/1", headers=ACCEPT, timeout=30, verify=verify)
    manifest.raise_for_status()
    digest = manifest.json()["layers"][0]["digest"]
    layer = requests.get(f"{url}/v2/{repository}/blobs/{digest}", timeout=30, verify=verify)
    layer.raise_for_status()
    return layer.content


def fetched(data: Path) -> int:
    return registries.requests_in(data, "library/box/blobs/")


def stored(program: Pymachine) -> list[Path]:
    return sorted(folder(program).glob("storage-*/docker/registry/v2/blobs/*/*/*/data"))


def until_stored(program: Pymachine, count: int) -> None:
    until(lambda: len(stored(program)) == count, deadline=30, what=f"{count} blobs")


def registry_process(program: Pymachine) -> int:
    """Return the process id of docker-registry, the keeper's child."""
    keeper = KEEPER.find(folder(program))
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    return int(children[0]) if children else 0


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_layer_is_fetched_once_and_again_when_it_was_removed(
    program: Pymachine, upstream: Registry, data: Path
) -> None:
    url = started(program, upstream)
    before = fetched(data)
    assert fetch(program, url) == LAYER
    until_stored(program, 2)  # the manifest and the layer
    first = fetched(data)
    assert first > before
    assert fetch(program, url) == LAYER
    assert fetched(data) == first
    removed = json.loads(program("cache", "prune", "--all", "--json").stdout)
    assert len(removed) == 2
    assert stored(program) == []
    assert fetch(program, url) == LAYER
    assert fetched(data) > first
    until_stored(program, 2)
    # The stored layers are used after a restart, too.
    again = fetched(data)
    program("cache", "stop")
    assert started(program, upstream) == url
    assert fetch(program, url) == LAYER
    assert fetched(data) == again


def test_status_and_exit_codes(program: Pymachine, upstream: Registry) -> None:
    assert status(program, code=1) == {"Running": False}
    url = started(program, upstream, "--limit", "2GB")
    assert "is running already" in program("cache", "start").stdout
    fetch(program, url)
    until_stored(program, 2)
    found = status(program)
    size = found.pop("SizeBytes")
    assert len(LAYER) <= size < 100_000
    expected = {"Address": url, "Upstream": upstream.url, "LimitBytes": 2 << 30, "Blobs": 2, "Problem": ""}
    assert found == {"Running": True, **expected}
    assert program("cache", "stop").stdout == "The registry cache was stopped.\n"
    assert status(program, code=1) == {"Running": False, **expected, "SizeBytes": size}
    assert program("cache", "stop").stdout == "The registry cache is not running.\n"
    error = json.loads(program("cache", "status", "--json", code=1).stderr)["error"]
    assert error["code"] == "registry-cache-not-running"


def test_docker_registry_is_started_again_and_ends_with_its_keeper(program: Pymachine, upstream: Registry) -> None:
    url = started(program, upstream)
    first = registry_process(program)
    os.kill(first, signal.SIGKILL)
    until(lambda: registry_process(program) not in (0, first), deadline=30, what="another docker-registry")
    until(lambda: program("cache", "status", code=None).code == 0, deadline=30, what="an answer")
    assert fetch(program, url) == LAYER
    second = registry_process(program)
    os.kill(KEEPER.find(folder(program)), signal.SIGKILL)
    until(lambda: not is_running(second), deadline=10, what="the end of docker-registry")
    status(program, code=1)
    # Machines keep their URL.
    assert started(program, upstream) == url


def test_it_ends_when_its_folder_is_removed(program: Pymachine, upstream: Registry) -> None:
    started(program, upstream)
    keeper, child = KEEPER.find(folder(program)), registry_process(program)
    shutil.rmtree(folder(program))
    os.kill(keeper, signal.SIGHUP)  # do not wait for the next time
    until(lambda: not is_running(keeper) and not is_running(child), deadline=20, what="the end")


def test_only_the_cache_itself_has_a_certificate_for_its_port(program: Pymachine, upstream: Registry) -> None:
    url = started(program, upstream)
    for name in ("ca-key.pem", "server-key.pem", "state.json", "registry.yml"):
        assert (folder(program) / name).stat().st_mode & 0o777 == 0o600
    assert folder(program).stat().st_mode & 0o777 == 0o700
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{url}/v2/", timeout=5)
    # It listens on the loopback alone.
    port = int(url.rpartition(":")[2])
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", port))


@pytest.mark.usefixtures("upstream")  # it has filled the storage
def test_an_image_that_needs_a_login_is_refused_and_not_stored(program: Pymachine, data: Path, tmp_path: Path) -> None:
    with registries.running(data, users=registries.users_file(tmp_path, "ann:s3cret")) as locked:
        url = started(program, locked)
        verify = str(folder(program) / "ca.pem")
        # Even with a login: the cache passes none on.
        for login in (None, ("ann", "s3cret")):
            wanted = f"{url}/v2/library/box/manifests/1"
            answer = requests.get(wanted, headers=ACCEPT, auth=login, timeout=30, verify=verify)
            assert answer.status_code in (401, 404)
            # So that an engine does not send its login to the cache.
            assert "WWW-Authenticate" not in answer.headers
    assert stored(program) == []


def test_the_storage_is_kept_below_the_limit(program: Pymachine, upstream: Registry) -> None:
    size = 3 << 20
    for tag in ("old", "new"):
        upstream.push(f"library/{tag}", ["1"], tag.encode() * (size // 3), {"os": "linux"})
    url = started(program, upstream, "--limit", "4MB")
    for tag in ("old", "new"):
        fetch(program, url, repository=f"library/{tag}")
    until_stored(program, 4)
    for path in stored(program):
        if path.read_bytes().startswith(b"old"):
            os.utime(path, (1, 1))
    keeper = KEEPER.find(folder(program))
    os.kill(keeper, signal.SIGHUP)  # do not wait for the next time
    until_stored(program, 3)
    assert not [path for path in stored(program) if path.read_bytes().startswith(b"old")]
    assert status(program)["SizeBytes"] <= 4 << 20


def test_another_upstream_has_its_own_images(program: Pymachine, upstream: Registry, tmp_path: Path) -> None:
    url = started(program, upstream)
    fetch(program, url)
    until_stored(program, 2)
    with registries.running(tmp_path) as other:
        other.push("library/box", ["1"], b"other", {"os": "linux"})
        assert started(program, other) == url
        assert fetch(program, url) == b"other"
        until_stored(program, 2)
        assert len(list(folder(program).glob("storage-*"))) == 1
    # Its images can be pulled while it cannot be reached.
    assert fetch(program, url) == b"other"


def test_it_trusts_the_cas_of_config_toml(program: Pymachine, tmp_path: Path) -> None:
    with registries.under_private_ca(tmp_path) as private:
        private.push("library/box", ["1"], LAYER, {"os": "linux"})
        assert "unknown authority" in program("cache", "start", "--upstream", private.url, code=1).stderr
        program.store.mkdir(exist_ok=True)
        (program.store / paths.USER_CONFIG).write_text(f'[certificates]\nca = ["{private.ca}"]\n')
        assert fetch(program, started(program, private)) == LAYER


def test_a_start_that_fails_changes_no_settings(program: Pymachine, upstream: Registry) -> None:
    failed = program("cache", "start", "--upstream", "http://127.0.0.1:9", code=1)
    assert "connection refused" in failed.stderr
    assert status(program, code=1) == {"Running": False}
    url = started(program, upstream)
    fetch(program, url)
    until_stored(program, 2)
    program("cache", "start", "--upstream", "http://127.0.0.1:9", code=1)
    until(lambda: program("cache", "status", code=None).code == 0, deadline=30, what="an answer")
    assert (status(program)["Upstream"], status(program)["Blobs"]) == (upstream.url, 2)
    assert fetch(program, url) == LAYER
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = program("cache", "start", "--port", port, code=1)
        assert f"port {port} of 127.0.0.1 is in use" in refused.stderr
    until(lambda: program("cache", "status", code=None).code == 0, deadline=30, what="an answer")
    without = program("cache", "start", "--json", env={"PATH": "/nonexistent"}, code=1)
    error = json.loads(without.stderr)["error"]
    assert error["code"] == "registry-missing"
    assert "apt-get install docker-registry" in error["hint"]


def test_place_names_are_below_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYMACHINE_CACHE", str(tmp_path))
    assert place.folder(Path("/store")) == tmp_path / "registry"
