"""QEMU's command line, compared with golden text."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from pymachine.driver.kit.listen_address import ListenAddress
from pymachine.driver.kit.user_network import Published
from pymachine_driver_qemu import command_line
from pymachine_driver_qemu.binary import Qemu
from pymachine_driver_qemu.machine_spec import MachineSpec

CONFIG = {
    "MachineID": "0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10",
    "CPU": 2,
    "Memory": 1024,
    "KernelCommandLine": "mitigations=off",
}
AMD64 = """
/usr/bin/qemu-system-x86_64
-name guest=intro,process=pymachine-0c6f1a52
-uuid 0c6f1a52-6f9c-4d1f-8f0e-3b1b5e2f7a10
-machine q35,vmport=off
-accel tcg,thread=multi,tb-size=256
-cpu max,la57=off
-smp 2
-m 1024M
-nodefaults
-no-user-config
-display none
-kernel /s/intro/vmlinuz
-initrd /s/intro/initrd.img
-append 'console=ttyS0 quiet loglevel=3 pymachine.identity=channel transparent_hugepage=never \
lsm=lockdown,capability,landlock,yama,apparmor,bpf mitigations=off'
-drive if=none,id=iso,file=/s/intro/boot2docker.iso,format=raw,readonly=on
-device virtio-blk-pci,drive=iso
-drive if=none,id=disk,file=/s/intro/disk.raw,format=raw,discard=unmap
-device virtio-blk-pci,drive=disk
-netdev user,id=net,ipv6=off,hostname=intro,hostfwd=tcp:127.70.1.2:2376-:2376,hostfwd=tcp:127.70.1.2:22022-:22
-device virtio-net-pci,netdev=net,mac=52:54:00:12:34:56,romfile=
-qmp unix:/r/0c6f/control.sock,server=on,wait=off
-qmp unix:/r/0c6f/ports.sock,server=on,wait=off
-chardev file,id=console,path=/s/intro/console.log,append=on
-serial chardev:console
-chardev socket,id=identity,path=/r/0c6f/identity.sock,server=on,wait=off
-device virtio-serial-pci
-device virtserialport,chardev=identity,name=org.pymachine.identity
-chardev socket,id=containers,path=/r/0c6f/containers.sock,server=on,wait=off
-device virtserialport,chardev=containers,name=org.pymachine.containers
-chardev socket,id=shares,path=/r/0c6f/shares.sock,server=on,wait=off
-device virtserialport,chardev=shares,name=org.pymachine.shares
-rtc base=utc
-object rng-random,id=random,filename=/dev/urandom
-device virtio-rng-pci,rng=random
-device virtio-balloon-pci,free-page-reporting=on,deflate-on-oom=on
-device vmgenid,guid=auto
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
"""


PLACE = ListenAddress("127.70.1.2", 2376, 22022)


def argv(
    *,
    architecture: str = "amd64",
    accelerator: str = "tcg",
    folder: str = "/s/intro",
    sandbox: bool = True,
    listen: ListenAddress | None = PLACE,
    memory: command_line.Memory | None = None,
    resumed: bool = False,
    has_shares_port: bool = True,
    ipv6: bool = False,
) -> list[str]:
    qemu = Qemu(Path("/usr/bin/qemu-system-x86_64"), (7, 2), sandbox=sandbox)
    spec = MachineSpec(
        qemu=qemu,
        accelerator=accelerator,
        architecture=architecture,
        config=CONFIG,
        has_shares_port=has_shares_port,
        ipv6=ipv6,
    )
    sockets = Path("/r/0c6f")
    return spec.argv("intro", Path(folder), sockets, listen=listen, memory=memory, resumed=resumed)


def value_of(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


def test_an_amd64_machine_with_software_emulation() -> None:
    assert argv() == shlex.split(AMD64)


def test_a_machine_with_ipv6_keeps_ipv4() -> None:
    assert value_of(argv(ipv6=True), "-netdev").startswith(
        "user,id=net,ipv4=on,ipv6=on,ipv6-net=fd70:796d:6162::/64,hostname=intro,hostfwd=tcp:"
    )


def test_a_template_has_no_ipv6() -> None:
    """So that it fits machines with and without it."""
    qemu = Qemu(Path("/usr/bin/qemu-system-x86_64"), (7, 2))
    spec = MachineSpec(qemu=qemu, accelerator="tcg", architecture="amd64", config=CONFIG, ipv6=True)
    assert not spec.as_template().ipv6


def test_an_accelerated_machine_uses_the_hosts_processor() -> None:
    words = argv(accelerator="kvm")
    assert value_of(words, "-accel") == "kvm"
    assert value_of(words, "-cpu") == "host"
    assert "hugepage" not in value_of(words, "-append")


def test_an_arm64_machine_has_its_own_board_and_console_and_no_vmgenid() -> None:
    words = argv(architecture="arm64")
    assert value_of(words, "-machine") == "virt"
    assert value_of(words, "-cpu") == "max,pauth-impdef=on"
    assert value_of(words, "-append").startswith("console=ttyAMA0 ")
    assert not [word for word in words if word.startswith("vmgenid")]


def test_without_seccomp_the_sandbox_is_off() -> None:
    assert "-sandbox" not in argv(sandbox=False)


def test_commas_in_paths_are_escaped() -> None:
    words = argv(folder="/s,readonly=off/x")
    assert "if=none,id=disk,file=/s,,readonly=off/x/disk.raw,format=raw,discard=unmap" in words
    # These are whole arguments, not options with commas.
    assert value_of(words, "-kernel") == "/s,readonly=off/x/vmlinuz"


def test_a_record_without_hardware_fields_has_the_defaults() -> None:
    config = {"MachineID": CONFIG["MachineID"]}
    spec = MachineSpec(
        qemu=Qemu(Path("/q"), (7, 2), ("-L", "/share")), accelerator="tcg", architecture="amd64", config=config
    )
    words = spec.argv("old", Path("/s"), Path("/r"), listen=PLACE)
    assert words[:3] == ["/q", "-L", "/share"]
    assert (value_of(words, "-smp"), value_of(words, "-m")) == ("2", "1024M")
    assert value_of(words, "-append").endswith(
        "transparent_hugepage=never lsm=lockdown,capability,landlock,yama,apparmor,bpf"
    )


def test_a_template_writes_its_memory_and_has_no_forwards() -> None:
    words = argv(listen=None, memory=command_line.Memory(path=Path("/t/memory"), shared=True))
    assert value_of(words, "-object") == "memory-backend-file,id=ram,size=1024M,mem-path=/t/memory,share=on"
    assert value_of(words, "-machine") == "q35,vmport=off,memory-backend=ram"
    assert "hostfwd" not in value_of(words, "-netdev")
    assert "-incoming" not in words


def test_a_clone_maps_the_memory_privately_and_waits_for_its_state() -> None:
    words = argv(memory=command_line.Memory(path=Path("/t/memory")), resumed=True)
    assert value_of(words, "-object").endswith("mem-path=/t/memory,share=off")
    assert value_of(words, "-incoming") == "defer"
    assert f"hostfwd=tcp:{PLACE.address}:2376-:2376" in value_of(words, "-netdev")


def test_free_page_reporting_is_off_for_a_templates_memory() -> None:
    """It would punch holes through the private mapping into the file that all clones share."""
    for memory in (command_line.Memory(path=Path("/m"), shared=True), command_line.Memory(path=Path("/m"))):
        assert not [word for word in argv(memory=memory) if "free-page-reporting" in word]


def test_a_snapshot_of_a_clone_has_the_same_devices_without_the_memory_file() -> None:
    clone = argv(memory=command_line.Memory(path=Path("/m")), resumed=True)
    restored = argv(memory=command_line.Memory(), resumed=True)
    differing = [pair for pair in zip(clone, restored, strict=True) if pair[0] != pair[1]]
    assert [pair[1] for pair in differing] == ["memory-backend-ram,id=ram,size=1024M"]


def test_the_memory_of_an_older_snapshot_gets_no_port_that_it_does_not_know() -> None:
    present, absent = argv(resumed=True), argv(resumed=True, has_shares_port=False)
    left_out = [word for word in present if word not in absent]
    assert left_out == [
        "socket,id=shares,path=/r/0c6f/shares.sock,server=on,wait=off",
        "virtserialport,chardev=shares,name=org.pymachine.shares",
    ]


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_an_accelerator_probe_ends_at_the_first_reset(architecture: str) -> None:
    hardware = command_line.Hardware(architecture=architecture, accelerator="kvm", cpus=1, memory_mib=256)
    boot = command_line.Boot(kernel=Path("/k"), initrd=Path("/i"), append="x")
    words = command_line.trial(hardware, boot, console=Path("/c"))
    assert "-no-reboot" in words
    assert value_of(words, "-serial") == "file:/c"


def frozen_spec() -> MachineSpec:
    qemu = Qemu(Path("/usr/bin/qemu-system-x86_64"), (7, 2))
    return MachineSpec(qemu=qemu, accelerator="tcg", architecture="amd64", config=CONFIG)


def test_a_copy_of_a_machine_that_becomes_a_template_reaches_no_network() -> None:
    spec = replace(frozen_spec(), isolated=True)
    words = spec.argv("template", Path("/t"), Path("/r"), listen=None)
    assert value_of(words, "-netdev") == "user,id=net,ipv6=off,hostname=template,restrict=on"


def test_ports_of_the_containers_of_a_template_are_forwarded_from_the_start() -> None:
    spec = replace(frozen_spec(), published=[Published("tcp", 80), Published("udp", 53)])
    words = spec.argv("intro", Path("/s"), Path("/r"), listen=PLACE)
    assert value_of(words, "-netdev").endswith(",hostfwd=tcp:127.70.1.2:80-:80,hostfwd=udp:127.70.1.2:53-:53")


def test_a_disk_of_changes_has_the_base_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a,b"
    folder.mkdir()
    (folder / "disk.qcow2").touch()
    escaped = str(folder).replace(",", ",,")
    words = frozen_spec().argv("intro", folder, Path("/r"), listen=PLACE)
    assert (
        f"if=none,id=disk,file={escaped}/disk.qcow2,format=qcow2,discard=unmap,backing.driver=raw,backing.read-only=on,"
        f"backing.file.driver=file,backing.file.filename={escaped}/disk.base"
    ) in words


def test_the_memory_of_a_booted_machine_keeps_its_name_and_its_reports() -> None:
    memory = command_line.Memory(path=Path("/t/memory"), shared=True, name="pc.ram", reporting=True)
    words = argv(memory=memory, resumed=True)
    assert value_of(words, "-machine") == "q35,vmport=off,memory-backend=pc.ram"
    assert "memory-backend-file,id=pc.ram,size=1024M,mem-path=/t/memory,share=on" in words
    assert "virtio-balloon-pci,free-page-reporting=on,deflate-on-oom=on" in words
    # A clone's QEMU would punch holes into the template's file.
    assert "virtio-balloon-pci,deflate-on-oom=on" in argv(memory=replace(memory, shared=False, reporting=False))
