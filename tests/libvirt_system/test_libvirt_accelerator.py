"""The trial boot that KVM must pass, with the real kernel; software emulation stands in for a working KVM."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.driver.testing import defaults, reference
from pymachine.system.progress import Silent
from pymachine.system.stream_reporter import StreamReporter
from pymachine_driver_libvirt import Driver as LibvirtDriver, accelerator, connection, volumes
from support import boot
from support.libvirtd import SYSTEM, virsh


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[accelerator.Trial]:
    """A trial with the image in a pool, and a store without results of earlier trials."""
    ref = reference(tmp_path_factory.mktemp("trial"), "tried")
    driver = LibvirtDriver(ref, dict(LibvirtDriver.configure(ref, defaults(LibvirtDriver), [])))
    image = boot.image(driver)
    libvirt = connection.connect(SYSTEM)
    pool = volumes.ready_pool(libvirt, "default", make_at=volumes.default_pool_path(session=False), reporter=Silent())
    name = volumes.set_name(image.digest, driver.config["MachineID"])
    found = volumes.bring_image(libvirt, pool, image, name, reporter=Silent())
    yield accelerator.Trial(
        connection=libvirt, uri=SYSTEM, architecture="amd64", image=found, digest=image.digest, store=ref.store
    )
    volumes.remove_set(libvirt, pool, name, but_for="")
    assert virsh("vol-list", "default") == ""


def test_a_trial_detects_a_kernel_that_boots(trial: accelerator.Trial) -> None:
    assert accelerator.boots(trial, "tcg", seconds=120)
    assert virsh("list", "--all", "--name") == ""


def test_a_trial_ends_in_time_and_leaves_nothing(trial: accelerator.Trial) -> None:
    assert not accelerator.boots(trial, "tcg", seconds=0.2)
    assert virsh("list", "--all", "--name") == ""


def test_the_result_of_a_trial_is_cached(trial: accelerator.Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result of the trial is replaced, so this works on hosts with and without KVM."""
    answers = [False, True]
    monkeypatch.setattr(accelerator, "_unavailable", lambda trial: "")
    monkeypatch.setattr(accelerator, "boots", lambda trial, accelerator: answers.pop(0))
    assert [accelerator.choose("auto", trial, reporter=Silent()) for _ in range(3)] == ["tcg"] * 3
    assert answers == [True]
    with pytest.raises(accelerator.AcceleratorError, match="kvm is available, but does not boot Linux on that host"):
        accelerator.choose("kvm", trial, reporter=Silent())
    memo = trial.store / "libvirt-accelerators.json"
    entries = json.loads(memo.read_text())
    assert [entry["works"] for entry in entries.values()] == [False]
    memo.write_text("{ not JSON")
    assert accelerator.choose("auto", trial, reporter=Silent()) == "kvm"
    memo.write_text(json.dumps(dict.fromkeys(entries, "no entry")))
    answers.append(False)
    assert accelerator.choose("auto", trial, reporter=Silent()) == "tcg"


def test_requested_emulation_prints_nothing(trial: accelerator.Trial, tmp_path: Path) -> None:
    with (tmp_path / "output").open("w") as stream:
        assert accelerator.choose("tcg", trial, reporter=StreamReporter(stream)) == "tcg"
    assert (tmp_path / "output").read_text() == ""
