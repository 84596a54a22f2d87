"""Export a machine as one file, or the details that a client needs to connect to it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pymachine.driver.abilities import ExportPreparable, Portable
from pymachine.driver.contract import State
from pymachine.errors import WrongStateError
from pymachine.hosts import archive_writer, import_checks
from pymachine.hosts.archive_format import CONNECTION, MACHINE, Content, ExportError, Manifest
from pymachine.hosts.export_files import CONNECTION_FILES, OWN_FILES, check_sizes
from pymachine.hosts.host import Hosts
from pymachine.hosts.locking import locked
from pymachine.hosts.shares import listed
from pymachine.store import paths
from pymachine.system.progress import Reporter

# Fields of the record that mean nothing on another host.
_OF_THIS_HOST = {
    "Shares",
    "Socket",
    "ContextSocket",
    "IPv6Ports",
    "CACertificates",
    "Proxies",
    "ContainerProxy",
    "ClientProxies",
    "Origins",
    "Project",
}


def export(hosts: Hosts, name: str, target: Path) -> None:
    """Write the stopped machine `name`, with everything in it, to the file `target`."""
    with locked(hosts, name) as host, ExitStack() as cleanup:
        driver, record, folder = host.driver, host.record, host.directory
        if not isinstance(driver, Portable):
            raise driver.unsupported("export of a whole machine")
        if host.state() is not State.STOPPED:
            raise WrongStateError(
                f'Machine "{name}" is {host.state().word.lower()}; only a stopped one can be exported',
                hint="Stop it first; or export the means to connect to it: --connection.",
            )
        portable = {key: value for key, value in record.to_json().items() if key not in _OF_THIS_HOST}
        config = Content(paths.CONFIG, json.dumps(portable, indent=4).encode())
        # Report what an import would refuse now, and not when the export is needed.
        import_checks.record(config.data, name=name, driver_name=record.driver_name, driver=type(driver))
        cleanup.enter_context(_prepared(driver))
        parts = [folder / file for file in [*OWN_FILES, *driver.exported()] if (folder / file).exists()]
        check_sizes(driver, {part.name: part.stat().st_size for part in parts})
        _write(target, Manifest(MACHINE, name, record.driver_name), [config, *parts], hosts.reporter)
        if record.proxies.masked() != record.proxies:
            hosts.reporter.warn(
                "The disk in the file has the user and password of the machine's proxy. To export it without them: "
                f"pymachine modify --no-host-proxy {name}, start and stop it, and export it again."
            )
        if record.shares:
            hosts.reporter.info(f"Folders of this host that the machine shares are not in it: {listed(record.shares)}")


@contextmanager
def _prepared(driver: Portable) -> Iterator[None]:
    """Have the files that exist only during an export in the machine's folder during the block."""
    if not isinstance(driver, ExportPreparable):
        yield
        return
    try:
        driver.prepare_export()
        yield
    finally:
        driver.end_export()


def export_connection(hosts: Hosts, name: str, target: Path) -> None:
    """Write what a docker client needs to connect to machine `name` to the file `target`."""
    host = hosts.open(name)
    endpoint = host.record.endpoint or host.endpoint()
    parts = list(host.client_files())
    if [part.name for part in parts] != [file for file, _ in CONNECTION_FILES]:
        raise ExportError(f'machine "{name}" has certificates under other names than ca.pem, cert.pem and key.pem')
    missing = next((file for file in parts if not file.exists()), None)
    if missing is not None:
        raise ExportError(f'machine "{name}" has no certificates to connect with: {missing} is missing')
    _write(target, Manifest(CONNECTION, name, host.record.driver_name, endpoint.url), parts, hosts.reporter)


def _write(target: Path, manifest: Manifest, parts: Sequence[Path | Content], reporter: Reporter) -> None:
    total = sum(archive_writer.data_size(part) for part in parts)
    with reporter.task(f"Exporting {manifest.name}", total=total, unit="B") as task:
        archive_writer.write(target, manifest, parts, advance=task.advance)
