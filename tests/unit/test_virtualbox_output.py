"""Parsing VBoxManage's output. The texts are those of VirtualBox 7.2.22 unless a test says otherwise."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pymachine.driver.contract import State
from pymachine.system.run import Result
from pymachine_driver_virtualbox import output
from pymachine_driver_virtualbox.errors import VmNotFoundError
from pymachine_driver_virtualbox.vboxmanage import failure

INFO = """name="m1"
UUID="5511b07f-64fe-488d-98d6-1601b9e45ec7"
CfgFile="/tmp/m1/m1.vbox"
memory=1024
VMState="poweroff"
"SATA-0-0"="/s/m1/boot2docker.iso"
"SATA-ImageUUID-0-0"="327147c9-c11d-43ae-9508-ad31221dd36a"
"SATA-IsEjected-0-0"="off"
"SATA-1-0"="/s/m1/disk.vmdk"
"SATA-2-0"="none"
"IDE-0-0"="emptydrive"
macaddress2="0800271234AB"
Forwarding(0)="ssh,tcp,127.0.0.1,40022,,22"
Forwarding(1)="web,tcp,,8080,,80"
SharedFolderNameMachineMapping1="hosthome"
 rec_screen0
rec_screen_enabled="on"
description="a \\"quoted\\" = word"
"""
ADAPTERS = """Name:            vboxnet0
GUID:            effffff9-dae8-4abf-8000-0a0027000000
DHCP:            Disabled
IPAddress:       192.168.56.1
NetworkMask:     255.255.255.0
IPV6Address:     fe80::800:27ff:fe00:0
Status:          Up
VBoxNetworkName: HostInterfaceNetworking-vboxnet0

Name:            vboxnet1
GUID:            effffff9-dae8-4abf-8000-0a0027000001
IPAddress:       192.168.57.1
NetworkMask:     255.255.255.0

"""
SERVERS = """NetworkName:    HostInterfaceNetworking-vboxnet0
Dhcpd IP:       192.168.56.100
LowerIPAddress: 192.168.56.101
UpperIPAddress: 192.168.56.254
NetworkMask:    255.255.255.0
Enabled:        Yes
Global Configuration:
    minLeaseTime:     default
    Forced options:   None
        1/legacy: 255.255.255.0
Groups:               None
Individual Configs:   None
"""
NOT_FOUND = """VBoxManage: error: Could not find a registered machine named 'y'
VBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001), component VirtualBoxWrap, interface IVirtualBox
VBoxManage: error: Context: "FindMachine(Bstr(VMNameOrUuid).raw())" at line 3248 of file VBoxManageInfo.cpp
"""
WRAPPER = """WARNING: The character device /dev/vboxdrv does not exist.
\t Please install the virtualbox-dkms package and the appropriate
\t headers, most likely linux-headers-amd64.

\t You will not be able to start VMs until this problem is fixed.
"""


def test_properties_are_read_with_and_without_quotes() -> None:
    info = output.properties(INFO)
    assert info["memory"] == "1024"
    assert info["VMState"] == "poweroff"
    assert info["SATA-1-0"] == "/s/m1/disk.vmdk"
    assert info["description"] == 'a "quoted" = word'
    assert " rec_screen0" not in info
    assert output.state(info) is State.STOPPED
    assert output.forwardings(info) == {"ssh": 40022, "web": 8080}
    assert list(output.attached(info)) == ["/s/m1/boot2docker.iso", "/s/m1/disk.vmdk"]


@given(st.text())
def test_any_text_is_parsed_without_an_error(text: str) -> None:
    info = output.properties(text)
    output.state(info)
    output.forwardings(info)
    list(output.attached(info))
    output.blocks(text)
    output.errors(text)
    output.code(text)
    output.version(text)
    assert output.without_wrapper(WRAPPER + text) == text or text.startswith(("\t", " ", "\n"))


@given(
    st.dictionaries(
        st.from_regex(r"\A[A-Za-z][A-Za-z0-9_()-]{0,20}\Z"), st.text(st.characters(exclude_categories=["C", "Z"]))
    )
)
def test_properties_in_virtualboxs_format_are_read_back(values: dict[str, str]) -> None:
    text = "".join(
        '{}="{}"\n'.format(key, value.replace("\\", "\\\\").replace('"', '\\"')) for key, value in values.items()
    )
    assert output.properties(text) == values


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("running", State.RUNNING),
        ("paused", State.PAUSED),
        ("saved", State.SAVED),
        ("aborted-saved", State.SAVED),  # since 7.0
        ("poweroff", State.STOPPED),
        ("aborted", State.STOPPED),
        ("starting", State.STARTING),
        ("stopping", State.STOPPING),
        ("gurumeditation", State.ERROR),
        ("of another version", State.ERROR),
    ],
)
def test_states_are_mapped_as_in_docker_machine(word: str, state: State) -> None:
    assert output.state({"name": "m1", "VMState": word}) is state


def test_a_machine_whose_settings_cannot_be_read_is_in_error() -> None:
    assert output.state({"name": "<inaccessible>"}) is State.ERROR


def test_lists_are_split_into_blocks() -> None:
    first, second = output.blocks(ADAPTERS)
    assert first["IPAddress"] == "192.168.56.1"
    assert first["IPV6Address"] == "fe80::800:27ff:fe00:0"
    assert second["Name"] == "vboxnet1"
    [server] = output.blocks(SERVERS)
    assert server["Enabled"] == "Yes"
    assert "1/legacy" not in server
    assert output.blocks("") == []


def test_a_missing_machine_has_docker_machines_message() -> None:
    error = failure(Result(("VBoxManage", "showvminfo", "y"), 1, "", NOT_FOUND))
    assert isinstance(error, VmNotFoundError)
    assert error.brief == "machine does not exist"
    assert error.details.startswith("Could not find a registered machine named 'y'")
    assert error.hint


def test_errors_are_printed_without_their_source_location() -> None:
    first, details = output.errors(NOT_FOUND)
    assert first == "Could not find a registered machine named 'y'"
    assert details.startswith("Details: code VBOX_E_OBJECT_NOT_FOUND")
    assert output.code(NOT_FOUND) == "VBOX_E_OBJECT_NOT_FOUND"
    assert output.errors("0%...10%...100%\n") == []
    assert output.code('VBoxManage: error: Cannot create the disk image "x": VERR_ALREADY_EXISTS\n') == (
        "VERR_ALREADY_EXISTS"
    )
    assert output.errors("VBoxManage.exe: error: on Windows\n") == ["on Windows"]


def test_usage_texts_are_cut_from_errors() -> None:
    complaint = "VBoxManage: error: Unknown option: --x\n"
    text = f"{complaint}Usage - Change:\n  VBoxManage modifyvm\n\n{complaint}"
    assert output.errors(text) == ["Unknown option: --x"]


def test_warnings_are_found() -> None:
    said = """VBoxManage: warning: Interface "vboxnet0" doesn't seem to exist\n"""
    assert output.warnings(said) == ['Interface "vboxnet0" doesn\'t seem to exist']
    assert output.errors(said) == []


def test_the_warning_of_debians_wrapper_is_removed() -> None:
    assert output.without_wrapper(WRAPPER + "7.2.22_Debianr175245\n") == "7.2.22_Debianr175245\n"
    assert output.without_wrapper("7.2.22\n") == "7.2.22\n"
    assert output.without_wrapper(WRAPPER) == ""


@pytest.mark.parametrize(
    ("text", "version"),
    [("7.2.22_Debianr175245", (7, 2, 22)), ("6.1.50r161033\n", (6, 1, 50)), ("nonsense", (0, 0, 0))],
)
def test_virtualbox_versions_are_parsed(text: str, version: tuple[int, int, int]) -> None:
    assert output.version(text) == version
