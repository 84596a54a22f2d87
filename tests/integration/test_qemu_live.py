"""The contract suite over the driver ``qemu`` with a machine that runs the real image."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator

import pytest

from pymachine import certs, engine, identity
from pymachine.driver import BootRequest, Driver, Endpoint
from pymachine.image import cache
from pymachine.machine import EngineOptions
from pymachine.progress import Silent
from pymachine.testing import LiveDriverContract
from pymachine.wait import until
from pymachine_driver_qemu import Driver as QemuDriver, process
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
        folder, store = driver.machine.directory, driver.machine.store
        image = cache.ensure(driver.image_request(), store=store, reporter=Silent())
        authority = store / "certs"
        auth = certs.AuthPaths(*(authority / name for name in ("ca.pem", "ca-key.pem", "cert.pem", "key.pem")))
        certs.ensure_authority(auth, reporter=Silent())

        def tar(endpoint: Endpoint) -> bytes:
            identity.make_keys(folder, name=driver.machine.name)
            certs.ensure_server(auth, directory=folder, name=driver.machine.name, hosts=[endpoint.address])
            files = engine.files(EngineOptions(), driver_name="qemu")
            return identity.of_machine(folder, hostname=driver.machine.name, engine=files)

        return BootRequest(identity=tar, image=image, timeout=600)

    def check_running(self) -> None:
        self.watcher_is_there()
        self.engine_answers()

    def watcher_is_there(self) -> None:
        """That what is published can be reached is in tests/e2e."""
        log = self.live.machine.directory / "ports.log"
        until(lambda: "following the engine" in process.tail(log), deadline=120, what="the watcher")

    def engine_answers(self) -> None:
        folder, endpoint = self.live.machine.directory, self.live.endpoint()
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        connection = http.client.HTTPSConnection(endpoint.address, endpoint.docker_port, timeout=60, context=context)
        connection.request("GET", "/info")
        assert json.loads(connection.getresponse().read())["Name"] == self.live.machine.name
        connection.close()
