"""The contract suite over the driver ``none``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from pymachine.driver import State
from pymachine.errors import UnsupportedError, UsageError
from pymachine.testing import DriverContract, defaults, reference
from pymachine_driver_none import Driver


class TestNone(DriverContract):
    driver = Driver
    changed: ClassVar = {"url": "tcp://192.0.2.1:2376"}

    def test_two_machines_do_not_share_an_address(self, tmp_path: Path) -> None:
        """Two names for one engine are fine: the address is the user's to give."""
        assert self.make(tmp_path, "one").endpoint() == self.make(tmp_path, "two").endpoint()

    def test_it_always_runs_and_cannot_be_stopped(self, tmp_path: Path) -> None:
        driver = self.make(tmp_path)
        assert driver.state() is State.RUNNING
        with pytest.raises(UnsupportedError, match="hosts without a driver cannot be stopped"):
            driver.stop(1.0)
        with pytest.raises(UnsupportedError, match="hosts without a driver cannot be killed"):
            driver.kill()

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("", "--url option is required when no driver is selected"),
            ("tcp://h:99999", "Port out of range"),
            ("http://h:1", "expected tcp://HOST:PORT"),
            ("nonsense", "expected tcp://HOST:PORT"),
        ],
    )
    def test_a_url_that_names_no_engine_is_refused(self, tmp_path: Path, url: str, says: str) -> None:
        with pytest.raises(UsageError, match=says):
            Driver.configure(reference(tmp_path), defaults(Driver, url=url), [])
