"""Values in records: which each field accepts, and the error for any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pymachine.driver import fields, registry
from pymachine.errors import RecordError
from pymachine.hosts.host import Host, Hosts
from pymachine.store.record import Machine
from pymachine.store.store import Store

UUID = "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10"


@pytest.mark.parametrize(
    "user", ["docker", "ubuntu", "root", "DOMAIN\\user", "a@example.org", "first.last", "müller", "_x", "DOM+u"]
)
def test_valid_user_names(user: str) -> None:
    assert fields.is_user(user)


@pytest.mark.parametrize(
    "user",
    [
        "-oProxyCommand=touch x",
        "-l",
        "",
        "a b",
        "a\nb",
        "a;b",
        "$(id)",
        "`id`",
        "a\\",
        "a/b",
        "a\x1bb",
        "#a",
    ],
)
def test_invalid_user_names(user: str) -> None:
    assert not fields.is_user(user)


@pytest.mark.parametrize("host", ["10.0.0.1", "my_host", "host.example.org", "::1", "fe80::1%eth0", "büro"])
def test_valid_host_names(host: str) -> None:
    assert fields.is_host(host)


@pytest.mark.parametrize(
    "host", ["-oProxyCommand=x", "", "a b", "a,b", "a/b", "u@h", "a\nb", "$HOME", "[::1]", "a;b", "'"]
)
def test_invalid_host_names(host: str) -> None:
    assert not fields.is_host(host)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.70.255.3"])
def test_valid_loopback_addresses(address: str) -> None:
    assert fields.LOOPBACK.fits(address)


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "127.0.0.1,x", "127.0.0", "127.0.0.256", "127.0.0.1.", "127.0.0.1\n", 1]
)
def test_invalid_loopback_addresses(address: Any) -> None:
    assert not fields.LOOPBACK.fits(address)


def test_paths_that_are_not_utf_8_are_accepted() -> None:
    assert fields.TEXT.fits("/caf\udce9")
    assert fields.PATH.fits("/caf\udce9")
    assert not fields.PATH.fits("/caf\ud800")
    assert not fields.TEXT.fits("a\ud800")
    assert not fields.TEXT.fits("a\x9b")


# An empty list without a type of its own cannot be checked in a row of values.
NO_LIST: list[object] = []
# Driver, key and invalid value.
WRONG: list[tuple[str, str, Any]] = [
    *(("qemu", "MachineID", value) for value in ("../../x", "0", "", 7)),
    *(("qemu", "IPAddress", value) for value in ("0.0.0.0", "127.0.0.1,hostfwd=tcp::1-:1", "", NO_LIST)),
    *(("qemu", "CPU", value) for value in (0, -1, 256, 10**400, "2", 2.0, True, NO_LIST)),
    *(("qemu", "Memory", value) for value in (0, 1 << 40, "1024", float("nan"))),
    *(("qemu", "TBSize", value) for value in (-5, 1 << 20, "256,x=y")),
    ("qemu", "Accelerator", "tcg,tb-size=1"),
    ("qemu", "Arch", "mips"),
    ("qemu", "QemuBinary", "/bin/sh\0"),
    ("qemu", "PreviousImage", {"QemuBinary": "/tmp/x"}),
    ("qemu", "PreviousImage", []),
    ("qemu", "EnginePort", 65536),
    ("generic", "IPAddress", "-oProxyCommand=x"),
    ("generic", "EnginePort", -1),
    ("virtualbox", "VMUUID", "--help"),
    ("virtualbox", "Boot2DockerImportVM", "-x"),
    ("virtualbox", "NatNicType", "--x"),
    ("virtualbox", "UIType", "a b"),
    ("libvirt", "ConnectionURI", "qemu+ext:///system?command=/tmp/x"),
    ("libvirt", "ConnectionURI", "qemu+ssh://h/system?no_tty=1&command=/tmp/x"),
    ("libvirt", "ConnectionURI", "qemu+ssh://h/system?no_tty=1&%63ommand=/tmp/x"),
    ("libvirt", "ConnectionURI", "qemu+ssh://[x"),
    ("libvirt", "MachineID", "x"),
    ("libvirt", "MachineID", None),
    ("libvirt", "ImageSet", "someone-elses"),
    ("libvirt", "XMLPatches", "<domain/>"),
    ("none", "URL", ["tcp://h:1"]),
]
BASE: list[tuple[str, Any]] = [
    ("SSHUser", "-oProxyCommand=touch x"),
    ("SSHUser", 7),
    ("SSHPort", "22"),
    ("SSHPort", 65536),
    ("SSHKeyPath", "/a\0b"),
    ("SSHKeyPath", ["/a"]),
    ("IPAddress", {}),
    ("MachineName", 7),
    ("StorePath", 7),
]


def _config(driver: str) -> dict[str, Any]:
    own = {"MachineID": UUID, "MACAddress": "52:54:00:12:34:56"} if driver == "libvirt" else {}
    return {"IPAddress": "127.70.1.1", "SSHUser": "docker", "SSHPort": 22, **own}


@pytest.mark.parametrize(("driver", "key", "value"), WRONG)
def test_a_value_that_the_driver_does_not_accept_is_named(tmp_path: Path, driver: str, key: str, value: Any) -> None:
    machine = Machine(name="m", driver_name=driver, driver={**_config(driver), key: value})
    with pytest.raises(RecordError, match=rf'machine "m": config.json: Driver\.{key} is .*, expected'):
        Host(Hosts(Store(tmp_path)), machine).driver  # noqa: B018 (the property raises)


@pytest.mark.parametrize(("key", "value"), BASE)
def test_a_value_that_no_driver_accepts_is_named(key: str, value: Any) -> None:
    record = {"ConfigVersion": 3, "DriverName": "amazonec2", "Driver": {key: value}, "HostOptions": {}}
    with pytest.raises(RecordError, match=rf'machine "m": config.json: Driver\.{key} is .*, expected'):
        Machine.from_json(record, name="m")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"Expires": 10**30}, "Expires"),
        ({"Expires": "soon"}, "Expires"),
        ({"CertificatesExpire": -1}, "CertificatesExpire"),
        ({"DockerContext": "--help"}, "DockerContext"),
        ({"DockerContext": ["a"]}, "DockerContext"),
        ({"Owner": "a\nb"}, "Owner"),
        ({"Endpoint": {"Address": 7}}, r"Endpoint\.Address"),
        ({"Endpoint": {"Address": "h", "DockerPort": 2.5}}, r"Endpoint\.DockerPort"),
        ({"Endpoint": {"Address": "h", "SshUser": "-x"}}, r"Endpoint\.SshUser"),
        ({"HostOptions": {"AuthOptions": {"CaCertPath": 7}}}, r"AuthOptions\.CaCertPath"),
        ({"HostOptions": {"EngineOptions": {"Labels": "a=b"}}}, r"EngineOptions\.Labels"),
        ({"HostOptions": {"SwarmOptions": {"Overcommit": float("inf")}}}, r"SwarmOptions\.Overcommit"),
        ({"HostOptions": {"SwarmOptions": {"Overcommit": 10**400}}}, r"SwarmOptions\.Overcommit"),
    ],
)
def test_pymachines_own_fields_are_checked(changed: dict[str, Any], field: str) -> None:
    record = {"ConfigVersion": 3, "DriverName": "none", "Driver": {}, "HostOptions": {}, **changed}
    with pytest.raises(RecordError, match=rf"config.json: {field} is .*, expected"):
        Machine.from_json(record, name="m")


def test_null_means_a_missing_value(tmp_path: Path) -> None:
    machine = Machine(name="m", driver_name="qemu", driver={**_config("qemu"), "CPU": None, "EnginePort": None})
    driver = Host(Hosts(Store(tmp_path)), machine).driver
    assert driver.endpoint().docker_port == 2376
    assert "CPU" not in driver.config


def test_unknown_fields_are_kept() -> None:
    config = {"IPAddress": "127.70.1.1", "FromTheFuture": {"a": [1]}}
    assert fields.check(registry.load("qemu"), config, name="m") == config
    assert "FromTheFuture" not in fields.known(registry.load("qemu"))


def test_a_long_value_is_shortened_in_the_error() -> None:
    with pytest.raises(RecordError) as failed:
        fields.check(registry.load("qemu"), {"CPU": "x\x1b" * 100_000}, name="m")
    assert len(failed.value.brief) < 300
    assert "\x1b" not in failed.value.brief
