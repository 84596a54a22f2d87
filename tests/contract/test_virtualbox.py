"""The contract suite on the driver ``virtualbox`` without VirtualBox; tests/integration has it with VirtualBox."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymachine.driver.testing import DriverContract
from pymachine_driver_virtualbox import Driver


class TestVirtualBox(DriverContract):
    driver = Driver

    @pytest.fixture(autouse=True)
    def _without(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        empty: Path = tmp_path_factory.mktemp("path")
        monkeypatch.setenv("PATH", str(empty))
