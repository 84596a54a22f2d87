"""Start a machine: join its network, forward its SSH port, start it, and wait for the guest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pymachine.driver.contract import BootRequest, Json, State
from pymachine.driver.errors import PymachineError, TimeoutExpiredError
from pymachine.driver.kit import name_resolution
from pymachine.driver.kit.system import Deadline, until
from pymachine_driver_virtualbox import (
    files,
    guest,
    hardware,
    leases,
    machine,
    network,
    options,
    output,
    ports,
    power,
    shared_folders,
    vboxmanage,
)
from pymachine_driver_virtualbox.errors import GuestError, HostNetworkError, VirtualBoxError, VirtualizationError
from pymachine_driver_virtualbox.shares import Share

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pymachine_driver_virtualbox.base import VirtualBoxMachine
    from pymachine_driver_virtualbox.vboxmanage import VBoxManage

START_LOCK = "start"
START_SECONDS = 600.0
# docker-machine's default. Its records may leave it out.
OLD_CIDR = "192.168.99.1/24"
STATE_SECONDS = 5.0
BANNER_SECONDS = 5.0
_PROBE_SECONDS = 0.5


def host_network(vbox: VBoxManage, config: Mapping[str, Json]) -> network.Interface:
    """Return the machine's host-only interface; create it if it is missing."""
    wanted = options.cidr(str(config.get("HostOnlyCIDR") or OLD_CIDR))
    interface, _created = network.ensure(vbox, wanted)
    return interface


def check_address(config: Mapping[str, Json]) -> None:
    """Raise `HostNetworkError` if an SSH server already answers at the machine's address.

    A mere connection proves nothing: in some networks a proxy accepts connections to every address.
    """
    address = str(config["IPAddress"])
    if ports.banner(22, host=address, timeout=_PROBE_SECONDS):
        raise HostNetworkError(
            f"{address} is in use: an SSH server answers there",
            hint="Find out which machine has it, or choose another network with --virtualbox-hostonly-cidr.",
        )


def start_machine(
    driver: VirtualBoxMachine,
    vbox: VBoxManage,
    request: BootRequest,
    *,
    interface: network.Interface | None = None,
    saved: bool = False,
) -> None:
    """Start the machine, and return once its guest answers with the identity that `request` builds.

    On failure the machine is switched off, unless it was saved: then its memory is kept.
    """
    deadline = Deadline(request.timeout)
    if not saved:
        _join_network(driver, vbox, interface)
    with vboxmanage.lock(START_LOCK), _off_on_failure(driver, vbox, unless=saved):
        # The lock keeps other pymachine processes from taking the port between this check and VirtualBox's use of it.
        if not saved:
            _forward_ssh(driver, vbox)
        driver.reporter.info("Starting the VM...")
        _start(driver, vbox)
        if saved:
            _forward_after_resume(driver, vbox)
    with _off_on_failure(driver, vbox, unless=saved):
        _await_ssh(driver, vbox, deadline)
        if not driver.config.get("FixedAddress"):
            _await_lease(driver, vbox, deadline)
        if driver.image:
            send_identity(driver, request, pinned=bool(driver.config.get("IdentityDigest")), again=False)
            _check_mounts(driver, vbox, request)


def _join_network(driver: VirtualBoxMachine, vbox: VBoxManage, interface: network.Interface | None) -> None:
    driver.reporter.info("Check network to re-create if needed...")
    found = interface or host_network(vbox, driver.config)
    driver.reporter.info(f'Found host-only adapter "{found.name}" ({found.address})')
    arguments = machine.host_only(driver.vm, driver.config, found.name, network=vbox.traits.host_only_networks)
    _, stderr = vbox.run_with_stderr(*arguments)
    for warning in output.warnings(stderr):
        if "doesn't seem to exist" in warning:
            raise HostNetworkError(
                f'the host-only adapter "{found.name}" disappeared while the machine was being started: {warning}',
                hint="Start the machine again: that creates the adapter again.",
            )
    if not driver.config.get("FixedAddress") and not driver.config.get("HostOnlyNoDHCP"):
        network.ensure_dhcp(vbox, found)


def _forward_ssh(driver: VirtualBoxMachine, vbox: VBoxManage) -> None:
    """Forward the same host port as before to the guest's SSH, or another one if it is taken now."""
    forwarded = output.forwardings(vbox.info(driver.vm)).get(machine.SSH_RULE)
    port = int(driver.config.get("SSHPort") or 0)
    if not port or port == 22 or not ports.is_free(port):
        port = ports.free()
    if forwarded is not None and forwarded != port:
        vbox(*machine.drop_ssh(driver.vm))
    if forwarded != port:
        vbox(*machine.forward_ssh(driver.vm, port))
    driver.config["SSHPort"] = port


def _forward_after_resume(driver: VirtualBoxMachine, vbox: VBoxManage) -> None:
    """Give a resumed machine another port if its own was taken: the saved state contains the old rule."""
    port = int(driver.config.get("SSHPort") or 0)
    if not ports.is_free(port) and output.forwardings(vbox.info(driver.vm)).get(machine.SSH_RULE) == port:
        return  # VirtualBox itself listens at the port
    port = port if port and ports.is_free(port) else ports.free()
    if machine.SSH_RULE in output.forwardings(vbox.info(driver.vm)):
        vbox("controlvm", driver.vm, "natpf1", "delete", machine.SSH_RULE)
    vbox("controlvm", driver.vm, "natpf1", machine.forward_ssh(driver.vm, port)[-1])
    driver.config["SSHPort"] = port


def _start(driver: VirtualBoxMachine, vbox: VBoxManage) -> None:
    try:
        vbox("startvm", driver.vm, "--type", driver.front_end, timeout=max(START_SECONDS, vboxmanage.call_seconds()))
    except VirtualBoxError as error:
        log = vbox_log(vbox, driver.vm)
        problem = hardware.in_log(f"{error.brief}\n{error.details}\n{log}") or hardware.module_problem()
        if problem is None:
            error.details = "\n".join(part for part in (error.details, log[-2000:]) if part)
            raise
        raise VirtualizationError(
            f"VirtualBox could not start the machine: {problem.what}",
            details="\n".join(part for part in (error.brief, error.details) if part),
            hint=problem.fix,
        ) from error


def vbox_log(vbox: VBoxManage, vm: str) -> str:
    """Return the end of VirtualBox's log of the machine's last run."""
    folder = vbox.info(vm).get("LogFldr", "")
    return files.tail(Path(folder) / "VBox.log", length=200_000) if folder else ""


def _await_ssh(driver: VirtualBoxMachine, vbox: VBoxManage, deadline: Deadline) -> None:
    """Wait for the guest's SSH; check every `STATE_SECONDS`, or less often, whether the machine still runs."""
    port = int(driver.config["SSHPort"])
    next_check = Deadline(STATE_SECONDS)

    def answered() -> bool:
        nonlocal next_check
        # On a slow host, the guest takes long to start a process for each connection, and VBoxManage takes long, too.
        waited = deadline.seconds - deadline.remaining()
        if ports.banner(port, timeout=deadline.remaining(at_most=max(BANNER_SECONDS, waited / 10)) or 0.1):
            return True
        if next_check.expired:
            state = output.state(vbox.info(driver.vm))
            if state not in {State.RUNNING, State.STARTING}:
                raise _guest_error(driver, vbox, f"the machine ended while it started: it is {state.word.lower()}")
            next_check = Deadline(max(STATE_SECONDS, waited / 10))
        return False

    with driver.reporter.task("Waiting for the machine to start"):
        try:
            until(answered, deadline=deadline, what="SSH", interval=0.2)
        except TimeoutExpiredError as error:
            raise _guest_error(
                driver, vbox, f"the guest did not come up within {deadline.seconds:g} seconds: no SSH at port {port}"
            ) from error


def _await_lease(driver: VirtualBoxMachine, vbox: VBoxManage, deadline: Deadline) -> None:
    """Wait until the guest has an address by DHCP, and record it. For machines that docker-machine created."""
    info = vbox.info(driver.vm)

    def found() -> str | None:
        try:
            return leases.address(vbox, driver.vm, info, driver.config, key=driver.machine.ssh_key)
        except HostNetworkError:
            if deadline.expired:
                raise
            return None

    driver.reporter.info("Waiting for an IP...")
    driver.config["IPAddress"] = until(found, deadline=deadline, what="an address", interval=0.5)


def _guest_error(driver: VirtualBoxMachine, vbox: VBoxManage, brief: str) -> GuestError:
    paths = files.of(driver.machine.directory)
    problem = hardware.in_log(vbox_log(vbox, driver.vm))
    return GuestError(
        f"{brief}{f' ({problem.what})' if problem else ''}",
        details=files.tail(paths.console),
        hint=problem.fix
        if problem
        else f"See its console log, {paths.console}. On a slow host, set PYMACHINE_BOOT_TIMEOUT=900.",
    )


def send_identity(driver: VirtualBoxMachine, request: BootRequest, *, pinned: bool, again: bool = True) -> None:
    """Send the guest its identity over SSH. Without `again`, skip it if the guest has this identity already.

    Use ``pinned=False`` while the guest's host key is unknown. The connection goes through VirtualBox's forwarded port
    on the loopback.
    """
    vbox = driver.vbox()
    info = vbox.info(driver.vm)
    endpoint = driver.endpoint()
    identity = complete(driver, name_resolution.identity(request, endpoint), info, shared_folders.others(info))
    identity = shared_folders.with_mounts(identity, request.shares, shared_folders.existing(info))
    digest = guest.digest(identity)
    if not again and driver.config.get("IdentityDigest") == digest:
        return
    command = guest.receive_command(identity)
    driver.run_in_guest(endpoint, command, stdin=identity, timeout=request.timeout, pinned=pinned)
    driver.config["IdentityDigest"] = digest


def complete(driver: VirtualBoxMachine, identity: bytes, info: Mapping[str, str], shares: list[Share]) -> bytes:
    """Return `identity` with the guest's host-only address and docker-machine's shared folders added."""
    mac = str(driver.config.get("MACAddress") or "")
    if not mac:
        digits = info.get("macaddress2", "").lower()
        mac = ":".join(digits[index : index + 2] for index in range(0, 12, 2))
    length = options.cidr(str(driver.config.get("HostOnlyCIDR") or OLD_CIDR)).network.prefixlen
    address = f"{driver.config['IPAddress']}/{length}"
    return guest.with_surroundings(identity, mac=mac, address=address, shares=shares)


def _check_mounts(driver: VirtualBoxMachine, vbox: VBoxManage, request: BootRequest) -> None:
    """Warn of shared folders that the guest could not mount: containers would see empty folders in their place."""
    if not request.shares:
        return
    shared = shared_folders.existing(vbox.info(driver.vm))
    try:
        mounts = driver.run_in_guest(driver.endpoint(), "cat /proc/mounts", timeout=request.timeout)
    except PymachineError as error:
        driver.reporter.warn(f"It is not known whether the shared folders are mounted: {error.brief}")
        return
    console = files.of(driver.machine.directory).console
    for name in sorted(shared_folders.not_mounted(mounts, shared)):
        folder = shared[name]
        driver.reporter.warn(f"The guest did not mount the shared folder {folder}. See its console log, {console}.")


@contextmanager
def _off_on_failure(driver: VirtualBoxMachine, vbox: VBoxManage, *, unless: bool) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not unless:
            _try_off(driver, vbox, error)
        raise


def _try_off(driver: VirtualBoxMachine, vbox: VBoxManage, error: BaseException) -> None:
    """Switch the machine off after `error`. If this fails too, only warn, so that `error` is what is raised."""
    try:
        power.off(vbox, driver.vm)
    except PymachineError as second:
        driver.reporter.warn(f"The machine could not be switched off after the failure ({error}): {second.brief}")
