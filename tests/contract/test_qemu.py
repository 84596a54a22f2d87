"""The contract suite on the driver ``qemu``; tests/e2e has running machines."""

from __future__ import annotations

from pymachine.driver.testing import DriverContract
from pymachine_driver_qemu import Driver


class TestQemu(DriverContract):
    driver = Driver
