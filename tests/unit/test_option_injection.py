"""Text from a record on the command lines of other programs: none of it becomes an option there."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymachine.driver.contract import MachineRef
from pymachine.errors import DriverError
from pymachine.ssh import openssh
from pymachine.ssh.target import SshError, Target
from pymachine.system import run
from pymachine_driver_libvirt.driver import LibvirtDriver
from pymachine_driver_virtualbox import files, leases, vm


@pytest.mark.parametrize(
    ("user", "host", "port", "named"),
    [
        ("-oProxyCommand=touch x", "h", 22, "'-oProxyCommand=touch x' is not the user"),
        ("u", "-oProxyCommand=x", 22, "'-oProxyCommand=x' is not the host"),
        ("u", "h\nProxyCommand x", 22, r"'h\nProxyCommand x' is not the host"),
        ("u", "h", 0, "0 is not the port"),
        ("u", "h", 65536, "65536 is not the port"),
    ],
)
def test_an_ssh_target_refuses_values_that_look_like_options(user: str, host: str, port: int, named: str) -> None:
    """So no such value can reach ssh, scp, rsync or sshfs, whichever code makes the command line."""
    with pytest.raises(SshError) as refused:
        Target("m", host, port, user, None, None)
    assert named in refused.value.brief
    assert refused.value.brief.startswith("cannot log in to m: ")


@pytest.mark.parametrize(
    "user", ["anna", "DOMAIN\\anna", "anna:target", "anna%domain%host", "svc$", "anna@example.com"]
)
def test_users_that_ssh_accepts_are_accepted(user: str) -> None:
    assert Target("m", "h", 22, user, None, None).user == user


def test_sshfs_refuses_a_user_with_a_colon() -> None:
    with pytest.raises(SshError, match="the name contains a colon"):
        openssh.sshfs("sshfs", Target("m", "h", 22, "anna:target", None, None), "/", "/mnt")


def test_the_ssh_user_of_a_virtualbox_machine_cannot_be_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver builds its own ssh command line to read the guest's address."""
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/words\n')
    ssh.chmod(0o755)
    monkeypatch.setattr(run, "which", lambda name: ssh)
    leases._by_ssh({"SSHUser": "-oProxyCommand=x", "SSHPort": 40022}, "080027123456", tmp_path / "key")
    words = (tmp_path / "words").read_text().splitlines()
    assert words[words.index("-oProxyCommand=x") - 1] == "-l"
    assert words[-3:] == ["--", "127.0.0.1", "ip addr show"]


class _FakeVBoxManage:
    """A VBoxManage that knows one machine and records its calls."""

    def __init__(self, settings: Path) -> None:
        self.settings = settings
        self.calls: list[tuple[str, ...]] = []

    def info(self, machine: str) -> dict[str, str]:
        return {"CfgFile": str(self.settings), "VMState": "poweroff", "UUID": machine}

    def __call__(self, *words: object, **_: object) -> str:
        self.calls.append(tuple(map(str, words)))
        return ""


@pytest.mark.parametrize("where", ["elsewhere", "machine", "gone"])
def test_a_virtualbox_machine_of_the_user_is_not_removed(tmp_path: Path, where: str) -> None:
    """A record may have the UUID of any machine that VirtualBox knows."""
    settings = tmp_path / where / "m" / "m.vbox"
    if where != "gone":
        settings.parent.mkdir(parents=True)
        settings.write_text("")
    (tmp_path / "machine").mkdir(exist_ok=True)
    vbox = _FakeVBoxManage(settings)
    own = files.of(tmp_path / "machine")
    if where == "elsewhere":
        with pytest.raises(DriverError, match="is not this one: its settings are in"):
            vm.remove(vbox, "u", own)  # type: ignore[arg-type]
        assert vbox.calls == []
    else:
        vm.remove(vbox, "u", own)  # type: ignore[arg-type]
        assert ("unregistervm", "u", "--delete") in vbox.calls


@pytest.mark.parametrize("volume", ["someone-elses.raw", "m-0c6f1a52.raw/../x", "m-0c6f1a53.raw"])
def test_a_libvirt_machine_cannot_use_another_machines_volume(tmp_path: Path, volume: str) -> None:
    config = {"MachineID": "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10", "DiskVolume": volume}
    driver = LibvirtDriver(MachineRef("m", tmp_path, tmp_path, tmp_path / "id_rsa"), config)
    with pytest.raises(DriverError, match="does not belong to the machine"):
        _ = driver._disk_name
