"""Choose the accelerator: KVM if it boots the machine's own kernel on libvirt's host, else software emulation.

See `pymachine.driver.kit.accelerator`. The trial runs in a transient domain. Its result is kept until this host boots
again; for another host, whose boots are not visible from here, for a day.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from pymachine.driver.contract import Json
from pymachine.driver.errors import DriverError
from pymachine.driver.kit import kernel_parameters, probe_cache
from pymachine.driver.kit.accelerator import PROOF, TRIAL_INIT, TRIAL_MEMORY_MIB, TRIAL_SECONDS, decide
from pymachine.driver.kit.system import Deadline, Reporter
from pymachine_driver_libvirt import connection as libvirts, domain as domains, guest, hosts, patch
from pymachine_driver_libvirt.connection import Connection, Waker
from pymachine_driver_libvirt.volumes import ImageSet

_CACHE = "libvirt-accelerators.json"
_DAY = 24 * 3600.0
# The kernel resets long after its panic, since console output from the end of a domain can get lost.
_PANIC_SECONDS = 60

log = logging.getLogger(__name__)


class AcceleratorError(DriverError):
    """The requested accelerator does not work on libvirt's host."""

    code = "libvirt-accelerator"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The parameters of a trial of KVM."""

    connection: Connection
    uri: str
    architecture: str
    image: ImageSet
    digest: str
    store: Path
    """The store that caches the results."""


def choose(asked: str, trial: Trial, *, reporter: Reporter) -> str:
    """Return the accelerator to use: ``kvm`` if it works, else ``tcg``.

    Report the reason if ``auto`` ends in software emulation. Raises `AcceleratorError` if `asked` is kvm and KVM does
    not work.
    """
    if asked == "tcg":
        return asked
    problem = _unavailable(trial) or _trial_problem(trial)
    return decide(
        "kvm",
        problem,
        is_required=asked == "kvm",
        flag="libvirt-accelerator",
        error=AcceleratorError,
        reporter=reporter,
    )


def boots(trial: Trial, accelerator: str, *, seconds: float = TRIAL_SECONDS) -> bool:
    """Return whether the image's kernel starts its first program under `accelerator` within `seconds`."""
    libvirt = libvirts.library()
    xml = _trial_xml(trial, accelerator)
    proof = b""
    try:
        domain = trial.connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY)
    except libvirt.libvirtError as error:
        log.debug("trial of %s: %s", accelerator, libvirts.message(error))
        return False
    try:
        waker = Waker()
        with guest.opened(trial.connection, waker.wake) as console:
            domain.openConsole(None, console.raw)
            console.listen()
            domain.resume()
            deadline = Deadline(seconds)
            while PROOF not in proof and waker.wait(deadline):
                while data := console.read():
                    proof += data
                if data == b"":
                    break
    except libvirt.libvirtError as error:
        # The domain ended. The output until then counts.
        log.debug("trial of %s: %s", accelerator, libvirts.message(error))
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            domain.destroy()
    return PROOF in proof


def _trial_xml(trial: Trial, accelerator: str) -> str:
    hardware = domains.Hardware(
        architecture=trial.architecture, accelerator=accelerator, cpus=1, memory_mib=TRIAL_MEMORY_MIB
    )
    append = kernel_parameters.for_trial(trial.architecture, init=TRIAL_INIT, panic=_PANIC_SECONDS)
    boot = domains.Boot(kernel=trial.image.kernel, initrd=trial.image.initrd, command_line=append)
    machine_id = uuid.uuid4()
    return domains.trial(hardware, boot, name=f"pymachine-trial-{machine_id.hex[:8]}", machine_id=str(machine_id))


def _unavailable(trial: Trial) -> str:
    """Return why libvirt does not offer KVM, or "" if it does."""
    libvirt = libvirts.library()
    emulated = domains.emulated(trial.architecture)
    try:
        xml = trial.connection.getDomainCapabilities(None, emulated, None, "kvm")
    except libvirt.libvirtError as error:
        return libvirts.message(error)
    return "" if patch.parse(xml).findtext("domain") == "kvm" else "libvirt does not offer it"


def _trial_problem(trial: Trial) -> str:
    """Return why KVM failed its trial, or "". The result is cached, and only one process at a time runs a trial."""
    trial.store.mkdir(parents=True, exist_ok=True)
    with probe_cache.results(trial.store / _CACHE, is_current=_is_current) as known:
        key = _key(trial)
        entry = known.get(key)
        if entry is None or (not hosts.is_local(trial.uri) and time.time() - entry["at"] > _DAY):
            entry = known[key] = {"at": time.time(), "works": boots(trial, "kvm")}
        return "" if entry["works"] else "kvm is available, but does not boot Linux on that host"


def _key(trial: Trial) -> str:
    """Return the cache key, from all that can change the result: host, boot of the host, QEMU and kernel."""
    with libvirts.wrap_errors("cannot read libvirt's versions"):
        host = patch.parse(trial.connection.getCapabilities()).findtext("host/uuid", "")
        versions = f"{trial.connection.getLibVersion()} {trial.connection.getVersion()}"
    boot = probe_cache.boot_id() if hosts.is_local(trial.uri) else ""
    return f"{trial.uri} {host} {boot} {versions} {trial.digest}"


def _is_current(_: str, result: Json) -> bool:
    if not isinstance(result, dict) or not isinstance(result.get("at"), int | float) or "works" not in result:
        return False
    return bool(time.time() - result["at"] < 30 * _DAY)
