"""The qemu driver's flags."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pymachine.errors import UsageError
from pymachine_driver_qemu import options
from pymachine_driver_qemu.command_line import Hardware
from pymachine_driver_qemu.machine_spec import append


def check(**changed: Any) -> options.Choices:
    values = {option.name: option.default for option in options.OPTIONS}
    return options.check({**values, **{name.replace("_", "-"): value for name, value in changed.items()}})


def test_the_defaults_are_valid() -> None:
    choices = check()
    assert choices.memory_mib in (1024, 2048)
    assert choices.disk_mb == 20000
    assert 1 <= choices.cpus <= 2
    assert (choices.accelerator, choices.image, choices.binary) == ("auto", "", "")
    assert choices.architecture in ("amd64", "arm64")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("qemu_memory", 511, "--qemu-memory is 511, expected at least 512 MB"),
        ("qemu_memory", -1, "--qemu-memory is -1"),
        ("qemu_memory", "1G", "--qemu-memory is '1G', expected a whole number"),
        ("qemu_memory", True, "--qemu-memory is True, expected a whole number"),
        ("qemu_memory", 2**40, "--qemu-memory is 1099511627776, expected at most 16777216 MB"),
        ("qemu_disk_size", 2**40, "--qemu-disk-size is 1099511627776, expected at most 67108864 MB"),
        ("qemu_disk_size", 10, "--qemu-disk-size is 10, expected at least 1000 MB"),
        ("qemu_cpu_count", 0, "--qemu-cpu-count is 0"),
        ("qemu_cpu_count", 256, "--qemu-cpu-count is 256"),
        ("qemu_accelerator", "xen", "--qemu-accelerator is 'xen', expected one of auto, kvm, hvf, tcg"),
        ("qemu_tb_size", 15, "--qemu-tb-size is 15, expected at least 16 MB"),
        ("qemu_tb_size", 2048, "--qemu-tb-size is 2048, expected at most 2047 MB"),
        ("qemu_arch", "riscv64", "--qemu-arch is 'riscv64'"),
    ],
)
def test_a_bad_value_is_refused_with_its_flag_and_the_expected_value(name: str, value: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        check(**{name: value})
    assert said in caught.value.brief


def test_architectures_may_have_the_kernels_names() -> None:
    assert check(qemu_arch="x86_64").architecture == "amd64"
    assert check(qemu_arch="aarch64").architecture == "arm64"


@pytest.mark.parametrize(("accelerator", "count"), [("tcg", 1), ("kvm", 0)])
def test_aslr_is_turned_off_only_in_software_emulation(accelerator: str, count: int) -> None:
    hardware = Hardware(architecture="amd64", accelerator=accelerator, cpus=1, memory_mib=512)
    assert append(hardware, "", no_aslr=True).split().count("norandmaps") == count
    assert "norandmaps" not in append(hardware, "", no_aslr=False)
    assert check(qemu_no_aslr=True).no_aslr
    assert not check().no_aslr


def test_minus_one_means_all_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert check(qemu_cpu_count=-1).cpus == 12


def test_the_default_cpu_count_is_limited_by_the_host_and_an_explicit_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert check().cpus == 1
    assert check(qemu_cpu_count=4).cpus == 4


def test_image_paths_become_absolute_and_urls_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check(qemu_boot2docker_url="my.iso").image == str(tmp_path / "my.iso")
    assert check(qemu_boot2docker_url="https://example.com/b.iso").image == "https://example.com/b.iso"
