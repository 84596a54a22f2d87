"""Kernel modules and their indices, the root overlay, the RAM disk, the ISO, and the image cache."""

from __future__ import annotations

import io
import json
import lzma
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pymachine.driver.contract import ImageRequest
from pymachine.image import cache, imported, provide, rootfs
from pymachine.image.errors import DigestError, ImageError, ImageNotFoundError, PackageError, RecipeError
from pymachine.image.filesystem import initrd, iso
from pymachine.image.filesystem.tree import Node, Tree
from pymachine.image.kernel import kernel_packing, kmod_index, modules
from pymachine.image.layout import INITRD, ISO, ISO_INITRD, ISO_KERNEL, ISO_MANIFEST, KERNEL, with_files
from pymachine.image.recipe import Recipe
from pymachine.system.progress import Silent
from support.kernel import bz_image

VERSION = "6.12.0-test"


def elf(*entries: str) -> bytes:
    """Return a relocatable ELF object with only a .modinfo section."""
    info = b"".join(entry.encode() + b"\0" for entry in entries)
    names = b"\0.modinfo\0.shstrtab\0"
    begin = 64
    table = begin + len(info) + len(names)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2
    )

    def section(name: int, offset: int, size: int) -> bytes:
        return modules.SECTION_HEADER.pack(name, 1, 0, 0, offset, size, 0, 0, 1, 0)

    sections = section(0, 0, 0) + section(1, begin, len(info)) + section(10, begin + len(info), len(names))
    return header + info + names + sections


def kernel_tree() -> Tree:
    tree = Tree()
    base = f"usr/lib/modules/{VERSION}"
    for path, entries in {
        "fs/ext4/ext4": ["depends=jbd2,crc16", "alias=fs-ext4", "softdep=pre: crc32c"],
        "fs/jbd2/jbd2": ["depends="],
        "lib/crc16": ["depends="],
        "crypto/crc32c-generic": ["depends=", "alias=crypto-crc32c"],
        "sound/snd": ["depends=", "alias=char-major-116-*"],
    }.items():
        tree.put(f"{base}/kernel/{path}.ko.xz", Node.file(lzma.compress(elf(*entries))))
    tree.put(f"{base}/modules.builtin", Node.file(b"kernel/drivers/virtio/virtio-pci.ko\n"))
    tree.put(f"{base}/modules.builtin.modinfo", Node.file(b"virtio_pci.alias=pci:v00001AF4d*\0virtio_pci.x=y\0"))
    return tree


def test_modinfo_is_read_from_the_elf_section() -> None:
    assert modules.modinfo(elf("license=GPL", "alias=a", "alias=b=c")) == (
        ("license", "GPL"),
        ("alias", "a"),
        ("alias", "b=c"),
    )


@pytest.mark.parametrize("data", [b"", b"\x7fELF\x01\x01" + b"\0" * 90, elf("a=b")[:-100], elf("a=b")[:50]])
def test_a_file_that_is_not_a_module_is_refused(data: bytes) -> None:
    with pytest.raises(PackageError):
        modules.modinfo(data)


def test_module_patterns_are_shell_patterns() -> None:
    paths = ["kernel/fs/ext4/ext4.ko.xz", "kernel/fs/xfs/xfs.ko.xz", "kernel/net/core/a.ko.xz", "kernel/fs/ext4x.ko.xz"]
    assert list(modules.expand_braces("fs/{ext4/*,xfs/xfs}")) == ["fs/ext4/*", "fs/xfs/xfs"]
    assert modules.select(paths, ["fs/{ext4/*,xfs/xfs}"]) == paths[:2]


def test_selected_modules_are_uncompressed_and_bring_their_dependencies() -> None:
    tree = kernel_tree()
    kept = modules.prune(tree, ["fs/ext4/*"])
    assert sorted(kept) == ["crc16", "ext4", "jbd2"]
    base = f"usr/lib/modules/{VERSION}"
    assert tree[f"{base}/kernel/fs/ext4/ext4.ko"].contents().startswith(b"\x7fELF")
    assert not [path for path, _ in tree.walk() if "snd" in path or path.endswith(".xz")]
    assert tree[f"{base}/modules.dep"].contents().decode().splitlines() == [
        "kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/jbd2/jbd2.ko",
        "kernel/fs/jbd2/jbd2.ko:",
        "kernel/lib/crc16.ko:",
    ]
    assert [module.name for module in modules.in_load_order(kept, ["ext4", "virtio_pci"])] == ["jbd2", "crc16", "ext4"]


def test_a_tree_needs_exactly_one_kernel() -> None:
    with pytest.raises(RecipeError, match="not 0"):
        modules.kernel_version(Tree())
    tree = kernel_tree()
    tree.put("usr/lib/modules/6.1/kernel/a.ko.xz", Node.file(b""))
    with pytest.raises(RecipeError, match="6.1"):
        modules.kernel_version(tree)


def look_up(data: bytes, key: str) -> list[str]:
    """Return the values that libkmod's index_search would find: follow prefix and child byte by byte."""
    magic, version, place = kmod_index.HEADER.unpack_from(data)
    assert (magic, version) == (kmod_index.MAGIC, kmod_index.VERSION)
    left = key.encode()
    while True:
        at = place & 0x0FFFFFFF
        if place & kmod_index.PREFIX:
            prefix, _, _ = data[at:].partition(b"\0")
            if not left.startswith(prefix):
                return []
            left, at = left[len(prefix) :], at + len(prefix) + 1
        children: dict[int, int] = {}
        if place & kmod_index.CHILDREN:
            first, last = data[at], data[at + 1]
            offsets = struct.unpack_from(f">{last - first + 1}I", data, at + 2)
            children = dict(zip(range(first, last + 1), offsets, strict=True))
            at += 2 + 4 * len(offsets)
        if left:
            place = children.get(left[0], 0)
            left = left[1:]
            if not place:
                return []
            continue
        if not place & kmod_index.VALUES:
            return []
        (count,) = kmod_index.NUMBER.unpack_from(data, at)
        at += 4
        found = []
        for _ in range(count):
            value, _, _ = data[at + 4 :].partition(b"\0")
            found.append(value.decode())
            at += 4 + len(value) + 1
        return found


@given(
    st.lists(
        st.tuples(st.text("abc:*", min_size=1, max_size=6), st.text("xyz", max_size=3)),
        unique_by=lambda pair: pair,
        max_size=30,
    )
)
def test_an_index_finds_each_of_its_keys_and_no_other(entries: list[tuple[str, str]]) -> None:
    data = kmod_index.build(entries)
    for key, _ in entries:
        assert look_up(data, key) == [value for other, value in entries if other == key]
    for absent in ("zzz", "ab-"):
        assert look_up(data, absent) == []


def test_hyphens_in_aliases_become_underscores_outside_brackets() -> None:
    assert kmod_index.normalize_alias("a-b[0-9]c-d") == "a_b[0-9]c_d"


def test_modprobe_reads_the_indices(tmp_path: Path) -> None:
    tree = kernel_tree()
    modules.prune(tree, ["fs/ext4/*", "crypto/*"])
    for path, node in tree.below("usr/lib/modules"):
        target = tmp_path / path.removeprefix("usr/")
        if node.blob is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(node.contents())

    def modprobe(name: str) -> list[str]:
        command = ["/sbin/modprobe", "-d", str(tmp_path), "-S", VERSION, "--show-depends", name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    assert [Path(word).name for word in modprobe("fs-ext4") if word.endswith(".ko")][-3:] == [
        "jbd2.ko",
        "crc16.ko",
        "ext4.ko",
    ]
    assert modprobe("virtio-pci") == ["builtin", "virtio_pci"]
    assert modprobe("pci:v00001AF4d0001") == ["builtin", "virtio_pci"]


def test_the_overlay_copies_files_and_the_manifest_sets_modes(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/version.in").write_text("engine @ENGINE_VERSION@\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/run").write_text("#!/bin/sh\n")
    (tmp_path / "bin/run").chmod(0o775)
    tree = Tree()
    rootfs.overlay(tree, tmp_path, {"ENGINE_VERSION": "26"})
    rootfs.apply_manifest(
        tree,
        """
        # comment
        4755 0 0 /usr/bin/run      # setuid
        dir 0700 1000 1000 /home/docker
        link busybox /usr/bin/sh
        file 0600 0 42 etc/empty
        """,
    )
    assert tree["etc/version"].contents() == b"engine 26\n"
    assert tree["usr/bin/run"].mode == 0o4755
    assert (tree["home/docker"].mode, tree["home/docker"].uid) == (0o700, 1000)
    assert tree["usr/bin/sh"].target == "busybox"
    assert (tree["etc/empty"].gid, tree["etc/empty"].contents()) == (42, b"")
    rootfs.apply_manifest(tree, "remove /etc")
    assert "etc/empty" not in tree


@pytest.mark.parametrize("line", ["0755 0 0 /not/there", "dir 0755 root 0 /x", "0755 0 0", "directory 0 0 0 /x y"])
def test_a_bad_manifest_line_is_reported_with_its_number(line: str) -> None:
    with pytest.raises(RecipeError, match="line 2"):
        rootfs.apply_manifest(Tree(), f"# first\n{line}\n")


def test_ca_certificates_are_joined_into_one_file() -> None:
    tree = rootfs.assemble(
        Recipe(architecture="amd64"),
        [
            [("usr/share/ca-certificates/mozilla/B.crt", Node.file(b"B\n"))],
            [("usr/share/ca-certificates/mozilla/A.crt", Node.file(b"A"))],
        ],
    )
    assert tree[rootfs.BUNDLE].contents() == b"A\nB\n"


def image_tree() -> Tree:
    tree = Tree()
    tree.put("usr/bin/busybox", Node.file(b"busybox", mode=0o755))
    tree.put("usr/bin/sudo", Node.file(b"sudo", mode=0o4755))
    tree.put("home/docker", Node.directory(mode=0o2750))
    tree.change("home/docker", mode=0o2750, uid=1000, gid=50)
    tree.put("bin", Node.link("usr/bin"))
    tree.put("etc/A long name with spaces, and no 8.3 form at all.config", Node.file(b"x" * 5000))
    deep = "/".join(f"level{number}" for number in range(12))
    tree.put(f"{deep}/leaf", Node.file(b"leaf"))
    tree.put("empty", Node.file(b""))
    return tree


def test_the_ram_disk_has_init_and_its_modules_in_load_order(tmp_path: Path) -> None:
    tree = kernel_tree()
    kept = modules.prune(tree, ["fs/ext4/*"])
    init = tmp_path / "init"
    init.write_text("#!/bin/sh\n")
    tree.put("usr/bin/busybox", Node.file(b"busybox", mode=0o755))
    recipe = Recipe(architecture="amd64", initrd_modules=("ext4", "virtio_pci"), initrd_more_modules=("jbd2",))
    disk = initrd.build(tree, kept, recipe, init)
    assert disk["usr/lib/modules/load"].contents() == b"jbd2.ko\ncrc16.ko\next4.ko\n"
    assert disk["usr/lib/modules/load.more"].contents() == b""
    assert disk["init"].mode == 0o755
    with pytest.raises(RecipeError, match="busybox"):
        initrd.build(Tree(), kept, recipe, init)


def test_cpio_lists_the_ram_disk_archive(tmp_path: Path) -> None:
    tree = image_tree()
    out = io.BytesIO()
    initrd.write_cpio(tree, out)
    listed = subprocess.run(["cpio", "-itv"], input=out.getvalue(), capture_output=True, check=True).stdout.decode()
    assert "-rwsr-xr-x" in listed
    assert "bin -> usr/bin" in listed
    again = io.BytesIO()
    initrd.write_cpio(image_tree(), again)
    assert again.getvalue() == out.getvalue()


def rock_ridge_records(path: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, owner and group by Rock Ridge path."""
    from pycdlib import PyCdlib

    found = {}
    disk: Any = PyCdlib()
    disk.open(str(path))
    for folder, folders, files in disk.walk(rr_path="/"):
        for name in folders + files:
            full = f"{folder.rstrip('/')}/{name}"
            extension = disk.get_record(rr_path=full).rock_ridge
            found[full[1:]] = mode_and_owner(extension)
            if name in folders:
                dot = next(iter(disk.list_children(rr_path=full)))
                assert (
                    mode_and_owner(dot.rock_ridge)[1:] == found[full[1:]][1:]
                )  # where Linux looks for a folder's owner
    disk.close()
    return found


def mode_and_owner(extension: Any) -> tuple[int, int, int]:
    entry = extension.dr_entries.px_record or extension.ce_entries.px_record
    return entry.posix_file_mode, entry.posix_user_id, entry.posix_group_id


def test_the_iso_keeps_names_modes_and_owners(tmp_path: Path) -> None:
    iso.write(image_tree(), tmp_path / "a.iso", volume="Boot2Docker-v1")
    found = rock_ridge_records(tmp_path / "a.iso")
    assert found["usr/bin/sudo"] == (stat.S_IFREG | 0o4755, 0, 0)
    assert found["home/docker"] == (stat.S_IFDIR | 0o2750, 1000, 50)
    assert "etc/A long name with spaces, and no 8.3 form at all.config" in found
    assert "/".join(f"level{number}" for number in range(12)) + "/leaf" in found
    assert set(found) == {path for path, _ in image_tree().walk()}


def test_isos_written_at_the_same_time_have_the_same_bytes(tmp_path: Path) -> None:
    def write(number: int) -> bytes:
        path = tmp_path / f"{number}.iso"
        iso.write(image_tree(), path, volume="x")
        return path.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        written = set(pool.map(write, range(32)))
    assert len(written) == 1


def test_the_iso_has_the_same_bytes_in_any_time_zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    iso.write(image_tree(), tmp_path / "a.iso", volume="x")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        iso.write(image_tree(), tmp_path / "b.iso", volume="x")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (tmp_path / "a.iso").read_bytes() == (tmp_path / "b.iso").read_bytes()


def make_image(
    folder: Path, *, architecture: str = "amd64", recipe: str = "r", content: bytes = b"1"
) -> dict[str, Any]:
    """Write a small image that is complete, though it does not boot."""
    manifest = {
        "architecture": architecture,
        "engine": "26.1.5",
        "kernel": VERSION,
        "recipe": recipe,
        "packages": [],
    }
    tree = Tree()
    tree.put(ISO_MANIFEST, Node.file(json.dumps(manifest).encode()))
    tree.put(ISO_KERNEL, Node.file(bz_image(b"kernel" + content)))
    tree.put(ISO_INITRD, Node.file(b"initrd"))
    kernel_packing.write(bz_image(b"kernel" + content), b"initrd", folder, architecture=architecture)
    iso.write(tree, folder / ISO, volume="x")
    return with_files(manifest, folder)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PYMACHINE_CACHE", raising=False)
    return tmp_path / "store"


def add_image(store: Path, **fields: Any) -> cache.Image:
    with cache.locked(store, "test"):
        return cache.add(store, lambda folder: make_image(folder, **fields))


def test_an_image_is_found_by_name_and_by_digest(store: Path) -> None:
    image = add_image(store)
    assert image.name == f"amd64-{image.digest[:12]}"
    assert cache.find(store, image.name) == cache.find(store, image.digest[:6]) == image
    assert image.files().kernel.read_bytes().startswith(bz_image(b"")[:0x1F4])
    for name in ("", "nothing", "../x"):
        with pytest.raises(ImageNotFoundError):
            cache.find(store, name)


def test_the_newest_image_of_a_recipe_is_used(store: Path) -> None:
    first = add_image(store, content=b"1")
    second = add_image(store, content=b"2")
    other = add_image(store, recipe="other", content=b"3")
    assert cache.newest(store, "amd64", recipe="r") == second
    assert cache.newest(store, "amd64") == other
    assert cache.newest(store, "arm64") is None
    add_image(store, content=b"1")
    assert cache.newest(store, "amd64") == first, "building the same bytes again makes an image the newest"
    # A restored cache has other times.
    for image in (first, second, other):
        for path in image.directory.iterdir():
            os.utime(path, (len(image.directory.name),) * 2)
    assert cache.newest(store, "amd64") == first
    # An older version recorded only the manifest's time.
    for seconds, image in enumerate((second, other, first)):
        (image.directory / cache.BUILT).unlink()
        os.utime(image.directory / "manifest.json", (seconds, seconds))
    assert cache.newest(store, "amd64", recipe="r") == first


class Warnings(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def copy_half(path: Path) -> None:
    """Fill the second half with zeros, as a copy does that sets the size first and is then killed."""
    size = path.stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


@pytest.mark.parametrize("name", [ISO, KERNEL, INITRD])
@pytest.mark.parametrize("harm", [truncate, copy_half, Path.unlink])
def test_an_incomplete_image_is_removed(store: Path, name: str, harm: Callable[[Path], None]) -> None:
    image, warnings = add_image(store), Warnings()
    assert cache.intact(image, warnings) == image
    harm(image.directory / name)
    assert cache.intact(image, warnings) is None
    assert "is removed" in warnings.lines[0]
    assert name in warnings.lines[0]
    assert cache.list_images(store) == []
    assert cache.intact(add_image(store), warnings) is not None


def test_an_image_in_a_copied_cache_is_verified_once(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = add_image(store)
    shutil.copytree(cache.images_dir(store), tmp_path / "restored" / "images")
    monkeypatch.setenv("PYMACHINE_CACHE", str(tmp_path / "restored"))
    copy = cache.find(store, image.name)
    assert copy.directory != image.directory
    read: list[Path] = []
    digest = cache.Images.digest

    def noted(images: cache.Images, path: Path) -> str:
        read.append(path)
        return digest(images, path)

    monkeypatch.setattr(cache.Images, "digest", noted)
    for number in range(3):
        assert cache.intact(copy, Silent()) == copy
        assert len(read) == 3
        (tmp_path / f"machine{number}").hardlink_to(copy.directory / ISO)  # as each create has one


def test_a_failed_or_killed_build_leaves_no_image(store: Path) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        (folder / ISO).write_bytes(b"half")
        raise ImageError("stop")

    with pytest.raises(ImageError, match="stop"), cache.locked(store, "test"):
        cache.add(store, fail)
    assert not list(cache.images_dir(store).glob(".tmp*"))
    killed = cache.images_dir(store) / f".tmp-{2**22 - 1}-abcdefgh"
    killed.mkdir()
    image = add_image(store)
    assert not killed.exists()
    assert cache.list_images(store) == [image]


def test_a_damaged_folder_is_skipped_and_hides_no_image(store: Path) -> None:
    image = add_image(store)
    for name, text in (("amd64-1", ""), ("amd64-2", "[]"), ("amd64-3", '{"digest": "x"}')):
        (cache.images_dir(store) / name).mkdir()
        (cache.images_dir(store) / name / "manifest.json").write_text(text)
    assert cache.list_images(store) == [image]


@pytest.mark.parametrize("name", [ISO, KERNEL, INITRD])
def test_verify_names_the_file_that_changed(store: Path, name: str) -> None:
    image = add_image(store)
    cache.verify(image)
    path = image.directory / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DigestError, match=name) as caught:
        cache.verify(image)
    assert f"image rm {image.name}" in caught.value.hint
    path.unlink()
    with pytest.raises(DigestError, match="missing"):
        cache.verify(image)


def test_an_exported_image_can_be_used_in_another_cache(store: Path, tmp_path: Path) -> None:
    image = add_image(store)
    path = cache.export(image, tmp_path)
    assert path == tmp_path / ISO
    other = tmp_path / "other"
    files = provide.find_or_build(ImageRequest(source=str(path)), store=other, reporter=Silent())
    assert (files.digest, files.architecture) == (image.digest, "amd64")
    assert files.kernel.read_bytes() == image.files().kernel.read_bytes()
    assert files.initrd.read_bytes() == image.files().initrd.read_bytes()
    assert provide.find_or_build(ImageRequest(source=f"file://{path}"), store=other, reporter=Silent()) == files
    cache.remove(image)
    assert cache.list_images(store) == []
    with pytest.raises(ImageError, match="cannot write"):
        cache.export(cache.list_images(other)[0], tmp_path / "no" / "folder")


def test_an_image_is_fetched_from_a_url_once(store: Path, tmp_path: Path) -> None:
    from support.apt import serving

    data = cache.export(add_image(store), tmp_path).read_bytes()
    with serving({"image.iso": data}) as server:
        request = ImageRequest(source=f"{server.url}/image.iso")
        files = provide.find_or_build(request, store=tmp_path / "other", reporter=Silent())
        assert files.iso.read_bytes() == data
        assert provide.find_or_build(request, store=tmp_path / "other", reporter=Silent()) == files
        assert server.asked["image.iso"] == 1
        with pytest.raises(ImageError, match="404"):
            provide.find_or_build(
                ImageRequest(source=f"{server.url}/none"), store=tmp_path / "other", reporter=Silent()
            )


@pytest.mark.parametrize("data", [b"", b"text", bytes(100_000)])
def test_a_file_that_is_not_an_image_is_refused(store: Path, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.iso"
    path.write_bytes(data)
    with pytest.raises(ImageError, match="x.iso is not an image"):
        provide.find_or_build(ImageRequest(source=str(path)), store=store, reporter=Silent())
    with pytest.raises(ImageError, match="cannot be read"):
        provide.find_or_build(ImageRequest(source=str(tmp_path / "none.iso")), store=store, reporter=Silent())
    assert cache.list_images(store) == []


def test_another_iso_is_refused(store: Path, tmp_path: Path) -> None:
    iso.write(image_tree(), tmp_path / "x.iso", volume="x")
    with pytest.raises(ImageError, match="not an image"):
        imported.import_image(str(tmp_path / "x.iso"), store=store, reporter=Silent())
