"""Find domains, read their state in docker-machine's terms, and end them."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree.ElementTree import Element

from pymachine.driver.contract import State
from pymachine.driver.errors import TimeoutExpiredError
from pymachine.driver.kit.system import until
from pymachine_driver_libvirt import connection as libvirts
from pymachine_driver_libvirt.connection import Connection, Domain

_NOTICE_SECONDS = 5.0


def find(connection: Connection, machine_id: str) -> Domain | None:
    """Return the domain with the machine's UUID, or None. A name alone could belong to any domain."""
    try:
        return connection.lookupByUUIDString(machine_id)
    except libvirts.library().libvirtError as error:
        if libvirts.is_error(error, "NO_DOMAIN"):
            return None
        raise libvirts.LibvirtError(f"cannot look up the machine's domain: {libvirts.message(error)}") from error


def others(connection: Connection, machine_id: str, uses: Callable[[Element], bool]) -> list[str]:
    """Return the names of other domains than the machine's for whose XML `uses` returns true."""
    from pymachine_driver_libvirt import patch  # noqa: PLC0415

    with libvirts.wrap_errors("cannot list domains"):
        found = [each for each in connection.listAllDomains() if each.UUIDString() != machine_id]
        xml = [(each.name(), _xml(each)) for each in found]
    return [name for name, text in xml if text and uses(patch.parse(text))]


def hint(connection: Connection, name: str) -> str:
    """Return the hint about another domain, `name`, that uses a resource of the machine's record."""
    inspect = f"To inspect it: virsh -c '{connection.getURI()}' dumpxml {name}"
    return f"{inspect}\nTo remove only the record: pymachine rm -f"


def _xml(domain: Domain) -> str:
    """Return the domain's XML, or "" if it was removed since it was listed."""
    try:
        return str(domain.XMLDesc())
    except libvirts.library().libvirtError as error:
        if libvirts.is_error(error, "NO_DOMAIN"):
            return ""
        raise


def of(domain: Domain | None) -> State:
    """Return the state of a machine with that domain. Without a domain, it is stopped."""
    if domain is None:
        return State.STOPPED
    libvirt = libvirts.library()
    known = {
        libvirt.VIR_DOMAIN_RUNNING: State.RUNNING,
        libvirt.VIR_DOMAIN_BLOCKED: State.RUNNING,
        libvirt.VIR_DOMAIN_PAUSED: State.PAUSED,
        libvirt.VIR_DOMAIN_PMSUSPENDED: State.PAUSED,
        libvirt.VIR_DOMAIN_SHUTDOWN: State.STOPPING,
        libvirt.VIR_DOMAIN_SHUTOFF: State.STOPPED,
        libvirt.VIR_DOMAIN_CRASHED: State.ERROR,
    }
    try:
        state, _ = domain.state()
        if state == libvirt.VIR_DOMAIN_SHUTOFF and domain.hasManagedSaveImage():
            return State.SAVED
    except libvirt.libvirtError as error:
        if libvirts.is_error(error, "NO_DOMAIN"):
            return State.STOPPED
        raise libvirts.LibvirtError(f"cannot read the machine's state: {libvirts.message(error)}") from error
    return known.get(state, State.ERROR)


def is_active(domain: Domain) -> bool:
    """Return whether the domain exists and runs, paused or not. Raises libvirt's errors."""
    try:
        return bool(domain.isActive())
    except libvirts.library().libvirtError as error:
        if libvirts.is_error(error, "NO_DOMAIN"):
            return False
        raise


def has_ended(domain: Domain) -> bool:
    """Return whether the domain is off, or goes off within 5 seconds: libvirt notices QEMU's end with a delay."""
    return _reason_of_end(domain) is not None


def has_crashed(domain: Domain) -> bool:
    """Return whether libvirt reports within 5 seconds that the domain's QEMU crashed."""
    return bool(_reason_of_end(domain) == libvirts.library().VIR_DOMAIN_SHUTOFF_CRASHED)


def _reason_of_end(domain: Domain) -> int | None:
    libvirt = libvirts.library()

    def ended() -> list[int] | None:
        found: list[int] = domain.state()
        return found if found[0] == libvirt.VIR_DOMAIN_SHUTOFF else None

    try:
        _, reason = until(ended, deadline=_NOTICE_SECONDS, what="the domain's end")
    except (TimeoutExpiredError, libvirt.libvirtError):
        return None
    return int(reason)


def switch_off(domain: Domain) -> None:
    """Switch the domain off immediately, if it runs."""
    libvirt = libvirts.library()
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        # These mean that it does not run, or is gone.
        if not libvirts.is_error(error, "OPERATION_INVALID", "NO_DOMAIN"):
            raise libvirts.LibvirtError(f"cannot switch the machine off: {libvirts.message(error)}") from error


def undefine(domain: Domain) -> None:
    """Undefine the domain, if it exists, with all that libvirt keeps for it."""
    libvirt = libvirts.library()
    flags = (
        libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    )
    try:
        domain.undefineFlags(flags)
    except libvirt.libvirtError as error:
        if not libvirts.is_error(error, "NO_DOMAIN"):
            raise libvirts.LibvirtError(f"cannot undefine the machine's domain: {libvirts.message(error)}") from error
