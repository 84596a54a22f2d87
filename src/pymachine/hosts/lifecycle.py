"""Start, stop, kill and restart a machine."""

from __future__ import annotations

from functools import partial

from pymachine.driver.abilities import Recoverable
from pymachine.driver.contract import State
from pymachine.errors import WrongStateError
from pymachine.hosts import client_settings, local_socket, ssh_shares
from pymachine.hosts.boot import boot
from pymachine.hosts.host import Host, Hosts
from pymachine.hosts.locking import lock, locked
from pymachine.hosts.timeouts import STOP_SECONDS


def start(hosts: Hosts, name: str) -> None:
    """Boot a stopped machine. Raises `WrongStateError` if it was running before."""
    with lock(hosts, name) as recovered:
        host = hosts.open(name)
        host.reporter.info(f'Starting "{name}"...')
        if _boot_or_repair(host):
            return
        if not recovered:
            raise WrongStateError(f'Machine "{name}" is already running.')
        # It runs because an interrupted change was finished just now.
        client_settings.refresh(host)
        host.reporter.info(f'Machine "{name}" was started.')


def ensure_running(hosts: Hosts, name: str) -> None:
    """Boot a machine unless it runs."""
    with lock(hosts, name):
        host = hosts.open(name)
        if host.state() is not State.RUNNING:
            host.reporter.info(f'Starting "{name}"...')
        _boot_or_repair(host)


def ensure_stopped(hosts: Hosts, name: str, *, timeout: float = STOP_SECONDS) -> bool:
    """Shut machine `name` down, by force after `timeout` seconds. Return False if it was stopped already."""
    with locked(hosts, name, to_stop=True) as host:
        if host.state() is State.STOPPED:
            return False
        stop_host(host, timeout)
        return True


def stop(hosts: Hosts, name: str, *, timeout: float = STOP_SECONDS) -> None:
    """Shut machine `name` down, by force after `timeout` seconds."""
    with locked(hosts, name, to_stop=True) as host:
        host.reporter.info(f'Stopping "{name}"...')
        _refuse_stopped(host)
        _shut_down(host, timeout)


def kill(hosts: Hosts, name: str) -> None:
    """Switch machine `name` off at once."""
    with locked(hosts, name, to_stop=True) as host:
        host.reporter.info(f'Killing "{name}"...')
        _refuse_stopped(host)
        host.driver.kill()
        host.save()
        ssh_shares.end(host.directory)
        local_socket.end(host.directory)
        host.reporter.info(f'Machine "{name}" was killed.')


def restart(hosts: Hosts, name: str, *, timeout: float = STOP_SECONDS) -> None:
    """Shut machine `name` down and boot it. A machine that is stopped is only booted."""
    with locked(hosts, name) as host:
        host.reporter.info(f'Restarting "{name}"...')
        if host.state() is State.RUNNING:
            with ssh_shares.unmounted(host), local_socket.closed(host):
                boot(host, partial(host.driver.restart, timeout=timeout), host.boot_request())
        else:
            start_host(host)


def start_host(host: Host) -> None:
    """Boot a machine whose lock is held, as a part of another operation."""
    host.reporter.info(f'Starting "{host.name}"...')
    _boot(host)


def stop_host(host: Host, timeout: float) -> None:
    """Shut down a machine whose lock is held, as a part of another operation."""
    host.reporter.info(f'Stopping "{host.name}"...')
    _shut_down(host, timeout)


def _boot_or_repair(host: Host) -> bool:
    """Boot a machine and return True. If it runs, start those of its processes here that have ended; return False."""
    state = host.state()
    if state is not State.RUNNING:
        _boot(host, resumes=state in (State.PAUSED, State.SAVED))
        return True
    if isinstance(host.driver, Recoverable):
        host.driver.recover()
    # The processes for shared folders and the socket may have ended, as when this host was switched off.
    ssh_shares.mount(host)
    local_socket.follow_record(host)
    client_settings.send_names(host)
    return False


def _boot(host: Host, *, resumes: bool = False) -> None:
    boot(host, host.driver.start, host.boot_request(), resumes=resumes)
    host.reporter.info(f'Machine "{host.name}" was started.')


def _shut_down(host: Host, timeout: float) -> None:
    with ssh_shares.unmounted(host), local_socket.closed(host):
        host.driver.stop(timeout)
    host.save()
    host.reporter.info(f'Machine "{host.name}" was stopped.')


def _refuse_stopped(host: Host) -> None:
    if host.state() is State.STOPPED:
        raise WrongStateError(f'Machine "{host.name}" is already stopped.')
