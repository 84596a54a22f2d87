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
from pymachine_driver_qemu import binary, runtime, shares
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
    assert ssh_shares.applies_to(host.driver) is not has_9p
    assert host.shares_over_ssh() == ([] if has_9p else machine.shares)
    # Otherwise QEMU would need devices for them, and the guest would mount them twice.
    assert list(host.boot_request().shares) == ([share(tmp_path)] if has_9p else [])
    machine.shares = []
    assert not host.shares_over_ssh()


def mount_rows(folders: list[Share], sockets: Path) -> list[list[str]]:
    """Return the columns of the list of mounts that the guest gets."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("hostname"))
    request = BootRequest(identity=lambda endpoint: buffer.getvalue(), shares=folders)
    with tarfile.open(fileobj=io.BytesIO(shares.identity(request, Endpoint("127.0.0.1"), sockets))) as archive:
        assert "hostname" in archive.getnames()
        member = archive.extractfile(guest_mounts.MEMBER)
        assert member is not None
        return [line.split("\t") for line in member.read().decode().splitlines()]


def test_the_guest_gets_the_list_of_its_mounts(folders: list[Share], tmp_path: Path) -> None:
    rows = mount_rows(folders, tmp_path)
    # A folder that vanished keeps its number.
    assert [(kind, source, point) for kind, source, _, point in rows] == [
        ("9p", "share0", "/a b"),
        ("9p", "share2", "/z"),
    ]
    assert [options.split(",")[:3] for _, _, options, _ in rows] == [
        ["ro", "nosuid", "nodev"],
        ["rw", "nosuid", "nodev"],
    ]


def test_a_folder_that_was_missing_has_no_device_until_the_next_start(folders: list[Share], tmp_path: Path) -> None:
    """It stays missing for this boot when it is back, and so does what it would hide in the guest."""
    sockets = tmp_path / "sockets"
    sockets.mkdir()
    inner = share(tmp_path / "c", "/m/inner", read_only=True)
    given = [*folders, inner]
    shares.note_missing(given, sockets)
    assert shares.missing(sockets) == [folders[1], inner]
    folders[1].path.mkdir()
    assert [row[1] for row in mount_rows(given, sockets)] == ["share0", "share3"]
    empty = sockets / "empty"
    assert [path for path, _ in shares.exports(given, sockets)][:4] == [folders[2].path, empty, empty, folders[0].path]
    assert [mount.path for mount in shares.make_read_only_mounts(given, sockets)] == [folders[2].path]


def test_a_start_with_all_folders_notes_nothing(tmp_path: Path) -> None:
    shares.note_missing([share(tmp_path)], tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert shares.missing(tmp_path) == []


def test_what_a_restored_memory_has_mounted_over_ssh_stays_so(folders: list[Share], tmp_path: Path) -> None:
    shares.note_missing(folders, tmp_path, also=[str(folders[0])])
    assert shares.missing(tmp_path) == folders[:2]


def test_the_core_mounts_what_was_missing_when_the_machine_booted(
    folders: list[Share], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binary, "find", lambda *_, **__: QEMU)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    config = {"MachineID": "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10"}
    machine = Machine(name="m", driver_name="qemu", driver=config, shares=folders)
    host = Host(Hosts(Store(tmp_path)), machine)
    host.directory.mkdir(parents=True)
    assert host.shares_over_ssh() == []
    sockets = runtime.make(host.directory, config["MachineID"])
    shares.note_missing(folders, sockets)
    assert host.shares_over_ssh() == [folders[1]]
    # The next boot may have all.
    assert list(host.boot_request().shares) == folders
    machine.shares = [folders[0]]
    assert host.shares_over_ssh() == []
    runtime.remove(host.directory)
    assert not sockets.exists()


def test_a_machine_without_shares_has_the_plain_identity() -> None:
    assert guest_mounts.with_mounts(b"tar", []) == b"tar"
