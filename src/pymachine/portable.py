"""Taking a machine elsewhere, or the means to connect to it."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from pymachine import archive, files, identity, paths, registry
from pymachine.archive import CONNECTION, MACHINE, ExportError, Manifest
from pymachine.driver import Capability, Config, Portable, State
from pymachine.errors import MachineExistsError, WrongStateError
from pymachine.machine import Machine
from pymachine.manager import CreateRequest, Manager
from pymachine.names import check_new_name

# The record and what makes the machine itself. Not the certificates: their key opens all of this store's machines.
_OWN = (
    paths.CONFIG,
    paths.EXTRA,
    paths.SSH_KEY,
    f"{paths.SSH_KEY}.pub",
    paths.SSH_HOST_KEY,
    f"{paths.SSH_HOST_KEY}.pub",
    identity.MACHINE_ID,
)
_CONNECTION = ((paths.CA_CERT, 0o644), (paths.CLIENT_CERT, 0o644), (paths.CLIENT_KEY, 0o600))


class Porter(Manager):
    """A manager that also exports and imports."""

    def export(self, name: str, target: Path) -> None:
        """Write the stopped machine `name`, with all that is in it, to the file `target`."""
        with self.store.lock(name):
            machine, driver = self._loaded(name)
            if not isinstance(driver, Portable):
                raise driver.unsupported("export of a whole machine")
            if driver.state() is not State.STOPPED:
                raise WrongStateError(
                    f'Machine "{name}" is {driver.state().word.lower()}; only a stopped one can be exported',
                    hint="Stop it first; or export the means to connect to it: --connection.",
                )
            folder = self.store.machine_dir(name)
            parts = [folder / file for file in [*_OWN, *driver.exported()] if (folder / file).exists()]
            self._write(target, Manifest(MACHINE, name, machine.driver_name), parts)

    def export_connection(self, name: str, target: Path) -> None:
        """Write what a docker client needs to reach machine `name` to the file `target`."""
        machine = self.store.load(name)
        endpoint = machine.endpoint or self.endpoint(name)
        parts = list(machine.client_files(self.store.machine_dir(name)))
        if [part.name for part in parts] != [file for file, _ in _CONNECTION]:
            raise ExportError(f'machine "{name}" has certificates under other names than ca.pem, cert.pem and key.pem')
        missing = next((file for file in parts if not file.exists()), None)
        if missing is not None:
            raise ExportError(f'machine "{name}" has no certificates to connect with: {missing} is missing')
        self._write(target, Manifest(CONNECTION, name, machine.driver_name, endpoint.url), parts)

    def _write(self, target: Path, manifest: Manifest, parts: Sequence[Path]) -> None:
        total = sum(archive.data_size(path) for path in parts)
        with self.reporter.task(f"Exporting {manifest.name}", total=total, unit="B") as task:
            archive.write(target, manifest, parts, advance=task.advance)

    def import_(self, source: Path, *, name: str = "", connection_driver: str) -> Machine:
        """Make a machine of the export at `source`, called as there or `name`; it is stopped.

        The means to connect become a machine of the driver `connection_driver`, whose option ``url`` says where it is.
        """
        with archive.opened(source) as (manifest, members):
            name = name or manifest.name
            check_new_name(name)
            if self.store.exists(name):
                raise MachineExistsError(name)
            scratch = paths.machines(self.store.root) / f".import-{secrets.token_hex(8)}"
            files.make_private_dir(scratch)
            try:
                with self.reporter.task(f"Importing {name}") as task:
                    for file, tar, member in members:
                        task.note(file)
                        archive.extract(tar, member, scratch / file)
                if manifest.kind == CONNECTION:
                    return self._adopt_connection(name, manifest, scratch, connection_driver)
                return self._adopt(name, scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _adopt_connection(self, name: str, manifest: Manifest, scratch: Path, driver_name: str) -> Machine:
        from pymachine import certs  # noqa: PLC0415 (cryptography)

        contents = [(file, mode, (scratch / file).read_bytes()) for file, mode in _CONNECTION]
        machine = self.create(CreateRequest(name=name, driver_name=driver_name, options={"url": manifest.url}))
        with self.store.lock(name):
            folder = self.store.machine_dir(name)
            for file, mode, content in contents:
                files.atomic_write(folder / file, content, mode=mode)
            expiry = min(certs.expires(folder / paths.CA_CERT), certs.expires(folder / paths.CLIENT_CERT))
            machine.certificates_expire = int(expiry.timestamp())
            self.store.save(machine)
        return machine

    def _adopt(self, name: str, scratch: Path) -> Machine:
        """Make the folder `scratch` the machine `name`, if its driver is here and takes it."""
        folder = self.store.machine_dir(name)
        with self.store.lock(name), self.store.reserving():
            if self.store.exists(name):
                raise MachineExistsError(name)
            others = {machine: self._siblings(machine) for machine in registry.names()}
            scratch.rename(folder)
            try:
                machine = self.store.load(name)
                self._make_ours(machine, others.get(machine.driver_name, []))
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return machine

    def _make_ours(self, machine: Machine, siblings: Sequence[Config]) -> None:
        """Everything in the record that was true of the store that it came from."""
        driver = self.driver(machine)
        if not isinstance(driver, Portable):
            raise driver.unsupported("import of a whole machine")
        folder = self.store.machine_dir(machine.name)
        base = {"MachineName": machine.name, "StorePath": str(self.store.root)}
        machine.driver.update({**base, "SSHKeyPath": str(folder / paths.SSH_KEY)})
        machine.auth = self._auth_options(folder, tuple(machine.auth.server_cert_sans))
        machine.context, machine.certificates_expire = "", None
        machine.owner, machine.expires = "", None  # whoever imports it wants to have it
        driver.imported(siblings)
        driver.exported()  # raises for what the export does not have
        if Capability.FIXED_ADDRESS in driver.info.capabilities:
            machine.endpoint = driver.endpoint()
        identity.make_keys(folder, name=machine.name)
        self.store.save(machine)
