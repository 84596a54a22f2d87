"""Import a machine from an export, or the details to connect to one."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pymachine.driver import registry
from pymachine.driver.abilities import ConnectionImportable, Portable
from pymachine.driver.contract import Config, Driver, Trait
from pymachine.driver.kit import transactions
from pymachine.driver.names import check_new_name, host_name
from pymachine.errors import UnsupportedError
from pymachine.hosts import archive_format, archive_reader, identity, import_checks, new_records, shares, ssh_config
from pymachine.hosts.archive_format import CONNECTION, ExportError, Manifest, Member
from pymachine.hosts.archive_reader import Archive
from pymachine.hosts.create import CreateRequest, create, finish, refuse_existing
from pymachine.hosts.export_files import CONNECTION_FILES, KEYS, OWN_FILES, check_sizes, check_small
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.remove import remove
from pymachine.hosts.shares import ShareRequest
from pymachine.store import paths
from pymachine.store.record import Machine
from pymachine.system import atomic_dirs, files


def import_(
    hosts: Hosts,
    source: Path,
    *,
    name: str = "",
    connection_driver: str,
    share: ShareRequest | None = None,
    choose_shares: Callable[[], ShareRequest] = ShareRequest,
) -> Machine:
    """Make a machine from the export at `source`, under its old name or `name`. The machine is stopped.

    Connection details become a machine of the driver `connection_driver`. Nothing is kept of an export that is
    damaged, or that contains anything that no export contains.

    The machine shares the folders of `share`. If that is None, it shares those that `choose_shares` returns, which is
    called for a whole machine on this host whose driver can share folders.
    """
    with archive_reader.opened(source) as export:
        name = name or export.manifest.name
        check_new_name(name)
        refuse_existing(hosts, name)
        _check_total(source, export.manifest)
        if export.manifest.kind == CONNECTION:
            return _import_connection(hosts, name, export, connection_driver, share or ShareRequest())
        return _import_machine(hosts, name, export, share, choose_shares)


def _import_machine(
    hosts: Hosts,
    name: str,
    export: Archive,
    share: ShareRequest | None,
    choose_shares: Callable[[], ShareRequest],
) -> Machine:
    manifest = export.manifest
    kind = registry.load(manifest.driver)
    if not issubclass(kind, Portable):
        raise _unsupported(kind)
    record, *others = manifest.members or (Member("", 0, 0),)
    if record.name != paths.CONFIG or not 0 < record.size <= import_checks.LARGEST_RECORD:
        raise ExportError(f"the first file in the export is not a {paths.CONFIG} of a usual size")
    with _scratch(hosts, manifest) as scratch:
        text = _extractor(export, scratch)(record).read_bytes()
        accepted = import_checks.record(text, name=name, driver_name=manifest.driver, driver=kind)
        _localize(hosts, accepted.machine)
        driver = Host(hosts, accepted.machine).driver
        check_sizes(driver, {member.name: member.size for member in others})
        # Before the long part, and without a progress line on the terminal, since it may ask the user.
        if share is None and shares.is_on_this_host(driver):
            share = choose_shares()
        accepted.machine.shares = shares.accepted(driver, share or ShareRequest())
        with hosts.reporter.task(f"Importing {name}") as task:
            extract = _extractor(export, scratch, note=task.note)
            for member in others:
                import_checks.disk_image(extract(member), largest=member.size)
            export.verify()
            _check_own_files(scratch, name)
            return _adopt(hosts, accepted, scratch)


def _localize(hosts: Hosts, machine: Machine) -> None:
    """Give a record from another store the paths of this store."""
    machine.auth = new_records.auth_options(hosts, machine.name, tuple(machine.auth.server_cert_sans))
    machine.driver["SSHKeyPath"] = str(hosts.store.machine_dir(machine.name) / paths.SSH_KEY)


@contextmanager
def _scratch(hosts: Hosts, manifest: Manifest) -> Iterator[Path]:
    """Make a folder for the files of an export. If the block fails, the folder is removed with new store folders."""
    machines = paths.machines(hosts.store.root)
    fresh = _missing(machines) + _missing(paths.locks(hosts.store.root))
    try:
        files.make_private_dir(machines)
        _check_space(machines, manifest)
        with atomic_dirs.making(machines, private=True) as scratch:
            yield scratch
    except BaseException:
        for folder in sorted(set(fresh), reverse=True):
            _remove_if_empty(folder)
        raise


def _adopt(hosts: Hosts, accepted: import_checks.Accepted, scratch: Path) -> Machine:
    """Make the folder `scratch` the folder of the accepted machine, if its driver accepts it."""
    store, host = hosts.store, Host(hosts, accepted.machine)
    is_new_store = not store.store_lock_file.exists()
    with store.lock(host.name), store.reserving():
        try:
            refuse_existing(hosts, host.name)
            siblings = new_records.siblings(store, host.record.driver_name)
            transactions.note(scratch, transactions.CREATE)
            scratch.rename(host.directory)
            _fit_to_store(host, siblings)
            finish(host)
        except BaseException:
            if not scratch.exists():
                shutil.rmtree(host.directory, ignore_errors=True)
            if is_new_store:
                files.discard_lock(store.store_lock_file)
            raise
        ssh_config.refresh(host)
    dropped = accepted.dropped()
    if dropped:
        hosts.reporter.info(f"Left out of the record, as another host's: {import_checks.summary(dropped)}.")
    return host.record


def _fit_to_store(host: Host, siblings: Sequence[Config]) -> None:
    """Give the machine the fields, keys and addresses of this store and this computer, and save its record."""
    driver, record = host.driver, host.record
    if not isinstance(driver, Portable):
        raise _unsupported(type(driver))
    came = {path.name for path in host.directory.iterdir()} - {transactions.PREFIX + transactions.CREATE}
    driver.imported(siblings)
    unknown = came - _expected(driver)  # `exported` raises for files that the export lacks
    if unknown:
        raise ExportError(f"the export has files that no {record.driver_name} machine has: {sorted(unknown)}")
    has_ssh = not host.has(Trait.NO_SSH)
    record.driver.update(new_records.with_base_fields(record.driver, driver.machine, ssh=has_ssh))
    if host.has(Trait.FIXED_ADDRESS):
        record.endpoint = driver.endpoint()
    identity.make_keys(host.directory, name=host.name)
    host.save()


def _import_connection(hosts: Hosts, name: str, export: Archive, driver_name: str, share: ShareRequest) -> Machine:
    manifest = export.manifest
    import_checks.url(manifest.url)
    if [member.name for member in manifest.members] != [file for file, _ in CONNECTION_FILES]:
        raise ExportError("the export has other files than ca.pem, cert.pem and key.pem")
    check_small(manifest.members)
    with _scratch(hosts, manifest) as scratch, hosts.reporter.task(f"Importing {name}") as task:
        extract = _extractor(export, scratch, note=task.note)
        contents = [extract(member).read_bytes() for member in manifest.members]
        export.verify()
        _check_client_files(scratch)
    return _adopt_connection(hosts, name, manifest.url, contents, driver_name, share)


def _adopt_connection(
    hosts: Hosts, name: str, url: str, contents: Sequence[bytes], driver_name: str, share: ShareRequest
) -> Machine:
    from pymachine.tls import certs  # noqa: PLC0415 (cryptography)

    kind = registry.load(driver_name)
    assert issubclass(kind, ConnectionImportable)  # noqa: S101 (the caller has checked)
    options = kind.options_for_url(url)
    machine = create(hosts, CreateRequest(name=name, driver_name=driver_name, options=options, shares=share))
    with ExitStack() as undo:
        undo.callback(remove, hosts, name)
        with hosts.store.lock(name):
            folder = hosts.store.machine_dir(name)
            for (file, mode), content in zip(CONNECTION_FILES, contents, strict=True):
                files.atomic_write(folder / file, content, mode=mode)
            expiry = min(certs.expires(folder / paths.CA_CERT), certs.expires(folder / paths.CLIENT_CERT))
            machine.certificates_expire = int(expiry.timestamp())
            hosts.store.save(machine)
        undo.pop_all()
    return machine


def _unsupported(kind: type[Driver]) -> UnsupportedError:
    return UnsupportedError(f"{kind.info.name} driver does not support import of a whole machine")


def _extractor(
    export: Archive, folder: Path, *, note: Callable[[str], None] = lambda _: None
) -> Callable[[Member], Path]:
    """Return a function that writes the next member into `folder` and returns its path."""

    def extract(member: Member) -> Path:
        note(member.name)
        export.extract(member, folder / member.name)
        return folder / member.name

    return extract


def _check_total(source: Path, manifest: Manifest) -> None:
    """Raise `ExportError` if a file cannot inflate to the size that its manifest announces.

    A pipe is checked while it is read.
    """
    if source.is_file() and manifest.data > archive_format.inflates_to(source.stat().st_size):
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


def _check_own_files(folder: Path, name: str) -> None:
    """Check the imported keys and machine-id, and remove the record, which is written again."""
    from pymachine.ssh import keys  # noqa: PLC0415 (cryptography)

    (folder / paths.CONFIG).unlink()
    for file in KEYS:
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
    """Return the files that an imported machine has before its record is written."""
    public = {f"{key}.pub" for key in KEYS}
    return {*OWN_FILES, *public, *driver.exported()}


def _missing(folder: Path) -> list[Path]:
    """Return `folder` and the folders above it, as far as they do not exist."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # another pymachine has put something into it
        folder.rmdir()
