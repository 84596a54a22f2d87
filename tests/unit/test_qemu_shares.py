"""Shared folders of the driver qemu: its 9p devices, and the mounts in the guest's identity."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from pymachine.driver.contract import BootRequest, Endpoint
from pymachine.driver.kit import guest_mounts
from pymachine.driver.kit.listen_address import ListenAddress
from pymachine.driver.shares import Share
from pymachine.errors import UsageError
from pymachine.hosts import ssh_shares
from pymachine.hosts.host import Host, Hosts
from pymachine.store.record import Machine
from pymachine.store.store import Store
from pymachine_driver_qemu import binary, shares
from pymachine_driver_qemu.binary import Qemu
from pymachine_driver_qemu.machine_spec import MachineSpec
from support.sharing import share

EMPTY = Path("/r/0c6f/empty")
QEMU = Qemu(Path("/usr/bin/qemu-system-x86_64"), (7, 2), has_9p=True)


@pytest.fixture
def folders(tmp_path: Path) -> list[Share]:
    """Three shares, of which the second has vanished, in another order than that of their mounts."""
    for name in ("a,b", "c"):
        (tmp_path / name).mkdir()
    return [
        share(tmp_path / "c", "/z"),
        share(tmp_path / "gone", "/m"),
        share(tmp_path / "a,b", "/a b", read_only=True),
    ]


def devices(given: list[Share], *, has_9p: bool = True) -> list[str]:
    """Return the arguments of QEMU for shared folders."""
    qemu = Qemu(QEMU.path, QEMU.version, has_9p=has_9p)
    config = {"MachineID": "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10"}
    spec = MachineSpec(qemu=qemu, accelerator="tcg", architecture="amd64", config=config, shares=given)
    words = spec.argv("m", Path("/s"), EMPTY.parent, listen=ListenAddress("127.70.1.2", 2376, 22022))
    return [word for word in words if word.startswith(("local,", "virtio-9p"))]


def test_every_machine_has_the_same_devices(folders: list[Share], tmp_path: Path) -> None:
    words = devices(folders)
    assert words[::2] == [
        f"local,id=share0,path={tmp_path}/a,,b,security_model=none,multidevs=remap,readonly=on",
        f"local,id=share1,path={EMPTY},security_model=none,multidevs=remap,readonly=on",
        f"local,id=share2,path={tmp_path}/c,security_model=none,multidevs=remap",
        *(
            f"local,id=share{number},path={EMPTY},security_model=none,multidevs=remap,readonly=on"
            for number in range(3, shares.MOST)
        ),
    ]
    expected = [f"virtio-9p-pci,fsdev=share{number},mount_tag=share{number}" for number in range(shares.MOST)]
    assert words[1::2] == expected == devices([])[1::2]


def test_a_qemu_without_9p_has_no_such_device() -> None:
    assert devices([], has_9p=False) == []


def test_too_many_folders_are_refused_if_qemu_shares_them() -> None:
    shares.check([share("/x", f"/{number}") for number in range(shares.MOST)], QEMU)
    with pytest.raises(UsageError, match="at most 8 folders, not 9"):
        shares.check([share("/x", f"/{number}") for number in range(shares.MOST + 1)], QEMU)
    shares.check([share("/x", f"/{number}") for number in range(shares.MOST + 1)], Qemu(QEMU.path, QEMU.version))


@pytest.mark.parametrize("has_9p", [True, False])
def test_folders_are_shared_over_ssh_if_qemu_has_no_9p(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_9p: bool
) -> None:
    monkeypatch.setattr(binary, "find", lambda *_, **__: Qemu(QEMU.path, QEMU.version, has_9p=has_9p))
    machine = Machine(name="m", driver_name="qemu", driver={}, shares=[share(tmp_path)])
    host = Host(Hosts(Store(tmp_path)), machine)
    assert host.shares_over_ssh() is ssh_shares.applies_to(host.driver) is not has_9p
    # Otherwise QEMU would need devices for them, and the guest would mount them twice.
    assert list(host.boot_request().shares) == ([share(tmp_path)] if has_9p else [])
    machine.shares = []
    assert not host.shares_over_ssh()


def test_the_guest_is_told_what_to_mount(folders: list[Share]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("hostname"))
    request = BootRequest(identity=lambda endpoint: buffer.getvalue(), shares=folders)
    with tarfile.open(fileobj=io.BytesIO(shares.identity(request, Endpoint("127.0.0.1")))) as archive:
        assert "hostname" in archive.getnames()
        member = archive.extractfile(guest_mounts.MEMBER)
        assert member is not None
        rows = [line.split("\t") for line in member.read().decode().splitlines()]
    # A folder that vanished keeps its number.
    assert [(kind, source, point) for kind, source, _, point in rows] == [
        ("9p", "share0", "/a b"),
        ("9p", "share2", "/z"),
    ]
    assert [options.split(",")[:3] for _, _, options, _ in rows] == [
        ["ro", "nosuid", "nodev"],
        ["rw", "nosuid", "nodev"],
    ]


def test_a_machine_without_shares_has_the_plain_identity() -> None:
    assert guest_mounts.with_mounts(b"tar", []) == b"tar"
