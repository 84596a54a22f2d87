"""The contract suite for the driver ``qemu`` with a machine that runs the real image."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator

import pytest

from pymachine.driver.contract import BootRequest, Driver
from pymachine.driver.testing import LiveDriverContract
from pymachine_driver_qemu import Driver as QemuDriver, accelerator, binary, disk
from support import boot
from support.runner import cache_folder

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module", autouse=True)
def shared_cache() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYMACHINE_CACHE", str(cache_folder()))
        yield
        live = getattr(TestLiveQemu, "live", None)
        if live is not None:
            live.remove()


class TestLiveQemu(LiveDriverContract):
    driver = QemuDriver

    def boot_request(self, driver: Driver) -> BootRequest:
        return boot.request(driver)

    def check_running(self) -> None:
        self.check_engine()
        self.check_accelerator_trial()

    def check_accelerator_trial(self) -> None:
        """Check that a trial detects a booting kernel, with software emulation, which works everywhere."""
        folder = self.live.machine.directory
        trial = accelerator.Trial(
            qemu=binary.find("amd64"),
            architecture="amd64",
            kernel=folder / disk.KERNEL,
            initrd=folder / disk.INITRD,
            image="live",
        )
        assert accelerator.boots("tcg", trial, seconds=120)

    def check_engine(self) -> None:
        folder, endpoint = self.live.machine.directory, self.live.endpoint()
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        connection = http.client.HTTPSConnection(endpoint.address, endpoint.docker_port, timeout=60, context=context)
        connection.request("GET", "/info")
        assert json.loads(connection.getresponse().read())["Name"] == self.live.machine.name
        connection.close()
