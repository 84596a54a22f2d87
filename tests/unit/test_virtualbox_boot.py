"""Waiting for a machine of the driver virtualbox to boot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pymachine.driver.contract import BootRequest
from pymachine.driver.testing import defaults, reference
from pymachine.system import wait
from pymachine_driver_virtualbox import Driver, boot, ports
from pymachine_driver_virtualbox.versions import Traits

SSHD_SECONDS = 40.0


class Clock:
    """A clock that goes on only while something waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Running:
    """VBoxManage, for a machine that runs. Each call takes two seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.calls = 0

    def info(self, vm: str) -> dict[str, str]:
        self.calls += 1
        self._clock.sleep(2)
        return {"name": vm, "VMState": "running"}


def test_a_guest_that_takes_long_to_answer_on_ssh_comes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow guest takes longer for one connection than is waited at first, and VBoxManage slows it down."""
    clock = Clock()
    vbox: Any = Running(clock)
    waited: list[float] = []

    def banner(port: int, *, timeout: float) -> bool:
        waited.append(timeout)
        clock.sleep(min(timeout, SSHD_SECONDS))
        return timeout >= SSHD_SECONDS

    monkeypatch.setattr(wait, "time", clock)
    monkeypatch.setattr(ports, "banner", banner)
    ref = reference(tmp_path / "m1", "m1")
    driver = Driver(ref, dict(Driver.configure(ref, defaults(Driver), [])) | {"SSHPort": 22})
    boot._await_ssh(driver, vbox, wait.Deadline(900.0))
    assert waited[0] == boot.BANNER_SECONDS
    assert vbox.calls < 40


class Existing:
    """VBoxManage of some version, for a machine in some state."""

    def __init__(self, version: tuple[int, int, int], state: str) -> None:
        self.traits = Traits(version, "linux")
        self._state = state
        self.made: list[str] = []

    def info(self, vm: str) -> dict[str, str]:
        return {"name": vm, "VMState": self._state}

    def __call__(self, *words: str | Path) -> str:
        self.made.append(" ".join(map(str, words[2:])))
        return ""


@pytest.mark.parametrize(
    ("version", "state", "expected"),
    [
        ((7, 0, 0), "poweroff", ["--nat-localhostreachable1 on"]),
        ((6, 1, 50), "poweroff", []),
        ((7, 0, 0), "saved", []),
    ],
)
def test_a_machine_of_an_earlier_version_reaches_the_loopback_after_a_start(
    version: tuple[int, int, int], state: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vbox = Existing(version, state)
    monkeypatch.setattr(Driver, "vbox", lambda _: vbox)
    monkeypatch.setattr(boot, "start_machine", lambda *_, **__: None)
    ref = reference(tmp_path / "m1", "m1")
    driver = Driver(ref, dict(Driver.configure(ref, defaults(Driver), [])))
    driver.start(BootRequest(timeout=60, identity=lambda _: b""))
    assert vbox.made == expected
