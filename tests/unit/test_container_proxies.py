"""Proxies of containers: what `create` and the other commands write into the docker client's config.json."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pymachine.docker import client_config
from pymachine.ssh.local_socket import place
from pymachine.store import paths
from pymachine.store.store import Store
from support import cli_calls, local_sockets, sharing
from support.cli_calls import Call

SECRET = "s3cret"
URL = f"http://ann:{SECRET}@proxy.example:3128"
ENTRY = {"httpsProxy": URL, "noProxy": "intern.example,localhost,127.0.0.1,::1"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    sharing.install(monkeypatch)
    local_sockets.install(monkeypatch)
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy", "no_proxy", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", URL)
    monkeypatch.setenv("NO_PROXY", "intern.example")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYMACHINE_NO_SHARE", "1")
    monkeypatch.setenv("MACHINE_STORAGE_PATH", str(tmp_path / "s"))
    return Store(tmp_path / "s")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / ".docker" / "config.json"


@pytest.fixture
def call(store: Store, capsys: pytest.CaptureFixture[str]) -> Call:
    return cli_calls.expecting_code(capsys, secret=SECRET)


def proxies(config: Path) -> Any:
    return json.loads(config.read_text()).get("proxies")


def said(outcome: tuple[int, str, str]) -> str:
    return outcome[1] + outcome[2]


def address(store: Store, name: str) -> str:
    endpoint = store.load(name).endpoint
    assert endpoint is not None
    return endpoint.url


def write(config: Path, content: object, mode: int = 0o600) -> None:
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps(content))
    config.chmod(mode)


def test_nothing_is_written_unless_it_is_asked_for(call: Call, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("create", "one")
    call("create", "--container-proxy", "--no-host-proxy", "two")
    monkeypatch.delenv("HTTPS_PROXY")
    call("create", "--container-proxy", "three")
    for name in ("one", "two", "three"):
        call("rm", "-y", name)
    assert not config.parent.exists()


def test_the_variable_is_ignored_for_drivers_without_proxies(
    call: Call, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYMACHINE_CONTAINER_PROXY", "1")
    far = ("create", "-d", "none", "--url", "tcp://192.0.2.1:2376")
    call(*far, "far")
    assert not store.load("far").container_proxy
    assert "container-proxy" not in call("inspect", "--origin", "far")[1]
    assert "does not support --container-proxy" in call(*far, "--container-proxy", "other", code=1)[2]
    call("create", "one")
    assert store.load("one").container_proxy


def test_from_create_to_rm(call: Call, store: Store, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = {"default": {"noProxy": "x"}, "tcp://192.0.2.1:2376": {"httpProxy": "http://y"}}
    write(config, {"auths": {"registry": {"auth": "ü"}}, "proxies": others, "credsStore": "pass"})
    call("create", "--container-proxy", "one")
    url = address(store, "one")
    assert proxies(config) == {**others, url: ENTRY}
    assert list(json.loads(config.read_text())) == ["auths", "proxies", "credsStore"]
    assert "ü" in config.read_text()
    shown = json.loads(call("inspect", "one")[1])
    assert (shown["ContainerProxy"], shown["ClientProxies"]) == (True, [url])
    assert re.search(r"^container-proxy +true +flag", call("inspect", "--origin", "one")[1], re.MULTILINE)

    call("clone", "one", "copy")
    assert proxies(config) == {**others, url: ENTRY, address(store, "copy"): ENTRY}
    call("rm", "-y", "copy")
    assert proxies(config) == {**others, url: ENTRY}

    # It follows other proxies, also of a stopped machine.
    monkeypatch.setenv("HTTP_PROXY", "http://other:1")
    call("modify", "--host-proxy", "--restart", "one")
    assert proxies(config)[url] == {"httpProxy": "http://other:1", **ENTRY}
    call("stop", "one")
    call("modify", "--no-host-proxy", "one")
    assert proxies(config) == others
    call("modify", "--host-proxy", "one")
    assert url in proxies(config)
    call("modify", "--no-container-proxy", "one")
    assert proxies(config) == others
    assert not store.load("one").container_proxy
    call("modify", "--container-proxy", "--no-container-proxy", "one", code=1)
    call("modify", "--container-proxy", "one")
    call("rename", "one", "two")
    assert url in proxies(config)
    call("rm", "-f", "-y", "two")
    assert proxies(config) == others


def test_it_follows_a_new_address(call: Call, store: Store, config: Path) -> None:
    call("create", "--container-proxy", "one")
    before = address(store, "one")
    call("stop", "one")
    record = store.load("one")
    record.driver["IPAddress"] = "127.9.9.77"
    record.endpoint = None
    store.save(record)
    call("start", "one")
    assert [before] != list(proxies(config)) == ["tcp://127.9.9.77:2376"]


def test_the_local_socket_has_them_too(call: Call, store: Store, config: Path) -> None:
    call("create", "--container-proxy", "--socket", "one")
    both = {address(store, "one"): ENTRY, place.url(store.machine_dir("one")): ENTRY}
    assert proxies(config) == both
    call("modify", "--no-socket", "one")
    assert list(proxies(config)) == [address(store, "one")]
    call("modify", "--socket", "one")
    assert proxies(config) == both
    call("stop", "one")
    call("rename", "one", "two")
    assert list(proxies(config)) == [address(store, "two"), place.url(store.machine_dir("two"))]
    call("rm", "-y", "two")
    assert json.loads(config.read_text()) == {}


def test_proxies_of_the_user_for_an_address_are_kept(call: Call, store: Store, config: Path) -> None:
    call("create", "one")
    mine = {"proxies": {address(store, "one"): {"httpProxy": "http://mine"}}}
    write(config, mine)
    assert "already" in said(call("modify", "--container-proxy", "one"))
    assert json.loads(config.read_text()) == mine
    call("rm", "-y", "one")
    assert json.loads(config.read_text()) == mine


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b'{"proxies": [1]}',
        b'{"proxies": "x"}',
        b"[" * 100_000,
        b'{"a": "' + SECRET.encode(),
    ],
)
def test_a_wrong_file_creates_nothing(content: bytes, call: Call, store: Store, config: Path) -> None:
    config.parent.mkdir()
    config.write_bytes(content)
    assert str(config) in call("create", "--container-proxy", "one", code=1)[2]
    assert not store.exists("one")
    call("create", "one")
    assert str(config) in call("modify", "--container-proxy", "one", code=1)[2]
    assert not store.load("one").container_proxy
    assert config.read_bytes() == content


def test_a_file_that_turns_wrong_is_only_a_warning(call: Call, store: Store, config: Path) -> None:
    call("create", "--container-proxy", "one")
    config.write_text("{")
    assert "could not be updated" in said(call("restart", "one"))
    assert "could not be removed" in said(call("rm", "-y", "one"))
    assert not store.exists("one")


@pytest.mark.parametrize("content", ["", "{}", '{"proxies": null}'])
def test_an_empty_file_is_filled(content: str, call: Call, store: Store, config: Path) -> None:
    config.parent.mkdir()
    config.write_text(content)
    call("create", "--container-proxy", "one")
    assert proxies(config) == {address(store, "one"): ENTRY}


def test_passwords_are_only_readable_by_the_user(call: Call, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("create", "--container-proxy", "new")
    assert config.stat().st_mode & 0o777 == 0o600
    call("rm", "-y", "new")
    write(config, {}, 0o644)
    call("create", "--container-proxy", "secret")
    assert config.stat().st_mode & 0o777 == 0o600
    call("rm", "-y", "secret")
    write(config, {}, 0o644)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    call("create", "--container-proxy", "open")
    assert config.stat().st_mode & 0o777 == 0o644


def test_docker_config_and_links_are_followed(
    call: Call, store: Store, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (tmp_path / "real.json").write_text("{}")
    (folder / "config.json").symlink_to(tmp_path / "real.json")
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    call("create", "--container-proxy", "one")
    assert proxies(tmp_path / "real.json") == {address(store, "one"): ENTRY}
    assert (folder / "config.json").is_symlink()
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    assert not config.exists()


def test_changes_at_the_same_time_are_all_kept(store: Store, config: Path) -> None:
    def add(number: int) -> None:
        with client_config.changing_proxies() as entries:
            entries[f"tcp://192.0.2.{number}:2376"] = {"httpProxy": "http://proxy"}

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    assert len(proxies(config)) == 40
    assert [path.name for path in config.parent.iterdir()] == ["config.json"]


def test_a_failed_create_leaves_nothing(
    call: Call, store: Store, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise client_config.ClientConfigError("no")

    monkeypatch.setattr("pymachine.hosts.boot._mount_shares", fail)
    call("create", "--container-proxy", "one", code=1)
    assert not store.exists("one")
    assert json.loads(config.read_text()) == {}


def test_machines_without_proxies_of_their_own_refuse_it(call: Call, store: Store, config: Path) -> None:
    words = ("--driver", "none", "--url", "tcp://127.0.0.1:2376")
    assert "does not support --container-proxy" in call("create", *words, "--container-proxy", "one", code=1)[2]
    call("create", *words, "one")
    call("modify", "--container-proxy", "one", code=1)
    assert not config.exists()


def test_a_project_file_asks_for_them(
    call: Call, store: Store, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    file = folder / "pymachine.toml"
    file.write_text("[machine]\nname = 'one'\nshares = []\n")
    call("up", "--apply")
    assert not config.exists()
    file.write_text("[machine]\nname = 'one'\nshares = []\ncontainer-proxy = true\n")
    call("up", "--apply")
    assert proxies(config) == {address(store, "one"): ENTRY}
    file.write_text("[machine]\nname = 'one'\nshares = []\n")
    call("up", "--apply")
    assert proxies(config) is None


def test_records_accept_only_addresses(call: Call, store: Store) -> None:
    call("create", "one")
    path = store.machine_dir("one") / paths.CONFIG
    for wrong in (["x"], [1], "tcp://a", ["tcp://a b"], ["tcp://a"] * 9):
        record = json.loads(path.read_text())
        path.write_text(json.dumps({**record, "ClientProxies": wrong}))
        assert "ClientProxies" in call("inspect", "one", code=1)[2]
        path.write_text(json.dumps(record))
