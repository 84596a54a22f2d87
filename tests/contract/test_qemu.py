"""The contract suite over the driver ``qemu``; a machine that runs is in tests/e2e."""

from __future__ import annotations

from pymachine.driver.testing import DriverContract
from pymachine_driver_qemu import Driver


class TestQemu(DriverContract):
    driver = Driver
