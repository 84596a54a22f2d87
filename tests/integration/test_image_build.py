"""A real image build from the Debian mirror, and the `image` commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.runner import Outcome, Pymachine, cache_folder, private_store

PACKAGES = {"docker.io", "containerd", "runc", "stunnel4", "openssh-server", "busybox-static", "libc6"}
UNWANTED = {"systemd", "perl-base", "dpkg", "debconf", "adduser", "initramfs-tools"}


def run(program: Pymachine, *arguments: str) -> Outcome:
    return program("image", *arguments)


@pytest.fixture(scope="module")
def builder() -> Iterator[Pymachine]:
    """A store with its own images, and the packages that all test runs share."""
    with private_store() as program:
        own = program.home / "cache"
        shared = cache_folder() / "packages"
        shared.mkdir(parents=True, exist_ok=True)
        own.mkdir()
        (own / "packages").symlink_to(shared)
        program.env["PYMACHINE_CACHE"] = str(own)
        yield program


@pytest.fixture(scope="module")
def built(builder: Pymachine) -> dict[str, Any]:
    """The output of `image show` for an amd64 image that is built for these tests."""
    assert run(builder, "build", "--arch", "amd64", "--write-lock", str(builder.home / "lock")).code == 0
    return show(builder)


def show(builder: Pymachine) -> dict[str, Any]:
    (listed,) = json.loads(run(builder, "ls", "--json").stdout)
    found: dict[str, Any] = json.loads(run(builder, "show", listed["name"], "--json").stdout)
    return found


def test_the_manifest_names_each_package_and_file(built: dict[str, Any]) -> None:
    packages = {package["name"]: package for package in built["packages"]}
    assert packages.keys() >= PACKAGES
    assert not packages.keys() & UNWANTED
    assert built["engine"] in packages["docker.io"]["version"]
    assert all(len(package["sha256"]) == 64 for package in packages.values())
    assert built["kernel"] in "".join(packages)
    folder = Path(built["path"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "boot2docker.iso",
        "built",
        "initrd.img",
        "manifest.json",
        "vmlinuz",
    ]
    assert folder.name == f"amd64-{built['digest'][:12]}"
    assert built["files"]["boot2docker.iso"]["size"] < 450 * 2**20


def test_docker_machine_recognizes_the_iso(built: dict[str, Any]) -> None:
    data = (Path(built["path"]) / "boot2docker.iso").open("rb")
    with data:
        data.seek(0x8028)
        assert data.read(32).decode().strip() == f"Boot2Docker-v{built['engine']}"


def test_the_root_file_system_has_what_the_guest_needs(built: dict[str, Any]) -> None:
    from pycdlib import PyCdlib

    iso: Any = PyCdlib()
    iso.open(str(Path(built["path"]) / "boot2docker.iso"))

    def mode(path: str) -> int:
        return int(iso.get_record(rr_path=path).rock_ridge.get_file_mode())

    try:
        assert mode("/usr/bin/sudo") & 0o7777 == 0o4755
        for program in ("sbin/dockerd", "bin/containerd", "sbin/runc", "sbin/sshd", "bin/stunnel4", "bin/busybox"):
            assert mode(f"/usr/{program}") & 0o111, program
        assert mode("/usr/bin/sshfs") & 0o111
        names = {name for _, _, files in iso.walk(rr_path=f"/usr/lib/modules/{built['kernel']}") for name in files}
    finally:
        iso.close()
    needed = {
        "overlay",
        "ext4",
        "veth",
        "bridge",
        "br_netfilter",
        "isofs",
        "virtio_blk",
        "virtio_net",
        "button",
        "evdev",
    }
    assert {f"{name}.ko" for name in needed} <= names
    assert {"modules.dep.bin", "modules.alias.bin", "modules.builtin.bin"} <= names
    assert not [name for name in names if name.endswith(".xz")]


def test_cached_packages_of_a_lock_make_the_same_bytes_without_a_mirror(
    builder: Pymachine, built: dict[str, Any]
) -> None:
    builder.env["TZ"] = "Pacific/Auckland"
    lock = str(builder.home / "lock")
    run(builder, "build", "--arch", "amd64", "--lock", lock, "--mirror", "http://127.0.0.1:9/debian")
    assert show(builder)["digest"] == built["digest"]


def test_an_unreachable_mirror_is_reported(tmp_path: Path) -> None:
    with private_store() as program:
        program.env["PYMACHINE_CACHE"] = str(tmp_path)
        outcome = program("image", "build", "--mirror", "http://127.0.0.1:9/debian", code=None)
    assert outcome.code != 0
    assert "http://127.0.0.1:9/debian" in outcome.text
    assert "PYMACHINE_MIRROR" in outcome.text


def test_verify_detects_one_flipped_byte(builder: Pymachine, built: dict[str, Any]) -> None:
    assert run(builder, "verify").stdout.strip().endswith("OK")
    path = Path(built["path"]) / "boot2docker.iso"
    whole = path.with_suffix(".whole")
    path.rename(whole)
    try:
        shutil.copyfile(whole, path)
        with path.open("r+b") as file:
            file.seek(100_000_000)
            byte = file.read(1)[0]
            file.seek(100_000_000)
            file.write(bytes([byte ^ 1]))
        outcome = builder("image", "verify", code=None)
    finally:
        whole.replace(path)
    assert outcome.code != 0
    assert "boot2docker.iso is not the file that was built" in outcome.text


def test_an_image_can_be_exported_and_removed(builder: Pymachine, built: dict[str, Any], tmp_path: Path) -> None:
    name = Path(built["path"]).name
    assert run(builder, "export", name, str(tmp_path)).stdout.strip() == str(tmp_path / "boot2docker.iso")
    assert run(builder, "rm", name).code == 0
    assert json.loads(run(builder, "ls", "--json").stdout) == []
    assert (tmp_path / "boot2docker.iso").stat().st_size == built["files"]["boot2docker.iso"]["size"]


def test_an_arm64_image_can_be_built(builder: Pymachine) -> None:
    assert run(builder, "build", "--arch", "arm64").code == 0
    (image,) = json.loads(run(builder, "ls", "--json").stdout)
    assert image["architecture"] == "arm64"
    assert image["kernel"].endswith("-arm64")
    assert Path(image["path"], "vmlinuz").read_bytes()[56:60] == b"ARM\x64"  # the kernel's own image header
