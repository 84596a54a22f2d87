"""Parts of the driver that need no VirtualBox: flags, addresses, shares, hardware and the guest's identity."""

from __future__ import annotations

import io
import ipaddress
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from pymachine.driver.testing import defaults
from pymachine.errors import UsageError
from pymachine_driver_virtualbox import Driver, guest, hardware, machine, network, options, shares, versions
from pymachine_driver_virtualbox.errors import HostNetworkError
from pymachine_driver_virtualbox.network import Interface
from pymachine_driver_virtualbox.shares import Share

# docker-machine's flags and variables, and their defaults but for the two that the documentation explains.
FLAGS: dict[str, tuple[str, Any]] = {
    "virtualbox-memory": ("VIRTUALBOX_MEMORY_SIZE", 1024),
    "virtualbox-cpu-count": ("VIRTUALBOX_CPU_COUNT", 1),
    "virtualbox-disk-size": ("VIRTUALBOX_DISK_SIZE", 20000),
    "virtualbox-boot2docker-url": ("VIRTUALBOX_BOOT2DOCKER_URL", ""),
    "virtualbox-import-boot2docker-vm": ("VIRTUALBOX_BOOT2DOCKER_IMPORT_VM", ""),
    "virtualbox-host-dns-resolver": ("VIRTUALBOX_HOST_DNS_RESOLVER", False),
    "virtualbox-nat-nictype": ("VIRTUALBOX_NAT_NICTYPE", "82540EM"),
    "virtualbox-hostonly-cidr": ("VIRTUALBOX_HOSTONLY_CIDR", "192.168.56.1/24"),
    "virtualbox-hostonly-nictype": ("VIRTUALBOX_HOSTONLY_NIC_TYPE", "82540EM"),
    "virtualbox-hostonly-nicpromisc": ("VIRTUALBOX_HOSTONLY_NIC_PROMISC", "deny"),
    "virtualbox-ui-type": ("VIRTUALBOX_UI_TYPE", "headless"),
    "virtualbox-hostonly-no-dhcp": ("VIRTUALBOX_HOSTONLY_NO_DHCP", False),
    "virtualbox-no-share": ("VIRTUALBOX_NO_SHARE", False),
    "virtualbox-no-dns-proxy": ("VIRTUALBOX_NO_DNS_PROXY", False),
    "virtualbox-no-vtx-check": ("VIRTUALBOX_NO_VTX_CHECK", False),
    "virtualbox-share-folder": ("VIRTUALBOX_SHARE_FOLDER", ""),
}


def test_the_flags_are_docker_machines() -> None:
    assert {option.name: (option.env, option.default) for option in Driver.options()} == FLAGS


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("virtualbox-memory", 10, "expected at least 512 MB"),
        ("virtualbox-disk-size", 10, "expected at least 1000 MB"),
        ("virtualbox-cpu-count", 33, "at most 32"),
        ("virtualbox-nat-nictype", "ne2000", "expected one of Am79C970A"),
        ("virtualbox-hostonly-nicpromisc", "maybe", "expected one of deny"),
        ("virtualbox-ui-type", "tv", "expected one of gui"),
        ("virtualbox-hostonly-cidr", "192.168.56.0/24", "the address must be a host address"),
        ("virtualbox-hostonly-cidr", "192.168.56.255/24", "such as 192.168.56.1/24"),
        ("virtualbox-hostonly-cidr", "192.168.56.1", "expected ADDRESS/LENGTH"),
        ("virtualbox-hostonly-cidr", "192.168.56.1/31", "length of 8 to 29"),
        ("virtualbox-hostonly-cidr", "fd00::1/64", "cidr fd00::1/64"),
        ("virtualbox-share-folder", "/nowhere:name", "the folder /nowhere does not exist"),
        ("virtualbox-share-folder", "/tmp", "expected dir:name"),
        ("virtualbox-share-folder", "/tmp:a b", "expected dir:name"),
        ("virtualbox-share-folder", "/tmp:../etc", "expected dir:name"),
    ],
)
def test_an_invalid_value_is_refused_with_its_flag(flag: str, value: object, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        options.check(defaults(Driver, **{flag: value}))
    assert flag in str(caught.value)


def test_minus_one_means_all_cpus_up_to_virtualboxs_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert options.check(defaults(Driver, virtualbox_cpu_count=-1)).cpus == 32
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert options.check(defaults(Driver, virtualbox_cpu_count=0)).cpus == 6


# -- the host-only network ---------------------------------------------------------------------------------------

HOST = ipaddress.IPv4Interface("192.168.56.1/24")


@given(
    st.integers(8, 29),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**40),
    st.lists(st.integers(0, 300), max_size=60),
)
def test_a_free_address_of_the_network_is_chosen(length: int, number: int, seed: int, offsets: list[int]) -> None:
    net = ipaddress.IPv4Network((number, length), strict=False)
    host = ipaddress.IPv4Interface(f"{net.network_address + 1}/{length}")
    size = net.num_addresses
    taken = {str(net.network_address + offset) for offset in offsets if offset < size}
    own, first, last = network.dhcp_range(host)
    assert own != host.ip
    assert net.network_address < own < first <= last < net.broadcast_address
    try:
        found = ipaddress.IPv4Address(network.allocate(host, taken, seed=seed))
    except HostNetworkError:
        assert size - 3 <= len(taken) + 160, "only a small network, or one that is nearly full, has none left"
        return
    assert found in net
    assert found not in {host.ip, net.network_address, net.broadcast_address}
    assert str(found) not in taken
    assert not first <= found <= last
    assert found != own


def test_machines_of_one_store_differ_until_the_network_is_full() -> None:
    host = ipaddress.IPv4Interface("10.1.1.1/29")
    taken: list[str] = []
    while True:
        try:
            taken.append(network.allocate(host, taken, seed=7))
        except HostNetworkError as error:
            assert "larger network" in error.hint
            break
    assert len(taken) == len(set(taken)) >= 1


def test_the_interface_with_the_exact_address_is_chosen() -> None:
    other = Interface("vboxnet0", ipaddress.IPv4Interface("10.0.0.1/24"))
    mine = Interface("vboxnet1", HOST)
    assert network.choose([other, mine], HOST) == mine
    assert network.choose([other], HOST) is None
    assert network.choose([Interface("vboxnet0", None)], HOST) is None


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([("vboxnet0", "10.0.0.1/24"), ("vboxnet1", "10.0.0.1/24")], 'same IP "10.0.0.1". Please remove one'),
        ([("vboxnet0", "10.0.0.1/24"), ("vboxnet0", "10.0.1.1/24")], 'same name "vboxnet0". Please remove one'),
        ([("vboxnet0", "192.168.56.2/24")], "which overlaps with 192.168.56.1/24"),
        ([("vboxnet0", "192.168.56.1/21")], "use it|overlaps"),
    ],
)
def test_a_conflicting_address_or_network_is_named(found: list[tuple[str, str]], says: str) -> None:
    with pytest.raises(HostNetworkError, match=says):
        network.choose([Interface(name, ipaddress.IPv4Interface(address)) for name, address in found], HOST)


def test_a_reversed_network_mask_is_recognized() -> None:
    text = "Name: vboxnet0\nIPAddress: 192.168.99.1\nNetworkMask: 0f000000\n"
    assert network.interfaces(text) == [Interface("vboxnet0", ipaddress.IPv4Interface("192.168.99.1/24"))]


def test_macos_networks_have_the_host_at_their_first_address() -> None:
    # Made from VirtualBox's manual: this cannot be run here.
    text = "Name: net\nState: Enabled\nNetworkMask: 255.255.255.0\nLowerIP: 192.168.56.1\nUpperIP: 192.168.56.254\n"
    assert network.networks(text) == [Interface("net", HOST)]


@pytest.mark.parametrize(
    ("conf", "allowed", "refused"),
    [
        (None, "192.168.63.1/24", "192.168.99.1/24"),
        ("* 10.0.0.0/8 192.168.0.0/16\n* 2001::/64\n", "192.168.99.1/24", "172.16.0.1/24"),
        ("# nothing\n", "", "192.168.56.1/24"),
        ("* 0.0.0.0/0 ::/0\n", "8.8.8.1/24", ""),
        ("garbage\n* not-a-network 10.0.0.0/8\n", "10.1.1.1/24", "192.168.56.1/24"),
    ],
)
def test_ranges_that_virtualbox_allows(tmp_path: Path, conf: str | None, allowed: str, refused: str) -> None:
    path = tmp_path / "networks.conf"
    if conf is not None:
        path.write_text(conf)
    if allowed:
        network.check_allowed(ipaddress.IPv4Interface(allowed), conf=path)
    if refused:
        with pytest.raises(HostNetworkError, match="VirtualBox refuses") as caught:
            network.check_allowed(ipaddress.IPv4Interface(refused), conf=path)
        assert f"* {ipaddress.IPv4Interface(refused).network}" in caught.value.hint


# -- versions and hardware ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "platform", "limits", "networks", "hyper_v"),
    [
        ((5, 2, 44), "linux", False, False, False),
        ((6, 1, 26), "linux", False, False, True),
        ((6, 1, 28), "linux", True, False, True),
        ((6, 1, 50), "win32", False, False, True),
        ((6, 1, 50), "darwin", True, False, True),
        ((7, 0, 0), "darwin", True, True, True),
        ((7, 2, 22), "linux", True, False, True),
    ],
)
def test_capabilities_depend_on_the_version_of_virtualbox(
    version: versions.Version, platform: str, limits: bool, networks: bool, hyper_v: bool
) -> None:
    traits = versions.Traits(version, platform)
    assert traits.hides_loopback == (version >= (7, 0, 0))
    assert (traits.limits_host_only, traits.host_only_networks, traits.runs_beside_hyper_v) == (
        limits,
        networks,
        hyper_v,
    )


def host(folder: Path, *, flags: str, modules: str = "", at_load: str = "") -> dict[str, Path]:
    proc, sys_fs = folder / "proc", folder / "sys"
    proc.mkdir()
    (proc / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu {flags} sse\n")
    (proc / "modules").write_text(modules)
    parameters = sys_fs / "module/kvm/parameters"
    parameters.mkdir(parents=True)
    if at_load:
        (parameters / "enable_virt_at_load").write_text(at_load + "\n")
    return {"proc": proc, "sys_fs": sys_fs}


LINUX = versions.Traits((7, 2, 22), "linux")


def test_a_processor_with_virtualization_is_accepted(tmp_path: Path) -> None:
    assert hardware.processor_problem(LINUX, **host(tmp_path, flags="svm", modules="kvm_amd 1 0 - Live")) is None


def test_a_processor_without_virtualization_is_refused(tmp_path: Path) -> None:
    problem = hardware.processor_problem(LINUX, **host(tmp_path, flags="hypervisor"))
    assert problem
    assert problem.fatal
    assert "VT-X/AMD-v enabled" in problem.what
    assert "--driver qemu" in problem.fix


def test_running_kvm_machines_cause_a_warning(tmp_path: Path) -> None:
    problem = hardware.processor_problem(LINUX, **host(tmp_path, flags="vmx", modules="kvm_intel 1 2 - Live 0x0"))
    assert problem
    assert not problem.fatal


def test_a_loaded_kvm_module_is_a_problem_for_older_versions(tmp_path: Path) -> None:
    where = host(tmp_path, flags="vmx", modules="kvm_intel 1 0 - Live 0x0\n", at_load="Y")
    assert hardware.processor_problem(LINUX, **where) is None
    problem = hardware.processor_problem(versions.Traits((7, 0, 20), "linux"), **where)
    assert problem
    assert "enable_virt_at_load=0" in problem.fix


@pytest.mark.parametrize(
    ("version", "fatal", "says"),
    [((5, 2, 0), True, "won't boot a 64bits VM"), ((7, 1, 0), False, "makes VirtualBox's machines slow")],
)
def test_hyper_v_is_detected(
    monkeypatch: pytest.MonkeyPatch, version: versions.Version, fatal: bool, says: str
) -> None:
    monkeypatch.setattr(hardware, "_hyper_v_runs", lambda: True)
    problem = hardware.processor_problem(versions.Traits(version, "win32"))
    assert problem
    assert problem.fatal is fatal
    assert says in problem.what
    assert "hypervisorlaunchtype off" in problem.fix


def test_the_cause_of_a_failed_start_is_read_from_the_log() -> None:
    problem = hardware.in_log("00:00:01 HM: HMR3Init: Falling back\nrc=VERR_VMX_MSR_ALL_VMX_DISABLED (-4010)")
    assert problem
    assert "VERR_VMX_MSR_ALL_VMX_DISABLED" in problem.what
    assert "firmware" in problem.fix
    assert hardware.in_log("VERR_FILE_NOT_FOUND and all is well") is None
    module = hardware.in_log("Kernel driver not installed")
    assert module
    assert "modprobe vboxdrv" in module.fix


def test_a_missing_kernel_module_is_a_problem(tmp_path: Path) -> None:
    assert hardware.module_problem(platform="linux", device=tmp_path / "vboxdrv")
    assert hardware.module_problem(platform="linux", device=tmp_path) is None
    assert hardware.module_problem(platform="darwin", device=tmp_path / "vboxdrv") is None


# -- shares and the guest's identity -----------------------------------------------------------------------------


def test_home_folders_are_shared_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(shares.DEFAULTS, "linux", (tmp_path, "hosthome"))
    assert shares.chosen(share_folder="", no_share=False, platform="linux") == [Share(tmp_path, "hosthome")]
    assert shares.chosen(share_folder="", no_share=True, platform="linux") == []
    asked = shares.chosen(share_folder=f"{tmp_path}:work", no_share=False, platform="linux")
    assert asked == [Share(tmp_path, "work")]
    assert asked[0].mount_point == "/work"
    monkeypatch.setitem(shares.DEFAULTS, "linux", (tmp_path / "gone", "hosthome"))
    assert shares.chosen(share_folder="", no_share=False, platform="linux") == []


def test_a_shared_folder_may_have_colons() -> None:
    assert shares.parse("/a:b:name") == (Path("/a:b"), "name")


def members(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return {
            entry.name: (archive.extractfile(entry) or io.BytesIO()).read() if entry.isfile() else b""
            for entry in archive
        }


def identity() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo("hostname")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"m1\n"))
    return buffer.getvalue()


def test_the_identity_describes_the_guests_surroundings() -> None:
    tar = guest.with_surroundings(
        identity(), mac="08:00:27:01:02:03", address="192.168.56.7/24", shares=[Share(Path("/home"), "hosthome")]
    )
    assert members(tar) == {
        "hostname": b"m1\n",
        "addresses": b"08:00:27:01:02:03 192.168.56.7/24\n",
        "shares": b"hosthome /hosthome\n",
    }


def test_the_disk_begins_with_docker_machines_format_marker() -> None:
    tar = guest.userdata(b"ssh-ed25519 AAAA m1\n", identity())
    assert tar.startswith(b"boot2docker, please format-me\0")
    found = members(tar)
    assert list(found)[:4] == [
        "boot2docker, please format-me",
        ".ssh",
        ".ssh/authorized_keys",
        ".ssh/authorized_keys2",
    ]
    assert found["boot2docker, please format-me"] == b"boot2docker, please format-me"
    assert found[guest.IDENTITY] == identity()
    # boot2docker itself keeps only 4096 bytes: its keys must be in these.
    assert b"ssh-ed25519 AAAA m1" in tar[:4096]
    assert guest.IDENTITY not in members(guest.userdata(b"key", None))


def test_an_identity_too_large_for_the_guest_is_refused() -> None:
    with pytest.raises(ValueError, match="more than the guest reads"):
        guest.userdata(b"key", bytes(guest.LARGEST))


# -- calls of VBoxManage -----------------------------------------------------------------------------------------

CALLS = """\
createvm --basefolder /s/m1 --name m1 --uuid U --register
modifyvm U --firmware bios --bioslogofadein off --bioslogofadeout off --bioslogodisplaytime 0 --biosbootmenu disabled \
--ostype Linux26_64 --cpus 2 --memory 2048 --acpi on --ioapic on --rtcuseutc on --cpuhotplug off --pae on --hpet on \
--hwvirtex on --nestedpaging on --largepages on --vtxvpid on --accelerate3d off --boot1 dvd
modifyvm U --natdnshostresolver1 off --natdnsproxy1 on
modifyvm U --uart1 0x3F8 4 --uartmode1 file /s/m1/console.log
modifyvm U --nic1 nat --nictype1 virtio --cableconnected1 on
storagectl U --name SATA --add sata --hostiocache on
storageattach U --storagectl SATA --port 0 --device 0 --type dvddrive --medium /s/m1/boot2docker.iso
storageattach U --storagectl SATA --port 1 --device 0 --type hdd --medium /s/m1/disk.vmdk
sharedfolder add U --name hosthome --hostpath /home --automount
setextradata U VBoxInternal2/SharedFoldersEnableSymlinksCreate/hosthome 1
"""


def test_a_machine_is_made_as_docker_machine_makes_it() -> None:
    folder = Path("/s/m1")
    files = machine.Files(
        folder=folder, iso=folder / "boot2docker.iso", disk=folder / "disk.vmdk", console=folder / "console.log"
    )
    config = {"CPU": 2, "Memory": 2048, "NatNicType": "virtio", "DNSProxy": True, "HostDNSResolver": False}
    calls = machine.creation_commands("U", "m1", config, files, [Share(Path("/home"), "hosthome")])
    assert "".join(" ".join(words) + "\n" for words in calls) == CALLS


def test_the_second_interface_is_host_only() -> None:
    config = {"HostOnlyNicType": "82540EM", "HostOnlyPromiscMode": "allow-vms", "MACAddress": "08:00:27:ab:cd:ef"}
    words = machine.host_only("U", config, "vboxnet0", network=False)
    assert " ".join(words) == (
        "modifyvm U --nic2 hostonly --nictype2 82540EM --nicpromisc2 allow-vms --hostonlyadapter2 vboxnet0 "
        "--cableconnected2 on --macaddress2 080027ABCDEF"
    )
    assert "--host-only-net2" in machine.host_only("U", {}, "net", network=True)
    assert "--macaddress2" not in machine.host_only("U", {}, "net", network=False), "docker-machine's keeps its own"
