"""The XML that libvirt gets, compared with golden files and validated by libvirt's own schemas.

After an intended change run ``PYMACHINE_GOLDEN=write pytest tests/unit/test_libvirt_xml.py`` and read the difference.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pymachine.driver.kit import kernel_parameters
from pymachine.errors import UsageError
from pymachine_driver_libvirt import domain as domains, network, patch, volumes
from pymachine_driver_libvirt.domain import Boot, Forwards, Hardware, Machine, Owner

GOLDEN = Path(__file__).parent / "data" / "libvirt"
MACHINE_ID = "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10"
MAC = "52:54:00:0c:6f:1a"
POOL = "/var/lib/libvirt/images"
SET = f"{POOL}/pymachine-a5bb61dbe150-0c6f1a52"


def hardware(architecture: str = "amd64", accelerator: str = "tcg", **other: str) -> Hardware:
    return Hardware(architecture=architecture, accelerator=accelerator, cpus=2, memory_mib=1024, **other)


def domain(spec: Hardware, *patches: str, forwards: Forwards | None = None) -> str:
    boot = Boot(
        kernel=f"{SET}.vmlinuz",
        initrd=f"{SET}.initrd",
        command_line=kernel_parameters.for_machine(spec.architecture, "mitigations=off"),
    )
    made = Machine(
        name="intro",
        machine_id=MACHINE_ID,
        mac=MAC,
        image=f"{SET}.iso",
        disk=f"{POOL}/intro-0c6f1a52.raw",
        owner=Owner(name="intro", store="/home/me & you/.docker/machine", client="laptop"),
        network="" if forwards else "default",
        forwards=forwards,
        patches=patches,
    )
    return domains.machine(spec, boot, made)


PATCH = """\
<domain xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <cpu><feature policy="require" name="vmx"/></cpu>
  <vcpu placement="static">4</vcpu>
  <features><hyperv mode="custom"><relaxed state="on"/></hyperv></features>
  <devices><input type="tablet" bus="virtio"/><graphics type="vnc" autoport="yes"/></devices>
  <qemu:commandline><qemu:arg value="-msg"/><qemu:arg value="timestamp=on"/></qemu:commandline>
</domain>
"""
TRIAL = Boot(kernel=f"{SET}.vmlinuz", initrd=f"{SET}.initrd", command_line="console=ttyS0 panic=-1 rdinit=/bin/busybox")
DOCUMENTS: dict[str, tuple[str, Callable[[], str]]] = {
    "domain-tcg": ("domain", lambda: domain(hardware())),
    "domain-kvm": ("domain", lambda: domain(hardware(accelerator="kvm"))),
    "domain-arm64": ("domain", lambda: domain(hardware("arm64"))),
    "domain-model": (
        "domain",
        lambda: domain(hardware(machine_type="pc-q35-7.2", cpu_mode="Nehalem")),
    ),
    "domain-host-model": ("domain", lambda: domain(hardware(accelerator="kvm", cpu_mode="host-model"))),
    "domain-user": (
        "domain",
        lambda: domain(hardware(), forwards=Forwards(address="127.70.1.2", docker_port=2376, ssh_port=22022)),
    ),
    "domain-user-remote": (
        "domain",
        lambda: domain(hardware(), forwards=Forwards(address="", docker_port=23760, ssh_port=22022)),
    ),
    "domain-patched": (
        "domain",
        lambda: domain(hardware(), PATCH, forwards=Forwards(address="", docker_port=23760, ssh_port=22022)),
    ),
    "domain-trial": (
        "domain",
        lambda: domains.trial(
            hardware(accelerator="kvm"), TRIAL, name="pymachine-trial-0c6f1a52", machine_id=MACHINE_ID
        ),
    ),
    "pool": ("storagepool", lambda: volumes.pool_xml("default", POOL)),
    "volume": ("storagevol", lambda: volumes.volume_xml("intro-0c6f1a52.raw", 20000 * 1024 * 1024)),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_xml_equals_the_golden_file_and_is_valid(name: str) -> None:
    schema, make = DOCUMENTS[name]
    path = GOLDEN / f"{name}.xml"
    if os.environ.get("PYMACHINE_GOLDEN") == "write":
        path.write_text(make())
    assert make() == path.read_text()
    done = subprocess.run(["virt-xml-validate", path, schema], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reservation_is_valid_in_a_network(tmp_path: Path) -> None:
    xml = network.host_xml(network.Reservation(MAC, "192.168.122.7", "intro"))
    assert xml == f'<host mac="{MAC}" name="intro" ip="192.168.122.7"><lease expiry="5" unit="minutes" /></host>'
    whole = tmp_path / "network.xml"
    whole.write_text(
        "<network><name>n</name><ip address='192.168.122.1' netmask='255.255.255.0'>"
        f"<dhcp><range start='192.168.122.2' end='192.168.122.254'/>{xml}</dhcp></ip></network>"
    )
    subprocess.run(["virt-xml-validate", whole, "network"], check=True)
    assert network.parse(whole.read_text()).reservations == (network.Reservation(MAC, "192.168.122.7", "intro"),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<domain><devices>", "is not XML"),
        ("<devices/>", "the root of patch.xml is <devices>, expected <domain>"),
        ("<domain><uuid>1</uuid></domain>", "has a <uuid>, which only pymachine sets"),
        ("<domain><name>x</name></domain>", "has a <name>"),
    ],
)
def test_an_invalid_patch_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        patch.check(text, name="patch.xml")
