"""The services of the user that start machines when this host boots.

A machine that starts at boot has a service of the user, which says so: its record does not. So a copy of the machine,
here or on another host, does not start at boot.
"""

from __future__ import annotations

import os
import sys

from pymachine.errors import PymachineError
from pymachine.hosts.host import Host, Hosts
from pymachine.store import paths
from pymachine.store.store import Store
from pymachine.system import user_services

# What finds hypervisors, files and hosts. Variables of a session, such as DISPLAY and SSH_AUTH_SOCK, end with it.
_VARIABLES = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "DOCKER_CONFIG",
    "MACHINE_NATIVE_SSH",
    "PYMACHINE_BOOT_TIMEOUT",
    "PYMACHINE_CACHE",
    "PYMACHINE_MIRROR",
)


def is_enabled(store: Store, name: str) -> bool:
    """Return whether machine `name` starts when this host boots."""
    return user_services.is_enabled(_service_name(store, name))


def install(host: Host) -> bool:
    """Start the machine at each boot. Raises `UserServiceError`.

    If the service will run only when the user logs in, report why and return False.
    """
    hosts, name = host.hosts, host.name
    root = str(host.store.root)
    variables = (*_VARIABLES, *host.driver.info.variables)
    program = [sys.executable, "-P", "-m", "pymachine", "--storage-path", root]
    options = ["--native-ssh"] if hosts.native_ssh else []
    for key, path in hosts.authority.items():  # a file that `MACHINE_TLS_*` names is here, too
        options += [f"--tls-{key.replace('_', '-')}", str(path)]
    why = user_services.enable(
        user_services.UserService(
            name=_service_name(hosts.store, name),
            description=f"The machine {name} of pymachine",
            start=[*program, *options, "autostart", "run", name],
            stop=[*program, *options, "stop", name],
            environment={key: os.environ[key] for key in variables if os.environ.get(key)},
        )
    )
    if why and sys.platform != "darwin":
        hosts.reporter.warn(
            f'"{name}" cannot start before you log in: {why.splitlines()[-1]}. '
            "To change that: sudo loginctl enable-linger $USER"
        )
    elif why:
        hosts.reporter.info(f'"{name}" cannot start before you log in: {why}.')
    return not why


def disable(hosts: Hosts, name: str) -> bool:
    """Do not start machine `name` at boot any more. Return False if it did not. Raises `UserServiceError`."""
    return user_services.disable(_service_name(hosts.store, name))


def follow_rename(host: Host, former_name: str) -> None:
    """After a rename, start the machine at boot under its new name. A failure is only a warning."""
    if not is_enabled(host.store, former_name):
        return
    try:
        install(host)
        disable(host.hosts, former_name)
    except PymachineError as error:
        host.reporter.warn(f'"{host.name}" does not start at boot any more: {error.brief}')


def drop(hosts: Hosts, name: str) -> None:
    """Do not start machine `name` at boot, since it is being removed. A failure is only a warning."""
    try:
        disable(hosts, name)
    except PymachineError as error:
        hosts.reporter.warn(f'The service that starts "{name}" at boot could not be removed: {error.brief}')


def _service_name(store: Store, name: str) -> str:
    """Return the name of the machine's service. Machines of other stores than the default have longer names."""
    if store.root == paths.default_root():
        return name
    import hashlib  # noqa: PLC0415 (`ls` does not need it for the default store)

    root = os.fsencode(os.path.realpath(store.root))
    # An underscore: it cannot be in the name of a machine of the default store.
    return f"{name}_{hashlib.sha256(root).hexdigest()[:8]}"
