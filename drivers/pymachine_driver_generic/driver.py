"""The driver for an existing Linux host. It creates nothing, and controls the host over SSH."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from pymachine.driver import fields
from pymachine.driver.contract import (
    DOCKER_PORT,
    BootRequest,
    Config,
    Driver as BaseDriver,
    DriverInfo,
    Endpoint,
    Health,
    Json,
    MachineRef,
    State,
    Trait,
)
from pymachine.driver.errors import DriverError, TimeoutExpiredError, UsageError
from pymachine.driver.kit.system import wait
from pymachine.driver.options import Option, OptionKind
from pymachine.driver.shares import Share

DIAL_SECONDS = 3.0
# C's `struct linger`: on, with a timeout of 0.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
KILL_SECONDS = 30.0
COMMAND_SECONDS = 60.0
# A login that the reboot cuts off hangs until this time is over.
LOGIN_DURING_REBOOT_SECONDS = 30.0
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
# Names in the machine's folder that a key must not have.
TAKEN = {
    "config.json",
    "pymachine.json",
    "ca.pem",
    "cert.pem",
    "key.pem",
    "server.pem",
    "server-key.pem",
    "known_hosts",
}


class Driver(BaseDriver):
    """An existing host, known by its address. It cannot be switched on, so `start` is refused."""

    config_fields: ClassVar[Mapping[str, fields.Field]] = {
        "IPAddress": fields.HOST,
        "SSHKey": fields.PATH,
        "EnginePort": fields.PORT_OR_NONE,
    }
    info = DriverInfo(
        "generic", "A Linux host that exists, over SSH", Trait.PROVISION | Trait.FIXED_ADDRESS | Trait.NO_START
    )

    @classmethod
    def options(cls) -> Sequence[Option]:
        """Return docker-machine's options."""
        return [
            Option(
                name="generic-engine-port",
                kind=OptionKind.INTEGER,
                default=DOCKER_PORT,
                env="GENERIC_ENGINE_PORT",
                help="Docker engine port",
            ),
            Option(
                name="generic-ip-address",
                default="",
                env="GENERIC_IP_ADDRESS",
                help="IP Address of machine",
            ),
            Option(name="generic-ssh-user", default="root", env="GENERIC_SSH_USER", help="SSH user"),
            Option(
                name="generic-ssh-key",
                default="",
                env="GENERIC_SSH_KEY",
                help="SSH private key path (if not provided, default SSH key will be used)",
            ),
            Option(
                name="generic-ssh-port", kind=OptionKind.INTEGER, default=22, env="GENERIC_SSH_PORT", help="SSH port"
            ),
        ]

    @classmethod
    def health(cls) -> Health:
        """Report that the driver is usable. Without OpenSSH's client, pymachine's own SSH is used."""
        return Health(usable=True)

    @classmethod
    def configure(cls, machine: MachineRef, options: Mapping[str, Json], siblings: Sequence[Config]) -> Config:
        """Check the options. Raises `UsageError` for a wrong option, or if another machine has this host."""
        address = str(options.get("generic-ip-address") or "").strip()
        if not address:
            raise UsageError("generic driver requires the --generic-ip-address option")
        if not fields.is_host(address):
            raise UsageError(f"--generic-ip-address {address}: expected an IP address or a host name")
        user = str(options.get("generic-ssh-user") or "root")
        if not fields.is_user(user):
            raise UsageError(f"--generic-ssh-user {user}: not a user's name")
        ssh_port, engine_port = (_port(options, name) for name in ("generic-ssh-port", "generic-engine-port"))
        if ssh_port == engine_port:
            raise UsageError(f"--generic-engine-port {engine_port} is the SSH port")
        for sibling in siblings:
            if (sibling.get("IPAddress"), sibling.get("SSHPort", 22)) == (address, ssh_port):
                raise UsageError(
                    f'the host at {address} is the machine "{sibling.get("MachineName")}" already',
                    hint="An engine has only one set of certificates. Use that machine, or remove it first.",
                )
        key = str(options.get("generic-ssh-key") or "")
        return {
            "IPAddress": address,
            "SSHUser": user,
            "SSHPort": ssh_port,
            "SSHKey": str(Path(key).expanduser().absolute()) if key else "",
            "SSHKeyPath": str(machine.directory / _key_name(key)) if key else "",
            "EnginePort": engine_port,
        }

    def precreate_check(self) -> None:
        """Raise `DriverError` if the key does not exist or cannot be read."""
        key = self.config.get("SSHKey")
        if not key:
            return
        if not Path(key).is_file():
            raise DriverError(f'SSH key does not exist: "{key}"')
        if not os.access(key, os.R_OK):
            raise DriverError(f'SSH key cannot be read: "{key}"')

    def create(self, request: BootRequest) -> None:  # noqa: ARG002 (the host has an identity of its own)
        """Copy the key into the machine's folder. The core provisions the host over SSH."""
        key = self.config.get("SSHKey")
        if not key:
            self.reporter.info("No SSH key specified. Assuming an existing key at the default location.")
            return
        self.reporter.info("Importing SSH key...")
        target = Path(self.config["SSHKeyPath"])
        for source, copy in ((Path(key), target), (Path(f"{key}.pub"), Path(f"{target}.pub"))):
            if source.exists():
                _copy_private(source, copy)

    def check_shares(self, shares: Sequence[Share]) -> None:
        """Accept all folders: the host's own checks are made when they are mounted."""

    def shares_over_ssh(self) -> bool:
        """Return true: the core mounts shared folders on the host with its sshfs."""
        return True

    def start(self, request: BootRequest) -> None:  # noqa: ARG002
        """Raise `UnsupportedError`: the driver cannot switch a host on."""
        raise self.unsupported("start")

    def stop(self, timeout: float) -> None:
        """Shut the host down, and switch it off by force after `timeout` seconds."""
        self.reporter.warn("The host is switched off; pymachine cannot switch it on again.")
        log = self._as_root("shutdown -h now", "poweroff")
        if not self._gone(timeout):
            self.reporter.warn(f"The host still runs after {timeout:g} seconds. Switching it off by force.")
            for line in self._read(log).splitlines():
                self.reporter.warn(f"The host says: {line}")
            self.kill()

    def kill(self) -> None:
        """Switch the host off immediately, without stopping its services."""
        log = self._as_root("systemctl poweroff --force --force", "poweroff -f")
        if not self._gone(KILL_SECONDS):
            raise DriverError(
                f"the host at {self.config.get('IPAddress')} does not switch itself off", details=self._read(log)
            )

    def restart(self, request: BootRequest, timeout: float) -> None:  # noqa: ARG002
        """Reboot the host, and wait until it has come up again."""
        before = self._run(BOOT_ID).strip()
        log = self._as_root("shutdown -r now", "reboot")

        def rebooted() -> bool:
            if not self._greets():
                return False
            try:
                return self._run(BOOT_ID, timeout=LOGIN_DURING_REBOOT_SECONDS).strip() != before
            except DriverError:
                return False

        try:
            wait.until(rebooted, deadline=request.timeout, what="the host to come up again", interval=1.0, longest=3.0)
        except TimeoutExpiredError as error:
            error.details = error.details or self._read(log)
            raise

    def remove(self) -> None:
        """Do nothing: the host stays as it is."""

    def state(self) -> State:
        """Return RUNNING if the SSH port accepts a connection, as docker-machine does.

        The connection is reset, not closed: sshd 9.8 and later counts connections that end without a login, and blocks
        addresses with too many of them. It does not notice a connection that is reset at once.
        """
        endpoint = self.endpoint()
        try:
            with socket.create_connection((endpoint.address, endpoint.ssh_port), timeout=DIAL_SECONDS) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        except (OSError, UnicodeError):  # UnicodeError: an invalid host name
            return State.STOPPED
        return State.RUNNING

    def endpoint(self) -> Endpoint:
        """Return the address and ports from the options."""
        return Endpoint(
            str(self.config.get("IPAddress") or ""),
            docker_port=int(self.config.get("EnginePort") or DOCKER_PORT),
            ssh_port=int(self.config.get("SSHPort") or 22),
            ssh_user=str(self.config.get("SSHUser") or "root"),
        )

    def _as_root(self, *commands: str) -> str:
        """Run the first of `commands` that works as root on the host, a second after this connection has ended.

        Return the path of the commands' output on the host, for `_read`. Raises `DriverError` if the user can neither
        log in as root nor use sudo.
        """
        # Not nohup, which some builds of busybox lack. The end of the session sends a hang-up, which is ignored.
        tries = " || ".join(commands)
        script = (
            'if [ "$(id -u)" -eq 0 ]; then s=; else s="sudo -n"; fi; $s true && log=$(mktemp) && { '
            f"(trap '' HUP; exec $s sh -c {shlex.quote(f'PATH=$PATH:/usr/sbin:/sbin; sleep 1; {tries}')})"
            ' > "$log" 2>&1 < /dev/null & echo "$log"; }'
        )
        return self._run(f"sh -c {shlex.quote(script)}").strip()

    def _run(self, command: str, *, timeout: float = COMMAND_SECONDS) -> str:
        """Run a command on the host, and return its output."""
        return self.run_in_guest(self.endpoint(), command, timeout=timeout)

    def _read(self, log: str) -> str:
        """Return the output of the commands of `_as_root`, or why it cannot be read."""
        if not self._greets():
            return "The host does not answer over SSH."
        try:
            return self._run(f"cat {shlex.quote(log)}").strip()
        except DriverError as error:
            return f"{error.brief}\n{error.details}".strip()

    def _greets(self) -> bool:
        """Return whether an SSH server answers. A forwarded port accepts connections even if the host is down."""
        endpoint = self.endpoint()
        try:
            with socket.create_connection((endpoint.address, endpoint.ssh_port), timeout=DIAL_SECONDS) as connection:
                return connection.recv(4) == b"SSH-"
        except (OSError, UnicodeError):  # UnicodeError: an invalid host name
            return False

    def _gone(self, timeout: float) -> bool:
        deadline = wait.Deadline(timeout)
        while not deadline.expired:
            if self.state() is State.STOPPED:
                return True
            time.sleep(1.0)
        return self.state() is State.STOPPED


def _port(options: Mapping[str, Json], name: str) -> int:
    port = options.get(name)
    if not isinstance(port, int) or not 0 < port < 65536:
        raise UsageError(f"--{name} {port}: expected a port, 1 to 65535")
    return port


def _key_name(key: str) -> str:
    name = Path(key).name
    if name in TAKEN or name.startswith("."):
        raise UsageError(
            f"--generic-ssh-key {key}: a key of this name cannot be kept in the machine's folder",
            hint="Copy it to a file with another name.",
        )
    return name


def _copy_private(source: Path, target: Path) -> None:
    """Copy a file so that other users can never read the copy."""
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as stream, source.open("rb") as original:
        shutil.copyfileobj(original, stream)
