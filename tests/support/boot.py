"""The boot request for a driver under test: the real image, and an identity as the core makes it."""

from __future__ import annotations

from pymachine.docker import daemon_json
from pymachine.driver.abilities import ImageBootable
from pymachine.driver.contract import BootRequest, Driver, Endpoint, ImageFiles
from pymachine.hosts import identity
from pymachine.image import provide
from pymachine.store.record import EngineOptions
from pymachine.system.progress import Silent
from pymachine.tls import certs

SECONDS = 600


def image(driver: Driver) -> ImageFiles:
    """Return the image that the driver requests, from the cache that the tests share; build it if it is missing."""
    assert isinstance(driver, ImageBootable)
    wanted = driver.image_request()
    assert wanted is not None
    return provide.find_or_build(wanted, store=driver.machine.store, reporter=Silent())


def request(driver: Driver) -> BootRequest:
    """Return a boot request as the core makes it, with the certificate authority of the machine's store."""
    folder, store = driver.machine.directory, driver.machine.store
    authority = store / "certs"
    auth = certs.AuthPaths(*(authority / name for name in ("ca.pem", "ca-key.pem", "cert.pem", "key.pem")))
    certs.ensure_authority(auth, reporter=Silent())

    def tar(endpoint: Endpoint) -> bytes:
        identity.make_keys(folder, name=driver.machine.name)
        certs.ensure_server(auth, directory=folder, name=driver.machine.name, hosts=[endpoint.address])
        files = daemon_json.files(EngineOptions(), driver_name=driver.info.name)
        return identity.of_machine(folder, hostname=driver.machine.name, engine=files)

    return BootRequest(identity=tar, image=image(driver), timeout=SECONDS)
