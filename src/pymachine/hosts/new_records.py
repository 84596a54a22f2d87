"""The record of a new machine: base fields, paths, and the configurations that it must differ from."""

from __future__ import annotations

from pymachine.driver import fields, registry
from pymachine.driver.base_config import BaseConfig
from pymachine.driver.contract import Config, MachineRef
from pymachine.errors import PymachineError
from pymachine.hosts.host import Hosts
from pymachine.store import paths
from pymachine.store.record import AuthOptions
from pymachine.store.store import Store


def with_base_fields(config: Config, ref: MachineRef, *, ssh: bool) -> Config:
    """Return `config` with the fields of docker-machine's base driver, which programs that read the store expect.

    Without `ssh` the fields of SSH are empty.
    """
    if ssh:
        base = BaseConfig(machine_name=ref.name, store=str(ref.store), ssh_key=ref.ssh_key)
    else:
        base = BaseConfig(machine_name=ref.name, store=str(ref.store), ssh_user="", ssh_port=0, ssh_key=None)
    return {**base.to_config(), **config}


def auth_options(hosts: Hosts, name: str, sans: tuple[str, ...]) -> AuthOptions:
    """Return where the certificates of machine `name` are; `sans` are further names in its server certificate."""
    auth, folder = hosts.auth_paths(), hosts.store.machine_dir(name)
    return AuthOptions(
        cert_dir=str(paths.certs(hosts.store.root)),
        ca_cert_path=str(auth.ca_cert),
        ca_private_key_path=str(auth.ca_key),
        client_cert_path=str(auth.client_cert),
        client_key_path=str(auth.client_key),
        server_cert_path=str(folder / paths.SERVER_CERT),
        server_key_path=str(folder / paths.SERVER_KEY),
        server_cert_sans=list(sans),
        store_path=str(folder),
    )


def siblings(store: Store, driver_name: str) -> list[Config]:
    """Return the configurations of the machines with this driver. Machines that cannot be read are left out."""
    found = []
    for name in store.names():
        try:
            machine = store.load(name)
            if machine.driver_name == driver_name:
                found.append(fields.check(registry.load(driver_name), machine.driver, name=name))
        except PymachineError:
            continue
    return found
