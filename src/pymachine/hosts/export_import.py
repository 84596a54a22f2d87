"""Taking a machine elsewhere, or the means to connect to it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pymachine.driver import registry
from pymachine.driver.abilities import ConfigPortable, ConnectionImportable, Portable
from pymachine.driver.contract import Capability, Config, Driver, State
from pymachine.driver.kit import transactions
from pymachine.driver.names import check_new_name, host_name
from pymachine.errors import MachineExistsError, UnsupportedError, WrongStateError
from pymachine.hosts import archive, identity, import_checks
from pymachine.hosts.archive import CONNECTION, MACHINE, Archive, Content, ExportError, Manifest, Member
from pymachine.hosts.manager import CreateRequest, Manager, with_base_fields
from pymachine.store import paths
from pymachine.store.record import Machine
from pymachine.system import atomic_dirs, files

# What makes the machine itself. Not the certificates: their key opens all of this store's machines.
_KEYS = (paths.SSH_KEY, paths.SSH_HOST_KEY)
_OWN = (*_KEYS, identity.MACHINE_ID)
_CONNECTION = ((paths.CA_CERT, 0o644), (paths.CLIENT_CERT, 0o644), (paths.CLIENT_KEY, 0o600))
# Of a key, a certificate, an id.
_LARGEST_SMALL = 64 << 10


class Porter(Manager):
    """A manager that also exports and imports."""

    def export(self, name: str, target: Path) -> None:
        """Write the stopped machine `name`, with all that is in it, to the file `target`."""
        with self._locked(name):
            machine, driver = self._loaded(name)
            if not isinstance(driver, Portable):
                raise driver.unsupported("export of a whole machine")
            if driver.state() is not State.STOPPED:
                raise WrongStateError(
                    f'Machine "{name}" is {driver.state().word.lower()}; only a stopped one can be exported',
                    hint="Stop it first; or export the means to connect to it: --connection.",
                )
            folder = self.store.machine_dir(name)
            record = Content(paths.CONFIG, json.dumps(machine.to_json(), indent=4).encode())
            parts = [folder / file for file in [*_OWN, *driver.exported()] if (folder / file).exists()]
            # What no import would take is better known now than when it is needed.
            import_checks.record(record.data, name=name, driver_name=machine.driver_name, driver=type(driver))
            _check_sizes(driver, {part.name: part.stat().st_size for part in parts})
            self._write(target, Manifest(MACHINE, name, machine.driver_name), [record, *parts])

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

    def _write(self, target: Path, manifest: Manifest, parts: Sequence[Path | Content]) -> None:
        total = sum(archive.data_size(part) for part in parts)
        with self.reporter.task(f"Exporting {manifest.name}", total=total, unit="B") as task:
            archive.write(target, manifest, parts, advance=task.advance)

    def import_(self, source: Path, *, name: str = "", connection_driver: str) -> Machine:
        """Make a machine of the export at `source`, called as there or `name`; it is stopped.

        The means to connect become a machine of the driver `connection_driver`.
        Nothing is kept of an export that is damaged, or that has in it what no export has.
        """
        with archive.opened(source) as export:
            name = name or export.manifest.name
            check_new_name(name)
            self._check_free(name)
            _check_total(source, export.manifest)
            if export.manifest.kind == CONNECTION:
                return self._import_connection(name, export, connection_driver)
            return self._import_machine(name, export)

    def _import_machine(self, name: str, export: Archive) -> Machine:
        manifest = export.manifest
        kind = registry.load(manifest.driver)
        if not issubclass(kind, Portable):
            raise _unsupported(kind)
        record, *others = manifest.members or (Member("", 0, 0),)
        if record.name != paths.CONFIG or not 0 < record.size <= import_checks.LARGEST_RECORD:
            raise ExportError(f"the first file in the export is not a {paths.CONFIG} of a usual size")
        with self._scratch(manifest) as scratch, self.reporter.task(f"Importing {name}") as task:
            extract = _extractor(export, scratch, note=task.note)
            accepted = import_checks.record(
                extract(record).read_bytes(), name=name, driver_name=manifest.driver, driver=kind
            )
            driver = self._localized(accepted.machine)
            _check_sizes(driver, {member.name: member.size for member in others})
            for member in others:
                import_checks.disk_image(extract(member), largest=member.size)
            export.verify()
            _settle_own_files(scratch, name)
            return self._adopt(accepted, scratch)

    def _localized(self, machine: Machine) -> Driver:
        """Give a record that came from elsewhere the paths of this store, and return its driver."""
        folder = self.store.machine_dir(machine.name)
        machine.auth = self._auth_options(folder, tuple(machine.auth.server_cert_sans))
        machine.driver["SSHKeyPath"] = str(folder / paths.SSH_KEY)
        return self.driver(machine)

    @contextmanager
    def _scratch(self, manifest: Manifest) -> Iterator[Path]:
        """A folder for the files of an export; nothing is left of it, and of the store's own folders, on failure."""
        machines = paths.machines(self.store.root)
        fresh = _missing(machines) + _missing(paths.locks(self.store.root))
        try:
            files.make_private_dir(machines)
            _check_space(machines, manifest)
            with atomic_dirs.making(machines, private=True) as scratch:
                yield scratch
        except BaseException:
            for folder in sorted(set(fresh), reverse=True):
                _remove_if_empty(folder)
            raise

    def _import_connection(self, name: str, export: Archive, driver_name: str) -> Machine:
        manifest = export.manifest
        import_checks.url(manifest.url)
        if [member.name for member in manifest.members] != [file for file, _ in _CONNECTION]:
            raise ExportError("the export has other files than ca.pem, cert.pem and key.pem")
        _check_small(manifest.members)
        with self._scratch(manifest) as scratch, self.reporter.task(f"Importing {name}") as task:
            extract = _extractor(export, scratch, note=task.note)
            contents = [extract(member).read_bytes() for member in manifest.members]
            export.verify()
            _check_client_files(scratch)
        return self._adopt_connection(name, manifest.url, contents, driver_name)

    def _adopt_connection(self, name: str, url: str, contents: Sequence[bytes], driver_name: str) -> Machine:
        from pymachine.tls import certs  # noqa: PLC0415 (cryptography)

        kind = registry.load(driver_name)
        assert issubclass(kind, ConnectionImportable)  # noqa: S101 (the caller has looked)
        options = kind.options_for_url(url)
        machine = self.create(CreateRequest(name=name, driver_name=driver_name, options=options))
        with ExitStack() as undo:
            undo.callback(self.remove, name)
            with self.store.lock(name):
                folder = self.store.machine_dir(name)
                for (file, mode), content in zip(_CONNECTION, contents, strict=True):
                    files.atomic_write(folder / file, content, mode=mode)
                expiry = min(certs.expires(folder / paths.CA_CERT), certs.expires(folder / paths.CLIENT_CERT))
                machine.certificates_expire = int(expiry.timestamp())
                self.store.save(machine)
            undo.pop_all()
        return machine

    def _adopt(self, accepted: import_checks.Accepted, scratch: Path) -> Machine:
        """Make the folder `scratch` the machine that was accepted, if its driver takes it."""
        machine = accepted.machine
        folder = self.store.machine_dir(machine.name)
        store_lock = self.store.store_lock_file
        is_new_store = not store_lock.exists()
        with self.store.lock(machine.name), self.store.reserving():
            try:
                self._check_free(machine.name)
                siblings = self._siblings(machine.driver_name)
                transactions.note(scratch, transactions.CREATE)
                scratch.rename(folder)
                self._make_ours(machine, siblings)
                self._is_made(machine)
            except BaseException:
                if not scratch.exists():
                    shutil.rmtree(folder, ignore_errors=True)
                if is_new_store:
                    files.discard_lock(store_lock)
                raise
        dropped = accepted.dropped()
        if dropped:
            self.reporter.info(f"Left out of the record, as another host's: {import_checks.summary(dropped)}.")
        return machine

    def _check_free(self, name: str) -> None:
        if self.store.exists(name):
            raise MachineExistsError(name)

    def _make_ours(self, machine: Machine, siblings: Sequence[Config]) -> None:
        """Give the machine what is this store's and this host's, and save its record."""
        folder = self.store.machine_dir(machine.name)
        driver = self.driver(machine)
        if not isinstance(driver, Portable):
            raise _unsupported(type(driver))
        came = {path.name for path in folder.iterdir()} - {transactions.PREFIX + transactions.CREATE}
        driver.imported(siblings)
        unknown = came - _expected(driver)  # `exported` raises for what the export does not have
        if unknown:
            raise ExportError(f"the export has files that no {machine.driver_name} machine has: {sorted(unknown)}")
        has_ssh = Capability.NO_SSH not in driver.info.capabilities
        machine.driver.update(with_base_fields(machine.driver, driver.machine, ssh=has_ssh))
        if Capability.FIXED_ADDRESS in driver.info.capabilities:
            machine.endpoint = driver.endpoint()
        identity.make_keys(folder, name=machine.name)
        self.store.save(machine)


def _unsupported(kind: type[Driver]) -> UnsupportedError:
    return UnsupportedError(f"{kind.info.name} driver does not support import of a whole machine")


def _extractor(export: Archive, folder: Path, *, note: Callable[[str], None]) -> Callable[[Member], Path]:
    """A function that writes the next member into `folder` and returns where it is."""

    def extract(member: Member) -> Path:
        note(member.name)
        export.extract(member, folder / member.name)
        return folder / member.name

    return extract


def _check_total(source: Path, manifest: Manifest) -> None:
    """Raise `ExportError` if a file could not inflate to what its manifest announces; a pipe is checked as it comes."""
    if source.is_file() and manifest.data > archive.inflates_to(source.stat().st_size):
        raise ExportError(
            f"{source} has {source.stat().st_size} bytes and announces {manifest.data}: no export of pymachine's "
            f"shrinks that much"
        )


def _check_space(folder: Path, manifest: Manifest) -> None:
    free = shutil.disk_usage(folder).free
    if manifest.data > free:
        raise ExportError(
            f"not enough disk space in {folder}: {free >> 20} MB free, {manifest.data >> 20} MB needed",
            hint="Free some space, or import into another store with --storage-path.",
        )


def _check_sizes(driver: Driver, sizes: Mapping[str, int]) -> None:
    """Raise `ExportError` for files that a machine of `driver` does not have, or that are larger than they can be."""
    largest = dict.fromkeys(_OWN, _LARGEST_SMALL)
    if isinstance(driver, ConfigPortable):
        largest.update(driver.portable_files())
    for name, size in sizes.items():
        if name in largest and size > largest[name]:
            raise ExportError(
                f"{name} has {size} bytes; by the machine's record it has at most {largest[name]}",
                hint="Bring the record up to date where the machine is: pymachine modify --disk-size.",
            )
        if name not in largest and isinstance(driver, ConfigPortable):
            raise ExportError(f"the export has {name!r}, which no {driver.info.name} machine has")


def _check_small(members: Sequence[Member]) -> None:
    for member in members:
        if member.size > _LARGEST_SMALL:
            raise ExportError(f"{member.name} in the export has {member.size} bytes, more than {_LARGEST_SMALL}")


def _check_client_files(folder: Path) -> None:
    """Raise `ExportError` unless the certificates and the key can be read as such."""
    from pymachine.ssh import keys  # noqa: PLC0415 (cryptography)
    from pymachine.tls import certs  # noqa: PLC0415 (cryptography)

    for file in (paths.CA_CERT, paths.CLIENT_CERT):
        certs.expires(folder / file)
    try:
        keys.public_text(folder / paths.CLIENT_KEY)
    except ValueError as error:
        raise ExportError(f"{paths.CLIENT_KEY} in the export cannot be used: {error}") from error


def _settle_own_files(folder: Path, name: str) -> None:
    """Check keys and machine-id that came, and drop the record, which is written again."""
    from pymachine.ssh import keys  # noqa: PLC0415 (cryptography)

    (folder / paths.CONFIG).unlink()
    for file in _KEYS:
        if (folder / file).exists():
            try:
                public = keys.public_text(folder / file)
            except ValueError as error:
                raise ExportError(f"{file} in the export cannot be used: {error}") from error
            files.atomic_write(keys.public_half(folder / file), f"{public} {host_name(name)}\n", mode=0o644)
    machine_id = folder / identity.MACHINE_ID
    if machine_id.exists() and not re.fullmatch(rb"[0-9a-f]{32}\n?", machine_id.read_bytes()):
        raise ExportError(f"{identity.MACHINE_ID} in the export is not 32 hexadecimal digits")


def _expected(driver: Portable) -> set[str]:
    """The files that an imported machine has before its record is written."""
    public = {f"{key}.pub" for key in _KEYS}
    return {*_OWN, *public, *driver.exported()}


def _missing(folder: Path) -> list[Path]:
    """`folder` and the folders above it that do not exist."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # another pymachine has put something into it
        folder.rmdir()
