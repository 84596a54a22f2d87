"""The default memory of machines, which depends on the host's."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymachine.driver.kit import host_memory

GIB = 1024


@pytest.mark.parametrize(
    ("host_mib", "default"),
    [
        (0, 1024),
        (1 * GIB, 1024),
        (4 * GIB, 1024),
        (6 * GIB, 1024),
        (7 * GIB + 600, 2048),
        (8 * GIB, 2048),
        (64 * GIB, 2048),
    ],
)
def test_the_default_is_smaller_on_small_hosts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host_mib: int, default: int
) -> None:
    monkeypatch.setattr(host_memory.os, "sysconf", {"SC_PHYS_PAGES": host_mib * 256, "SC_PAGE_SIZE": 4096}.get)
    monkeypatch.setattr(host_memory, "_CGROUP_LIMIT", tmp_path / "none")
    assert host_memory.total_mib() == host_mib
    assert host_memory.default_mib() == default


@pytest.mark.parametrize(
    ("limit", "expected"), [("4294967296\n", 4096), ("max\n", 16384), ("", 16384), (str(2**62), 16384)]
)
def test_a_containers_limit_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, expected: int) -> None:
    monkeypatch.setattr(host_memory.os, "sysconf", {"SC_PHYS_PAGES": 16 * GIB * 256, "SC_PAGE_SIZE": 4096}.get)
    (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(host_memory, "_CGROUP_LIMIT", tmp_path / "memory.max")
    assert host_memory.total_mib() == expected


def test_an_unknown_size_of_memory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(host_memory.os, "sysconf", fail)
    assert host_memory.default_mib() == 1024
