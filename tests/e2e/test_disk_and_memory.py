"""A guest gives freed blocks back to the host, sizes have units, and a lack of memory is in the logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.system.wait import until
from support.runner import Pymachine, private_store

BLOB_MB = 150
NOISE_MB = 20
# Seconds within which the disk must have shrunk. Journal commits, after which ext4 discards blocks, are 5 s apart.
SOON = 60
IMPORT = """set -e; mkdir -p /tmp/box/bin; cp /usr/bin/busybox /tmp/box/bin
tar -C /tmp/box -c . | docker import - box:1 > /dev/null; sync"""

# In the shell of the guest. The kernel refuses to allocate more than the guest has, and lets no program use nearly all.
ALL_BUT_1_MB = "$(($(sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo) - 1024))"


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


def test_what_containers_free_is_freed_on_the_host(program: Pymachine) -> None:
    program("ssh", "m", IMPORT)
    before = occupied_mb(disk_of(program))
    write = f"busybox dd if=/dev/urandom of=/blob bs=1M count={BLOB_MB}"
    program("ssh", "m", f"docker run --name big box:1 {write} && sync")
    assert occupied_mb(disk_of(program)) > before + BLOB_MB
    program("ssh", "m", "docker rm big")
    until(lambda: occupied_mb(disk_of(program)) < before + NOISE_MB, deadline=SOON, what="the discards")


def test_the_sizes_are_those_of_the_record(program: Pymachine) -> None:
    record = json.loads((program.store / "machines" / "m" / "config.json").read_text())
    assert (record["Driver"]["Memory"], record["Driver"]["DiskSize"]) == (2048, 20000)
    assert disk_of(program).stat().st_size == 20000 << 20


def test_programs_are_loaded_at_fixed_addresses_if_wanted(program: Pymachine) -> None:
    """The tests want that, since it is faster."""
    assert json.loads(program("inspect", "m").stdout)["Driver"]["NoASLR"] is True
    assert program("ssh", "m", "cat /proc/sys/kernel/randomize_va_space").stdout == "0\n"


def test_a_lack_of_memory_is_in_the_logs(program: Pymachine) -> None:
    run_out_of_memory(program, "docker run --rm -m 32m --memory-swap 32m", size="200M")
    assert killed(program, "Memory cgroup out of memory: ")
    assert not killed(program, " Out of memory: ")
    program("ssh", "m", "sudo swapoff /dev/vdb2")  # or the guest would write a gigabyte first
    run_out_of_memory(program, "docker run --rm", size=f"{ALL_BUT_1_MB}k")
    assert killed(program, " Out of memory: ")


def run_out_of_memory(program: Pymachine, run: str, *, size: str) -> None:
    hungry = f"busybox dd if=/dev/zero of=/dev/null bs={size} count=1"
    assert "code=137" in program("ssh", "m", f"{run} box:1 {hungry}; echo code=$?").stdout


def killed(program: Pymachine, message: str) -> bool:
    """Return whether the console log says that the kernel killed the container's program."""
    lines = program("logs", "--console", "m").stdout.splitlines()
    return any(f"{message}Killed process" in line and "(busybox)" in line for line in lines)
