"""A guest gives freed blocks back to the host, sizes have units, and a lack of memory is in the logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.system.wait import until
from support.runner import Pymachine, private_store

BLOB_MB = 400
# Seconds within which the disk must have shrunk. Journal commits, after which ext4 discards blocks, are 5 s apart.
SOON = 60
# Imports an image with the machine's busybox, and removes the container of the last image.
IMPORT = """set -e; rm -rf /tmp/box; mkdir -p /tmp/box/bin; cp /usr/bin/busybox /tmp/box/bin/
ln -s busybox /tmp/box/bin/sh; docker rm -f big > /dev/null 2>&1 || true
tar -c -C /tmp/box . | docker import - box:1 > /dev/null"""


@pytest.fixture(scope="module")
def program() -> Iterator[Pymachine]:
    """A store with the machine `m`, a clone whose sizes have units. Its shape is the default one of large hosts."""
    with private_store() as program:
        program("create", "--no-share", "--qemu-memory", "2g", "--qemu-disk-size", "20000m", "m")
        yield program


def disk_of(program: Pymachine) -> Path:
    return program.store / "machines" / "m" / "disk.raw"


def occupied_mb(path: Path) -> int:
    return path.stat().st_blocks * 512 // 1_000_000


def write_in_container(program: Pymachine, *, extra_mb: int) -> None:
    """Import the image box:1 with the guest's busybox, and write random data in a container of it, called big."""
    program("ssh", "m", IMPORT)
    program(
        "ssh",
        "m",
        f"docker run --name big box:1 busybox dd if=/dev/urandom of=/blob bs=1M count={extra_mb} && sync",
    )


def test_what_containers_free_is_freed_on_the_host(program: Pymachine) -> None:
    write_in_container(program, extra_mb=1)
    before = occupied_mb(disk_of(program))
    write_in_container(program, extra_mb=BLOB_MB)
    full = occupied_mb(disk_of(program))
    assert full > before + BLOB_MB * 9 // 10
    program("ssh", "m", "docker rm -f big > /dev/null; sync")
    until(lambda: occupied_mb(disk_of(program)) < before + BLOB_MB // 10, deadline=SOON, what="the discards")


def test_the_sizes_are_those_of_the_record(program: Pymachine) -> None:
    record = json.loads((program.store / "machines" / "m" / "config.json").read_text())
    assert (record["Driver"]["Memory"], record["Driver"]["DiskSize"]) == (2048, 20000)
    assert disk_of(program).stat().st_size == 20000 << 20


def test_a_lack_of_memory_is_in_the_logs(program: Pymachine) -> None:
    program("ssh", "m", IMPORT)
    hungry = "busybox dd if=/dev/zero of=/dev/null bs=200M count=1"
    result = program("ssh", "m", f"docker run --rm -m 32m --memory-swap 32m box:1 {hungry}; echo code=$?")
    assert "code=137" in result.stdout
    assert "out of memory: Killed process" in program("logs", "m").stdout
