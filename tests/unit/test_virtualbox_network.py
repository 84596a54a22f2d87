"""The host-only network, by transcripts of a VirtualBox with its kernel modules."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine_driver_virtualbox import checks, network
from pymachine_driver_virtualbox.errors import HostNetworkError, VirtualBoxError
from pymachine_driver_virtualbox.network import Interface
from support import fake_vboxmanage

HOST = ipaddress.IPv4Interface("192.168.56.1/24")
OLD = ipaddress.IPv4Interface("192.168.99.1/24")
CALLS = fake_vboxmanage.transcript("virtualbox-7.2.22-host-only")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("VBOX_USER_HOME", str(tmp_path / "registry"))
    monkeypatch.setattr("sys.platform", "linux")
    yield


def script(*names: str) -> list[dict[str, object]]:
    return [CALLS[name] for name in names]


def test_an_interface_is_created_and_gets_the_address(tmp_path: Path) -> None:
    calls = script("version", "no interface", "create", "ipconfig")
    with fake_vboxmanage.playing(tmp_path, calls) as vbox:
        assert network.ensure(vbox, HOST) == (Interface("vboxnet0", HOST), True)


def test_an_existing_interface_is_used_unchanged(tmp_path: Path) -> None:
    with fake_vboxmanage.playing(tmp_path, script("version", "one interface")) as vbox:
        assert network.ensure(vbox, HOST) == (Interface("vboxnet0", HOST), False)


def test_a_range_that_is_not_allowed_is_an_error_before_any_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "NETWORKS_CONF", tmp_path / "networks.conf")
    with (
        fake_vboxmanage.playing(tmp_path, script("version", "no interface")) as vbox,
        pytest.raises(HostNetworkError, match="VirtualBox refuses 192.168.99.1/24"),
    ):
        network.ensure(vbox, OLD)


def test_an_interface_whose_address_virtualbox_refuses_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VirtualBox may read another networks.conf than this one."""
    monkeypatch.setattr(network, "check_allowed", lambda wanted: None)
    calls = script("version", "no interface", "create", "ipconfig refused", "remove")
    with (
        fake_vboxmanage.playing(tmp_path, calls) as vbox,
        pytest.raises(VirtualBoxError, match="E_ACCESSDENIED") as caught,
    ):
        network.ensure(vbox, OLD)
    assert "networks.conf" in caught.value.hint


def test_an_existing_dhcp_server_is_left_unchanged(tmp_path: Path) -> None:
    with fake_vboxmanage.playing(tmp_path, script("version", "dhcp servers")) as vbox:
        network.ensure_dhcp(vbox, Interface("vboxnet0", HOST))


def test_two_parallel_requests_make_one_interface(tmp_path: Path) -> None:
    """The second request waits for the lock and then finds the interface."""
    calls = script("version", "no interface", "create", "ipconfig", "version", "one interface")
    found: list[tuple[Interface, bool]] = []
    with fake_vboxmanage.playing(tmp_path, calls) as vbox:

        def ensure() -> None:
            # A VBoxManage of its own: another process would query the version too.
            found.append(network.ensure(type(vbox)(vbox.program), HOST))

        threads = [threading.Thread(target=ensure) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(made for _, made in found) == [False, True]


def test_a_good_host_has_no_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.hardware, "module_problem", lambda: None)
    monkeypatch.setattr(checks.hardware, "processor_problem", lambda traits: None)
    monkeypatch.setattr(network, "NETWORKS_CONF", tmp_path / "networks.conf")
    with fake_vboxmanage.playing(tmp_path, script("version")) as vbox:
        monkeypatch.setenv("PATH", str(vbox.program.parent), prepend=":")
        health = checks.health()
    assert health.usable
    assert health.version == "7.2.22"
