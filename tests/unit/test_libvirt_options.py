"""Decisions of the driver ``libvirt`` without a connection: options, hosts, addresses, the missing library."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pymachine.driver.contract import BootRequest, Endpoint, MachineRef
from pymachine.driver.kit import option_checks, search_domains
from pymachine.driver.shares import MOST
from pymachine.driver.testing import defaults
from pymachine.errors import UsageError
from pymachine.hosts import shares, ssh_shares
from pymachine_driver_libvirt import Driver, connection, define, hosts, listen_address, network, options
from support.sharing import share

NETWORK = """
<network>
  <name>lab</name>
  <forward mode="route" dev="eth0"/>
  <ip family="ipv6" address="fd00::1" prefix="64"><dhcp><range start="fd00::2" end="fd00::9"/></dhcp></ip>
  <ip address="192.0.2.1" netmask="255.255.255.0">
    <dhcp>
      <range start="192.0.2.2" end="192.0.2.4"/>
      <host mac="52:54:00:AA:BB:CC" name="printer" ip="192.0.2.3"/>
    </dhcp>
  </ip>
</network>
"""


@pytest.mark.parametrize(("accelerator", "wanted", "count"), [("tcg", True, 1), ("kvm", True, 0), ("tcg", False, 0)])
def test_aslr_is_turned_off_only_in_software_emulation(accelerator: str, wanted: bool, count: int) -> None:
    config = {"AcceleratorInUse": accelerator, "NoASLR": wanted}
    assert define.command_line(config, "rw").split().count("norandmaps") == count


@pytest.mark.parametrize("uri", ["qemu:///session", "qemu:///system", "qemu+ssh://elsewhere/system"])
def test_folders_are_shared_over_ssh_with_every_libvirt(uri: str, tmp_path: Path) -> None:
    driver = Driver(MachineRef("x", tmp_path, tmp_path, tmp_path / "id_rsa"), {"ConnectionURI": uri})
    assert ssh_shares.applies_to(driver)
    # Without a name, only those of a machine on this host.
    assert shares.is_on_this_host(driver) is ("elsewhere" not in uri)
    driver.check_shares([share(tmp_path, f"/{number}") for number in range(MOST)])


@pytest.mark.parametrize(
    ("network", "uri", "is_given"),
    [
        (options.USER_NETWORK, "qemu:///session", True),
        (options.USER_NETWORK, "qemu+ssh://elsewhere/session", False),
        ("default", "qemu:///system", False),
    ],
)
def test_a_guest_gets_this_hosts_search_domains_only_on_a_local_user_network(
    network: str, uri: str, is_given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_domains, "host_domains", lambda: ["corp.example"])
    config = {"Network": network, "ConnectionURI": uri, "IPAddress": "127.0.0.9"}
    driver = Driver(MachineRef("x", tmp_path, tmp_path, tmp_path / "id_rsa"), config)
    with io.BytesIO() as plain:
        tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT).close()
        request = BootRequest(identity=lambda endpoint: plain.getvalue(), timeout=1)
        sent = driver._identity(request)
    assert (b"corp.example" in sent) == is_given


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("libvirt-cpu-count", 0, "--libvirt-cpu-count is 0, expected 1 to 255"),
        ("libvirt-cpu-count", -2, "expected 1 to 255, or -1"),
        ("libvirt-memory", 100, "--libvirt-memory is 100, expected at least 512 MB"),
        ("libvirt-disk-size", 1, "--libvirt-disk-size is 1, expected at least 1000 MB"),
        ("libvirt-accelerator", "hvf", "expected one of auto, kvm, tcg"),
        ("libvirt-cpu-mode", "a b", "--libvirt-cpu-mode is 'a b'"),
        ("libvirt-machine-type", "'q35", "--libvirt-machine-type"),
        ("libvirt-xml-patch", ("/no/such/file",), "cannot read /no/such/file: No such file"),
    ],
)
def test_a_bad_value_is_refused_with_its_flag(name: str, value: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        options.check({**defaults(Driver), name: value})


def test_the_defaults_are_valid_and_image_paths_become_absolute(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    choices = options.check(defaults(Driver, libvirt_boot2docker_url="my.iso"))
    assert choices.image == str(tmp_path / "my.iso")
    assert choices.host == "qemu:///system"


def test_the_cpu_count_depends_on_libvirts_host() -> None:
    most, default = options.MOST_CPUS, options.DEFAULT_CPUS
    assert option_checks.cpus_of_host(default, host=1, default=default, most=most) == 1
    assert option_checks.cpus_of_host(-1, host=16, default=default, most=most) == 16
    assert option_checks.cpus_of_host(8, host=4, default=default, most=most) == 8


# -- hosts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["qemu:///system", "qemu+ssh://root@h/system?keyfile=/k", "qemu+tls://h/system"])
def test_a_qemu_uri_is_used_as_given(uri: str, tmp_path: Path) -> None:
    assert hosts.resolve(uri, tmp_path) == ("", uri)


def test_libvirts_test_driver_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="test driver, whose machines exist only in memory and run nothing") as caught:
        hosts.resolve("test:///default", tmp_path)
    assert "qemu:///system" in caught.value.hint


@pytest.mark.parametrize("uri", ["xen:///system", "lxc:///", "http://h/", "vbox+ssh://h/session"])
def test_other_hypervisors_are_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a URI that begins with qemu"):
        hosts.resolve(uri, tmp_path)


def test_hosts_are_found_by_name_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        '[libvirt.hosts]\nattic = "qemu+ssh://root@attic/system"\nlab = "test:///d"\n'
    )
    assert hosts.resolve("attic", tmp_path) == ("attic", "qemu+ssh://root@attic/system")
    with pytest.raises(hosts.HostsError, match="no libvirt host called 'cellar'") as caught:
        hosts.resolve("cellar", tmp_path)
    assert "Known hosts: attic, lab." in caught.value.hint
    with pytest.raises(UsageError, match="test driver"):
        hosts.resolve("lab", tmp_path)


@pytest.mark.parametrize("text", ["[libvirt.hosts", "libvirt = 1", "[libvirt]\nhosts = 1", "[libvirt.hosts]\na = 1"])
def test_a_bad_host_configuration_is_refused_with_its_path(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(hosts.HostsError, match=r"config\.toml"):
        hosts.resolve("attic", tmp_path)


@pytest.mark.parametrize(
    ("uri", "local", "session", "address"),
    [
        ("qemu:///system", True, False, ""),
        ("qemu+unix:///session?socket=/x", True, True, ""),
        ("qemu+ssh://me@attic.example.org:2222/session", False, True, "attic.example.org"),
        ("qemu+tls://[fd00::1]/system", False, False, "fd00::1"),
    ],
)
def test_a_uri_says_whether_it_is_local_or_a_session_and_its_address(
    uri: str, local: bool, session: bool, address: str
) -> None:
    assert (hosts.is_local(uri), hosts.is_session(uri), hosts.address(uri)) == (local, session, address)


# -- networks -----------------------------------------------------------------------------------------------------


def test_reserved_and_used_addresses_of_a_network_are_not_chosen() -> None:
    lab = network.parse(NETWORK)
    assert (lab.name, lab.reached_by_others, lab.ranges) == ("lab", True, (("192.0.2.2", "192.0.2.4"),))
    assert lab.reservations == (network.Reservation("52:54:00:aa:bb:cc", "192.0.2.3", "printer"),)
    assert network.choose(lab, {"192.0.2.2"}) == "192.0.2.4"
    assert {network.choose(lab, set()) for _ in range(100)} == {"192.0.2.2", "192.0.2.4"}
    with pytest.raises(network.NetworkError, match="network lab has no free address left"):
        network.choose(lab, {"192.0.2.2", "192.0.2.4"})


@pytest.mark.parametrize(("forward", "mode"), [("<forward/>", "nat"), ("", ""), ("<forward mode='open'/>", "open")])
def test_the_forward_mode_of_a_network_is_read(forward: str, mode: str) -> None:
    found = network.parse(f"<network><name>n</name>{forward}</network>")
    assert (found.mode, found.reached_by_others) == (mode, mode == "open")


def test_a_record_without_ports_has_the_usual_ones() -> None:
    found = listen_address.of({"IPAddress": "192.168.122.7"})
    assert found.endpoint == Endpoint("192.168.122.7", docker_port=2376, ssh_port=22)
    assert found.forwards("qemu:///system") is None


def test_forwards_listen_on_the_machines_address_or_on_all_of_a_remote_host() -> None:
    found = listen_address.ListenAddress("127.70.1.2", 2376, 22022, options.USER_NETWORK)
    here = found.forwards("qemu:///session")
    there = found.forwards("qemu+ssh://attic/system")
    assert here is not None
    assert there is not None
    assert (here.address, there.address) == ("127.70.1.2", "")


# -- libvirt's library --------------------------------------------------------------------------------------------


def test_health_says_how_to_install_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    connection.library.cache_clear()
    health = Driver.health()
    connection.library.cache_clear()
    assert not health.usable
    assert "cannot be loaded" in health.problem
    assert "the package libvirt-python" in health.fix


@pytest.mark.parametrize(
    ("uri", "said", "hint"),
    [
        (
            "qemu:///system",
            "Failed to connect socket to '/run/x': No such file or directory",
            "systemctl start libvirtd",
        ),
        ("qemu:///system", "Failed to connect socket to '/run/x': Permission denied", "usermod -aG libvirt"),
        ("qemu:///system", "authentication unavailable: no polkit agent available", "usermod -aG libvirt"),
        ("qemu:///session", "Cannot recv data", "virsh -c 'qemu:///session' version"),
        (
            "qemu+ssh://attic/system",
            "ssh: connect to host attic port 22: No route",
            "virsh -c 'qemu+ssh://attic/system'",
        ),
    ],
)
def test_a_failed_connection_has_a_hint_for_its_cause(uri: str, said: str, hint: str) -> None:
    assert hint in connection.hint(uri, said)
