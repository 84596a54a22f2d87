"""The driver ``libvirt`` changes only its machine's own domain, volume and address, whatever the record says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pymachine.driver.abilities import HardwareChange
from pymachine.driver.contract import BootRequest, MachineRef
from pymachine.errors import DriverError
from pymachine_driver_libvirt import Driver, connection as libvirts, domain as domains, network, volumes

MACHINE_ID = "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10"
OTHER_ID = "0c6f1a52-0000-4d1f-8f0e-3b1b5e2f7a10"
MAC = "52:54:00:0c:6f:1a"
DISK = "m-0c6f1a52.raw"
NETWORK = f"""
<network><name>default</name><ip address="192.0.2.1"><dhcp>
<range start="192.0.2.2" end="192.0.2.9"/><host mac="{MAC}" ip="192.0.2.3"/>
</dhcp></ip></network>
"""


class FakeError(Exception):
    """A stand-in for ``libvirt.libvirtError``."""

    def __init__(self, code: str = "") -> None:
        super().__init__(code)
        self.code = code

    def get_error_code(self) -> str:
        return self.code


class FakeDomain:
    """A domain that records the calls to it."""

    def __init__(self, name: str, machine_id: str, *, owner: str = "", devices: str = "") -> None:
        self._name, self._id, self.devices = name, machine_id, devices
        self.metadata = _metadata(owner)
        self.live_metadata = ""
        self.calls: list[str] = []

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:  # noqa: N802
        return self._id

    def state(self) -> tuple[str, int]:
        return "VIR_DOMAIN_RUNNING", 0

    def XMLDesc(self, flags: Any = 0) -> str:  # noqa: N802
        metadata = self.metadata if flags == "VIR_DOMAIN_XML_INACTIVE" else self.live_metadata or self.metadata
        return f"<domain><name>{self._name}</name>{metadata}<devices>{self.devices}</devices></domain>"

    def setMetadata(self, kind: str, text: str, *_: Any) -> None:  # noqa: N802
        if kind == "VIR_DOMAIN_METADATA_ELEMENT":
            # libvirt gives only the outermost element the namespace.
            named = text.replace("<machine", f'<p:machine xmlns:p="{domains.NAMESPACE}"')
            self.metadata = f"<metadata>{named.replace('</machine', '</p:machine')}</metadata>"

    def rename(self, name: str, _flags: int) -> None:
        if name == self._name:
            raise FakeError("VIR_ERR_OPERATION_INVALID")
        self._name = name

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.calls.append(name)


def _metadata(owner: str) -> str:
    return f'<metadata><m:machine xmlns:m="{domains.NAMESPACE}"><m:name>{owner}</m:name></m:machine></metadata>'


class FakeLibvirt:
    """The module with its one connection; it records what is removed."""

    def __init__(self, *found: FakeDomain) -> None:
        self.domains = list(found)
        self.removed: list[str] = []
        self.libvirtError = FakeError
        pool = SimpleNamespace(
            name=lambda: "default",
            isActive=lambda: 1,
            listAllVolumes=lambda: [SimpleNamespace(name=lambda: DISK)],
            storageVolLookupByName=lambda name: SimpleNamespace(delete=lambda: self.removed.append(name)),
        )
        networks = SimpleNamespace(
            XMLDesc=lambda _flags=0: NETWORK,
            isActive=lambda: 1,
            isPersistent=lambda: 0,
            update=lambda *words: self.removed.append(words[3]),
        )
        self.connection = SimpleNamespace(
            lookupByUUIDString=self.by_id,
            lookupByName=self.by_name,
            listAllDomains=lambda: self.domains,
            getURI=lambda: "qemu:///system",
            storagePoolLookupByName=lambda _name: pool,
            networkLookupByName=lambda _name: networks,
        )

    def by_id(self, machine_id: str) -> FakeDomain:
        return self._only(each for each in self.domains if each.UUIDString() == machine_id)

    def by_name(self, name: str) -> FakeDomain:
        return self._only(each for each in self.domains if each.name() == name)

    @staticmethod
    def _only(found: Any) -> FakeDomain:
        for each in found:
            return each  # type: ignore[no-any-return]
        raise FakeError("VIR_ERR_NO_DOMAIN")

    def __getattr__(self, name: str) -> Any:
        return 0 if "UNDEFINE" in name else name


@pytest.fixture
def use_libvirt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeLibvirt]:
    def install(*found: FakeDomain) -> FakeLibvirt:
        fake = FakeLibvirt(*found)
        monkeypatch.setattr(libvirts, "library", lambda: fake)
        monkeypatch.setattr(libvirts, "connect", lambda _uri: fake.connection)
        return fake

    return install


def make_driver(folder: Path, name: str = "m", **config: Any) -> Driver:
    known = {"MachineID": MACHINE_ID, "MACAddress": MAC, "DiskVolume": DISK, "Network": "default"}
    return Driver(MachineRef(name, folder, folder, folder / "id_rsa"), {**known, **config})


REQUEST = BootRequest(identity=lambda _endpoint: b"", timeout=1)
ACTIONS: dict[str, Callable[[Driver], object]] = {
    "remove": lambda driver: driver.remove(),
    "kill": lambda driver: driver.kill(),
    "stop": lambda driver: driver.stop(1),
    "start": lambda driver: driver.start(REQUEST),
    "apply_identity": lambda driver: driver.apply_identity(REQUEST),
    "resize": lambda driver: driver.resize(HardwareChange(cpus=1)),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(("owner", "says"), [("", "did not create it"), ("n", 'belongs to the machine "n"')])
def test_a_domain_of_another_machine_is_left_alone(
    action: str, owner: str, says: str, tmp_path: Path, use_libvirt: Callable[..., FakeLibvirt]
) -> None:
    domain = FakeDomain("database", MACHINE_ID, owner=owner)
    fake = use_libvirt(domain)
    with pytest.raises(DriverError, match=says) as caught:
        ACTIONS[action](make_driver(tmp_path))
    assert "the domain database" in caught.value.brief
    assert "pymachine rm -f m" in caught.value.hint
    assert (domain.calls, fake.removed) == ([], [])


def test_a_domain_without_any_metadata_is_left_alone(tmp_path: Path, use_libvirt: Callable[..., FakeLibvirt]) -> None:
    domain = FakeDomain("database", MACHINE_ID)
    domain.metadata = ""
    use_libvirt(domain)
    with pytest.raises(DriverError, match="did not create it"):
        make_driver(tmp_path).remove()
    assert domain.calls == []


def test_removing_a_machine_removes_its_domain_volume_and_address(
    tmp_path: Path, use_libvirt: Callable[..., FakeLibvirt]
) -> None:
    domain = FakeDomain("m", MACHINE_ID, owner="m", devices=f"<mac address='{MAC}'/><source file='/pool/{DISK}'/>")
    fake = use_libvirt(domain, FakeDomain("other", OTHER_ID))
    make_driver(tmp_path).remove()
    assert domain.calls == ["destroy", "undefineFlags"]
    assert fake.removed[0] == DISK
    assert MAC in fake.removed[1]


@pytest.mark.parametrize("devices", [f"<source file='/p/{DISK}'/>", f"<source pool='default' volume='{DISK}'/>"])
def test_a_volume_that_another_domain_uses_is_kept(
    devices: str, tmp_path: Path, use_libvirt: Callable[..., FakeLibvirt]
) -> None:
    """The record's id may begin like another machine's and so name that machine's volume."""
    fake = use_libvirt(FakeDomain("database", OTHER_ID, devices=devices))
    with pytest.raises(volumes.PoolError, match="used by another domain, database"):
        make_driver(tmp_path).remove()
    assert fake.removed == []


def test_an_address_that_another_domain_uses_is_kept(tmp_path: Path, use_libvirt: Callable[..., FakeLibvirt]) -> None:
    fake = use_libvirt(FakeDomain("database", OTHER_ID, devices=f"<mac address='{MAC.upper()}'/>"))
    with pytest.raises(network.NetworkError, match="used by another domain, database"):
        make_driver(tmp_path).remove()
    assert fake.removed == [DISK]


def test_a_running_domain_that_the_user_marked_is_accepted(
    tmp_path: Path, use_libvirt: Callable[..., FakeLibvirt]
) -> None:
    """The error's hint says how to mark it; that changes the configuration, not the running domain."""
    domain = FakeDomain("m", MACHINE_ID, owner="m")
    domain.live_metadata = _metadata("another")
    use_libvirt(domain)
    make_driver(tmp_path).kill()
    assert domain.calls == ["destroy"]


def test_another_domain_may_disappear_during_a_removal(tmp_path: Path, use_libvirt: Callable[..., FakeLibvirt]) -> None:
    class Vanished(FakeDomain):
        def XMLDesc(self, flags: Any = 0) -> str:  # noqa: N802
            raise FakeError("VIR_ERR_NO_DOMAIN")

    domain = FakeDomain("m", MACHINE_ID, owner="m")
    fake = use_libvirt(domain, Vanished("other", OTHER_ID))
    make_driver(tmp_path).remove()
    assert DISK in fake.removed


def test_a_rename_that_was_killed_halfway_is_finished(tmp_path: Path, use_libvirt: Callable[..., FakeLibvirt]) -> None:
    """The domain has its new name; its mark still has the old one."""
    domain = FakeDomain("m", MACHINE_ID, owner="before")
    use_libvirt(domain)
    driver = make_driver(tmp_path, Network="user", IPAddress="127.0.0.9")
    driver.renamed(MachineRef("before", tmp_path, tmp_path, tmp_path / "id_rsa"))
    driver.kill()
    assert domain.calls == ["destroy"]


def test_a_failed_rename_keeps_the_mark_of_the_old_name(
    tmp_path: Path, use_libvirt: Callable[..., FakeLibvirt], monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = FakeDomain("before", MACHINE_ID, owner="before")
    use_libvirt(domain)

    def refuse(*_: Any, **__: Any) -> None:
        raise network.NetworkError("no such network")

    monkeypatch.setattr(network, "release", refuse)
    before = MachineRef("before", tmp_path, tmp_path, tmp_path / "id_rsa")
    with pytest.raises(network.NetworkError):
        make_driver(tmp_path).renamed(before)
    assert domain.name() == "before"
    make_driver(tmp_path, "before").kill()
    assert domain.calls == ["destroy"]


def test_the_mark_is_read_from_the_xml_that_the_driver_writes(tmp_path: Path) -> None:
    domain = FakeDomain("m", MACHINE_ID)
    owner = domains.Owner(name="m", store=str(tmp_path), client="here")
    domain.setMetadata("VIR_DOMAIN_METADATA_ELEMENT", domains.mark(owner))
    assert domains.marked_name(domain.XMLDesc()) == "m"
    made = domains.Machine(name="m", machine_id=MACHINE_ID, mac=MAC, image="/i", disk="/d", owner=owner, network="n")
    hardware = domains.Hardware(architecture="amd64", accelerator="tcg", cpus=1, memory_mib=512)
    xml = domains.machine(hardware, domains.Boot(kernel="/k", initrd="/r", command_line=""), made)
    assert domains.marked_name(xml) == "m"
