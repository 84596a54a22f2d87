"""The options --ipv6 and --ipv6-ports, with a driver that records what it is asked to boot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pymachine.docker import daemon_json
from pymachine.driver.abilities import Ipv6Capable
from pymachine.driver.contract import BootRequest
from pymachine.hosts import ipv6
from pymachine.store.record import EngineOptions
from pymachine.store.store import Store
from pymachine_driver_qemu.driver import QemuDriver
from support import cli_calls, projects
from support.cli_calls import Call


class Capable(projects.Sized):
    """A driver whose guests can use IPv6."""

    requests: ClassVar[list[tuple[bool, bool]]] = []
    """`BootRequest.ipv6` and `BootRequest.ipv6_ports` of each boot."""

    def check_ipv6(self) -> None:
        pass

    def start(self, request: BootRequest) -> None:
        self.requests.append((request.ipv6, request.ipv6_ports))
        super().start(request)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a project, which is the current one."""
    Capable.requests.clear()
    monkeypatch.setattr(projects, "Sized", Capable)
    monkeypatch.setattr(ipv6, "host_has_route", lambda: True)
    return projects.enter_folder(tmp_path, monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def call(folder: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    return cli_calls.any_code(capfd)


@pytest.fixture
def succeed(call: Call) -> Callable[..., str]:
    def run(*words: str) -> str:
        code, out, err = call(*words)
        assert code == 0, out + err
        return out + err

    return run


def options(store: Store, name: str) -> tuple[bool, bool]:
    record = store.load(name)
    return record.engine.ipv6, record.ipv6_ports


def origins(text: str) -> dict[str, tuple[Any, str]]:
    return {row["Option"]: (row["Value"], row["From"]) for row in json.loads(text)}


def test_without_the_options_a_machine_has_only_ipv4(succeed: Callable[..., str], store: Store) -> None:
    succeed("create", "--no-share", "shop")
    assert options(store, "shop") == (False, False)
    assert Capable.requests == [(False, False)]
    assert "IPv6Ports" not in store.load("shop").to_json()


def test_a_machine_keeps_the_options_of_its_create(succeed: Callable[..., str], store: Store) -> None:
    succeed("create", "--no-share", "--ipv6", "--ipv6-ports", "shop")
    assert options(store, "shop") == (True, True)
    succeed("restart", "shop")
    assert Capable.requests == [(True, True)] * 2


def test_modify_changes_them_with_a_restart(call: Call, succeed: Callable[..., str], store: Store) -> None:
    succeed("create", "--no-share", "shop")
    for flag in ("--ipv6", "--ipv6-ports"):
        code, _, err = call("modify", flag, "shop")
        assert code != 0
        assert "--restart" in err
    assert options(store, "shop") == (False, False)
    succeed("modify", "--ipv6", "--restart", "shop")
    succeed("modify", "--ipv6-ports", "--restart", "shop")
    assert options(store, "shop") == (True, True)
    assert Capable.requests[1:] == [(True, False), (True, True)]
    succeed("modify", "--no-ipv6", "--no-ipv6-ports", "--restart", "shop")
    assert options(store, "shop") == (False, False)
    assert "exclude each other" in call("modify", "--ipv6", "--no-ipv6", "shop")[2]


def test_a_change_that_fails_changes_neither(
    call: Call, succeed: Callable[..., str], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed("create", "--no-share", "shop")
    with monkeypatch.context() as failing:
        failing.setattr(Capable, "requests", None)  # the start fails
        assert call("modify", "--ipv6", "--ipv6-ports", "--restart", "shop")[0] != 0
    assert options(store, "shop") == (False, False)


@pytest.mark.parametrize("flag", ["--ipv6", "--ipv6-ports"])
def test_other_drivers_refuse_them_before_anything_is_made(call: Call, store: Store, flag: str) -> None:
    code, _, err = call("create", "-d", "none", "--url", "tcp://127.0.0.1:2376", flag, "far")
    assert code != 0
    assert f"none driver does not support {flag}" in err
    assert store.names() == []


def test_a_host_without_an_ipv6_route_is_a_warning(
    succeed: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipv6, "host_has_route", lambda: False)
    assert "This host has no IPv6 route" in succeed("create", "--no-share", "--ipv6", "shop")
    assert "This host has no IPv6 route" not in succeed("create", "--no-share", "--ipv6-ports", "other")


def test_a_machine_follows_the_project_file(succeed: Callable[..., str], folder: Path, store: Store) -> None:
    (folder / "pymachine.toml").write_text("[machine]\nshares = []\nipv6 = true\n")
    succeed("up")
    assert options(store, "shop") == (True, False)
    (folder / "pymachine.toml").write_text("[machine]\nshares = []\nipv6-ports = true\n")
    succeed("up", "--apply")
    assert options(store, "shop") == (False, True)
    found = origins(succeed("inspect", "--origin", "--json", "shop"))
    assert found["ipv6-ports"] == (True, "file")


def test_inspect_says_where_a_value_came_from(succeed: Callable[..., str]) -> None:
    succeed("create", "--no-share", "--ipv6", "shop")
    succeed("modify", "--ipv6-ports", "--restart", "shop")
    found = origins(succeed("inspect", "--origin", "--json", "shop"))
    assert found["ipv6"] == (True, "flag")
    assert found["ipv6-ports"] == (True, "modify")


def test_the_engine_gives_containers_addresses_that_the_user_can_change() -> None:
    plain, _ = daemon_json.content(EngineOptions(ipv6=True), driver_name="qemu")
    assert plain["ipv6"] is True
    assert plain["fixed-cidr-v6"] == daemon_json.CONTAINERS_IPV6
    assert plain["ip6tables"] is True
    chosen = EngineOptions(ipv6=True, arbitrary_flags=["fixed-cidr-v6=fd00:1::/64", "ip6tables=false"])
    changed, _ = daemon_json.content(chosen, driver_name="qemu")
    assert (changed["fixed-cidr-v6"], changed["ip6tables"]) == ("fd00:1::/64", False)
    assert {"base": "fd70:796d:6164::/56", "size": 64} in changed["default-address-pools"]
    # The engine refuses the same setting as a flag and in the file.
    chosen = EngineOptions(ipv6=True, arbitrary_flags=["default-address-pool=base=10.9.0.0/16,size=24"])
    assert "default-address-pools" not in daemon_json.content(chosen, driver_name="qemu")[0]
    assert daemon_json.content(EngineOptions(), driver_name="qemu")[0] == {"labels": ["provider=qemu"]}


def test_machines_of_qemu_can_have_ipv6() -> None:
    assert issubclass(QemuDriver, Ipv6Capable)
