"""A machine whose libvirtd is restarted, and whose domain is paused, saved, destroyed and undefined with virsh."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.libvirtd import Daemon, virsh
from support.runner import Pymachine

DOMAIN = "box"
PING = 'eval "$(pymachine env box)"; docker version --format "{{.Server.Version}}"'


@pytest.fixture(scope="module")
def box(daemon: Daemon, host_from_guest: str) -> Iterator[Pymachine]:
    from support.runner import private_store

    with private_store(MACHINE_DRIVER="libvirt") as program:
        program("create", DOMAIN)
        yield program


def status(box: Pymachine) -> str:
    return box("status", DOMAIN).stdout.strip()


def answers(box: Pymachine) -> bool:
    return bool(box.run(["bash", "-c", f"set -e; {PING}"]).stdout.strip())


def test_a_running_machine_survives_a_restart_of_libvirtd(box: Pymachine, daemon: Daemon) -> None:
    daemon.stop()
    try:
        assert answers(box)
        outcome = box("status", DOMAIN, code=None)
        assert outcome.code != 0
        assert "cannot connect to libvirt at qemu:///system" in outcome.stderr
        assert "Error" in box("ls").stdout
    finally:
        daemon.start()
    assert status(box) == "Running"
    assert answers(box)


def test_start_resumes_a_paused_machine(box: Pymachine) -> None:
    virsh("suspend", DOMAIN)
    assert status(box) == "Paused"
    box("start", DOMAIN)
    assert status(box) == "Running"
    assert answers(box)


def test_start_resumes_a_saved_machine(box: Pymachine) -> None:
    booted = box("ssh", DOMAIN, "cat /proc/sys/kernel/random/boot_id").stdout
    virsh("managedsave", DOMAIN)
    assert status(box) == "Saved"
    box("start", DOMAIN)
    assert status(box) == "Running"
    assert answers(box)
    assert box("ssh", DOMAIN, "cat /proc/sys/kernel/random/boot_id").stdout == booted


def test_start_defines_an_undefined_domain_again(box: Pymachine) -> None:
    before = box("env", DOMAIN).stdout
    box("ssh", DOMAIN, "sudo sh -c 'echo kept > /var/lib/docker/kept; sync'")
    virsh("undefine", DOMAIN)
    assert status(box) == "Running"
    virsh("destroy", DOMAIN)
    assert status(box) == "Stopped"
    assert DOMAIN not in virsh("list", "--all", "--name")
    assert "The domain was removed from libvirt. Defining it again" in box("start", DOMAIN).stdout
    assert status(box) == "Running"
    assert box("env", DOMAIN).stdout == before
    assert box("ssh", DOMAIN, "sudo cat /var/lib/docker/kept").stdout == "kept\n"


def test_start_reports_a_missing_disk_volume(box: Pymachine) -> None:
    box("kill", DOMAIN)
    disk = next(name for name in virsh("vol-list", "default").split() if name.startswith(f"{DOMAIN}-"))
    virsh("vol-delete", disk, "default")
    outcome = box("start", DOMAIN, code=None)
    assert outcome.code != 0
    assert f"volume {disk} is missing from storage pool default" in outcome.stderr
    assert "virsh pool-refresh default" in outcome.stderr
    box("rm", "-y", DOMAIN)
    assert DOMAIN not in virsh("list", "--all", "--name")
    assert virsh("vol-list", "default") == ""
