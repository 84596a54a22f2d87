"""Send machines that reach each other their names and addresses: see `PeerReachable`.

Each running machine gets the whole list, over SSH. Its name server answers from the list, which it keeps on its disk.
"""

from __future__ import annotations

import logging
import shlex
from concurrent.futures import ThreadPoolExecutor

from pymachine.driver.abilities import PeerReachable
from pymachine.driver.contract import State
from pymachine.driver.kit import host_names, transactions
from pymachine.errors import PymachineError
from pymachine.hosts.host import Host
from pymachine.hosts.timeouts import BOOT_SECONDS, boot_timeout

log = logging.getLogger(__name__)
# Images of older versions do not have it.
SCRIPT = "/usr/lib/pymachine/machine-names"
# A machine that is being shut down does not answer. A host with a longer timeout for boots needs longer for this too.
SECONDS = 10.0
MOST_CONNECTIONS = 16


def send(host: Host, *, dropped: bool = False) -> None:
    """Send the names to all running machines in the network of `host`, without its own name if it is `dropped`.

    A machine that does not answer is left out: it gets the names when it starts. Other failures are warnings.
    """
    try:
        network = _network(host)
        if not network:
            return
        with host.store.sending_names():
            peers = _peers(host, network, dropped=dropped)
            names = [word for peer in peers for word in _entry(peer)]
            with ThreadPoolExecutor(MOST_CONNECTIONS) as pool:
                problems = list(pool.map(lambda peer: _send(peer, names, needed=peer.name == host.name), peers))
    except PymachineError as error:
        host.reporter.warn(f"The machines do not know each other's current names: {error.brief}")
        return
    for peer, problem in zip(peers, problems, strict=True):
        if problem:
            host.reporter.warn(f'"{peer.name}" does not know the current names of other machines: {problem}')


def _peers(host: Host, network: str, *, dropped: bool) -> list[Host]:
    """Return the machines in `network` with the driver of `host`, with itself unless it is `dropped`."""
    found: list[Host] = []
    for name in host.store.names():
        if dropped and name == host.name:
            continue
        try:
            peer = host.hosts.open(name)
            if peer.record.driver_name == host.record.driver_name and _network(peer) == network:
                found.append(peer)
        except PymachineError:  # its record cannot be read
            continue
    return found


def _network(host: Host) -> str:
    return host.driver.peer_network() if isinstance(host.driver, PeerReachable) else ""


def _entry(peer: Host) -> tuple[str, ...]:
    """Return address and name of a machine; nothing if its name can be no host name."""
    return (peer.driver.endpoint().address, peer.name) if host_names.is_for_guests(peer.name) else ()


def _send(peer: Host, names: list[str], *, needed: bool) -> str:
    """Send the names to one machine if it runs. Return what went wrong, or "".

    Unless it is `needed`, a machine that cannot be reached is no problem.
    """
    try:
        # A machine that is being booted by another command gets the names from that command.
        if any(change.name == transactions.BOOT for change in transactions.changes(peer.directory)):
            return ""
        if peer.state() is not State.RUNNING:
            return ""
        client = peer.ssh(peer.target(peer.driver.endpoint()))
        result = client.run(
            f"[ ! -x {SCRIPT} ] || sudo {SCRIPT} {shlex.join(names)}",
            timeout=SECONDS * boot_timeout() / BOOT_SECONDS,
        )
    except PymachineError as error:
        log.debug("no names for %s: %s", peer.name, error.brief)
        return error.brief if needed else ""
    return "" if result.returncode == 0 else (result.stderr or result.stdout).strip() or "it refuses them"
