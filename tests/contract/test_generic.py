"""The contract suite on the driver ``generic``; tests/integration has a host that is really provisioned."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import paramiko
import pytest

from pymachine.driver.contract import BootRequest, Endpoint, State
from pymachine.driver.testing import DriverContract, defaults, reference
from pymachine.errors import DriverError, TimeoutExpiredError, UnsupportedError, UsageError
from pymachine.system import wait
from pymachine.system.progress import Reporter, Silent
from pymachine_driver_generic import Driver
from support import sshd

REFUSES = """\
#!/bin/sh
echo "{name}: not here" >&2
echo "{name} $*" >> {asked}
exit 1
"""
NOTHING = BootRequest(identity=lambda endpoint: b"")


class TestGeneric(DriverContract):
    driver = Driver
    changed: ClassVar = {"generic_ip_address": "127.0.0.1"}

    def make_with(self, folder: Path, **changed: Any) -> Driver:
        ref = reference(folder)
        return Driver(ref, dict(Driver.configure(ref, defaults(Driver, **self.changed, **changed), [])))

    def test_two_machines_do_not_share_an_address(self, tmp_path: Path) -> None:
        """One engine has one set of certificates, so the second machine is refused and the first named."""
        config = {**self.make(tmp_path, "one").config, "MachineName": "one"}
        with pytest.raises(UsageError, match=r'the host at 127\.0\.0\.1 is the machine "one" already'):
            Driver.configure(reference(tmp_path, "two"), defaults(Driver, **self.changed), [config])

    def test_options_have_docker_machines_names_variables_and_defaults(self) -> None:
        known = {option.name: (option.env, option.default) for option in Driver.options()}
        assert known == {
            "generic-engine-port": ("GENERIC_ENGINE_PORT", 2376),
            "generic-ip-address": ("GENERIC_IP_ADDRESS", ""),
            "generic-ssh-user": ("GENERIC_SSH_USER", "root"),
            "generic-ssh-key": ("GENERIC_SSH_KEY", ""),
            "generic-ssh-port": ("GENERIC_SSH_PORT", 22),
        }

    @pytest.mark.parametrize(
        ("changed", "says"),
        [
            ({"generic_ip_address": ""}, "generic driver requires the --generic-ip-address option"),
            ({"generic_ip_address": "a b"}, "expected an IP address or a host name"),
            ({"generic_ip_address": "-oProxyCommand=x"}, "expected an IP address or a host name"),
            ({"generic_ip_address": "h", "generic_ssh_user": "-l"}, "not a user's name"),
            ({"generic_ip_address": "h", "generic_ssh_port": 0}, "--generic-ssh-port 0: expected a port"),
            ({"generic_ip_address": "h", "generic_engine_port": 70000}, "--generic-engine-port 70000"),
            ({"generic_ip_address": "h", "generic_engine_port": 22}, "is the SSH port"),
            ({"generic_ip_address": "h", "generic_ssh_key": "/tmp/ca.pem"}, "cannot be kept"),
        ],
    )
    def test_bad_values_are_refused(self, tmp_path: Path, changed: dict[str, Any], says: str) -> None:
        with pytest.raises(UsageError, match=says):
            Driver.configure(reference(tmp_path), defaults(Driver, **changed), [])

    def test_a_missing_key_is_an_error_before_any_change(self, tmp_path: Path) -> None:
        driver = self.make_with(tmp_path, generic_ssh_key=str(tmp_path / "none"))
        with pytest.raises(DriverError, match='SSH key does not exist: "'):
            driver.precreate_check()

    def test_the_key_is_copied_to_docker_machines_place(self, tmp_path: Path) -> None:
        key = tmp_path / "cloud_key"
        key.write_text("PRIVATE")
        key.chmod(0o644)
        (tmp_path / "cloud_key.pub").write_text("PUBLIC")
        driver = self.make_with(tmp_path, generic_ssh_key=str(key))
        driver.precreate_check()
        driver.create(NOTHING)
        copy = driver.machine.directory / "cloud_key"
        assert copy.read_text() == "PRIVATE"
        assert copy.stat().st_mode & 0o777 == 0o600
        assert copy.with_name("cloud_key.pub").read_text() == "PUBLIC"
        assert driver.config["SSHKeyPath"] == str(copy)

    def test_without_a_key_the_users_own_keys_are_used(self, tmp_path: Path) -> None:
        driver = self.make(tmp_path)
        driver.create(NOTHING)
        assert driver.config["SSHKeyPath"] == ""
        assert list(driver.machine.directory.iterdir()) == []

    def test_a_machine_cannot_be_started(self, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedError, match="generic driver does not support start"):
            self.make(tmp_path).start(NOTHING)

    def test_a_record_that_docker_machine_wrote_is_sufficient(self, tmp_path: Path) -> None:
        driver = Driver(reference(tmp_path), {"IPAddress": "192.0.2.9", "SSHUser": "ubuntu", "EnginePort": 2377})
        endpoint = driver.endpoint()
        assert (endpoint.address, endpoint.docker_port, endpoint.ssh_port) == ("192.0.2.9", 2377, 22)
        assert endpoint.ssh_user == "ubuntu"


@pytest.fixture
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("host", ["ü..x", "\udcff", "ü" * 70])
def test_a_host_whose_name_does_not_resolve_counts_as_stopped(tmp_path: Path, host: str) -> None:
    driver = Driver(reference(tmp_path), {"IPAddress": host})
    assert driver.state() is State.STOPPED
    assert not driver._greets()


def test_the_state_depends_on_whether_the_ssh_port_answers(tmp_path: Path, listening: int) -> None:
    config = {"IPAddress": "127.0.0.1", "SSHPort": listening}
    assert Driver(reference(tmp_path), config).state() is State.RUNNING
    with socket.socket() as taken:  # bound, but not listening
        taken.bind(("127.0.0.1", 0))
        config = {"IPAddress": "127.0.0.1", "SSHPort": taken.getsockname()[1]}
        assert Driver(reference(tmp_path), config).state() is State.STOPPED


def test_reading_the_state_does_not_count_as_a_failed_login(tmp_path: Path) -> None:
    """sshd counts connections that are closed before a login, but not those that are reset."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        driver = Driver(reference(tmp_path), {"IPAddress": "127.0.0.1", "SSHPort": server.getsockname()[1]})
        assert driver.state() is State.RUNNING
        connection, _ = server.accept()
        with connection, pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_a_driver_that_cannot_run_commands_says_so(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="no SSH to run"):
        Driver(reference(tmp_path), {"IPAddress": "127.0.0.1"}).kill()


def make_restarting_driver(tmp_path: Path, port: int, boots: list[str]) -> tuple[Driver, list[str]]:
    """Return a driver whose host answers with one boot id after another, and the list of commands it received."""
    driver = Driver(reference(tmp_path), {"IPAddress": "127.0.0.1", "SSHPort": port})
    commands: list[str] = []

    def run_in_guest(endpoint: Endpoint, command: str, **_: object) -> str:
        commands.append(command)
        return boots.pop(0) + "\n" if "boot_id" in command else ""

    driver.run_in_guest = run_in_guest
    return driver, commands


def test_restart_waits_until_the_host_has_booted_again(tmp_path: Path) -> None:
    with sshd.running(tmp_path) as server:
        driver, commands = make_restarting_driver(tmp_path, server.port, ["one", "one", "two"])
        driver.restart(NOTHING, 1.0)
    assert ["shutdown -r now" in command for command in commands] == [False, True, False, False]
    assert "sudo -n" in commands[1]


def test_a_forwarded_port_without_an_ssh_server_does_not_count_as_the_host(
    tmp_path: Path, listening: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port forwarder accepts the connection and sends nothing."""
    monkeypatch.setattr("pymachine_driver_generic.driver.DIAL_SECONDS", 0.1)
    driver, commands = make_restarting_driver(tmp_path, listening, ["one", "two"])
    with pytest.raises(TimeoutExpiredError, match="the host to come up again"):
        driver.restart(BootRequest(identity=lambda endpoint: b"", timeout=0.5), 1.0)
    assert len(commands) == 2


@pytest.fixture
def host_that_stays_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sshd.Server]:
    """A host with real SSH and a real shell, without nohup, that refuses to shut down."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "id", "mktemp", "cat", "sleep"):
        (programs / name).symlink_to(shutil.which(name) or "/bin/false")
    (programs / "sudo").write_text('#!/bin/sh\n[ "$1" = -n ] && shift\nexec "$@"\n')
    for name in ("shutdown", "poweroff", "reboot", "systemctl"):
        (programs / name).write_text(REFUSES.format(name=name, asked=tmp_path / "asked"))
    for program in programs.iterdir():
        if not program.is_symlink():
            program.chmod(0o755)
    with sshd.running(tmp_path) as server:
        # The host's shell inherits it.
        monkeypatch.setenv("PATH", str(programs))
        yield server


def make_driver(server: sshd.Server, folder: Path, reporter: Reporter | None = None) -> Driver:
    ref = reference(folder)
    config = {"IPAddress": "127.0.0.1", "SSHPort": server.port}
    driver = Driver(ref, config, reporter=reporter)

    def run_in_guest(endpoint: Endpoint, command: str, **_: object) -> str:
        with paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            client.connect("127.0.0.1", server.port, "admin", key_filename=str(server.key))
            out, err = client.exec_command(command)[1:]
            said = out.read().decode()
            if out.channel.recv_exit_status():
                raise DriverError("the command failed", details=err.read().decode())
            return said

    driver.run_in_guest = run_in_guest
    return driver


class Warnings(Silent):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, text: str) -> None:
        self.said.append(text)


def expire_once_refused(monkeypatch: pytest.MonkeyPatch, asked: Path, *counts: int) -> None:
    """Let the next deadlines expire after the host has refused `counts` commands, however slow it is."""
    left = iter(counts)

    class Deadline(wait.Deadline):
        def __init__(self, seconds: float) -> None:
            super().__init__(60.0)
            self.count = next(left)

        @property
        def expired(self) -> bool:
            refused = asked.read_text().count("\n") if asked.exists() else 0
            return refused >= self.count or super().expired

    monkeypatch.setattr(wait, "Deadline", Deadline)


def test_a_host_without_nohup_gets_every_command_and_its_messages_are_reported(
    host_that_stays_on: sshd.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expire_once_refused(monkeypatch, tmp_path / "asked", 2, 4)
    warnings = Warnings()
    with pytest.raises(DriverError, match="does not switch itself off") as caught:
        make_driver(host_that_stays_on, tmp_path, warnings).stop(3.0)
    assert (tmp_path / "asked").read_text().splitlines() == [
        "shutdown -h now",
        "poweroff ",
        "systemctl poweroff --force --force",
        "poweroff -f",
    ]
    assert "The host says: shutdown: not here" in warnings.said
    assert caught.value.details == "systemctl: not here\npoweroff: not here"


def test_a_refused_restart_is_reported_with_the_hosts_messages(
    host_that_stays_on: sshd.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expire_once_refused(monkeypatch, tmp_path / "asked", 2)
    with pytest.raises(TimeoutExpiredError) as caught:
        make_driver(host_that_stays_on, tmp_path).restart(BootRequest(identity=lambda endpoint: b"", timeout=3.0), 1.0)
    assert caught.value.details == "shutdown: not here\nreboot: not here"
