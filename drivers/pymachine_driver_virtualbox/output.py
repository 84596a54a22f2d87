"""What VBoxManage prints, as data. Pure functions over its text; nothing here runs anything.

Its machine-readable form has lines ``key=value``, both perhaps in quotes; its lists have ``Key:   value`` lines in
blocks with empty lines between them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pymachine.driver.contract import State

# Debian's wrapper says this on stdout, in front of what was asked for, while the kernel module is not loaded.
_WRAPPER_WARNING = re.compile(
    r"\AWARNING: The (?:character device|vboxdrv kernel module).*?until this problem is fixed\.\n|"
    r"\AWARNING: The (?:character device|vboxdrv kernel module).*?\n(?:[ \t]+.*\n|\n(?=[ \t]))*",
    re.DOTALL,
)
_ERROR = re.compile(r"^VBoxManage(?:\.exe)?: error: (.*)$", re.MULTILINE)
_WARNING = re.compile(r"^VBoxManage(?:\.exe)?: warning: (.*)$", re.MULTILINE)
_CODE = re.compile(r"\b((?:VBOX_E|NS_ERROR|E|VERR)_[A-Z0-9_]+)\b")
_FORWARDING = re.compile(r"Forwarding\(\d+\)\Z")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# VirtualBox's words for a machine's states, in docker-machine's. Source: its MachineState enumeration.
_STATES = {
    "poweroff": State.STOPPED,
    "aborted": State.STOPPED,
    "settingup": State.STOPPED,
    "deletingsnapshot": State.STOPPED,
    "restoringsnapshot": State.STOPPED,
    "snapshotting": State.STOPPED,
    "saved": State.SAVED,
    "aborted-saved": State.SAVED,
    "running": State.RUNNING,
    "teleporting": State.RUNNING,
    "livesnapshotting": State.RUNNING,
    "onlinesnapshotting": State.RUNNING,
    "deletingsnapshotlive": State.RUNNING,
    "paused": State.PAUSED,
    "deletingsnapshotlivepaused": State.PAUSED,
    "teleportingpausedvm": State.PAUSED,
    "starting": State.STARTING,
    "restoring": State.STARTING,
    "teleportingin": State.STARTING,
    "stopping": State.STOPPING,
    "saving": State.STOPPING,
    "gurumeditation": State.ERROR,
    "stuck": State.ERROR,
}


def without_wrapper(text: str) -> str:
    """`text` without the warning that Debian's and Oracle's wrapper scripts put in front of it."""
    return _WRAPPER_WARNING.sub("", text, count=1)


def properties(text: str) -> dict[str, str]:
    """The ``key=value`` lines of ``--machinereadable``; lines of another form are passed over."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=") if not line.startswith('"') else _quoted_key(line)
        if equals:
            found[_unquoted(key.strip())] = _unquoted(value.strip())
    return found


def _quoted_key(line: str) -> tuple[str, str, str]:
    """A quoted key may have ``=`` in it: the name of a storage controller is the user's."""
    key, separator, value = line.partition('"=')
    return (key + '"', "=", value) if separator else (line, "", "")


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return text


def blocks(text: str) -> list[dict[str, str]]:
    """The blocks of ``VBoxManage list``: each a mapping of its ``Key: value`` lines, which are not indented."""
    found: list[dict[str, str]] = []
    current: dict[str, str] = {}
    for line in [*text.splitlines(), ""]:
        key, colon, value = line.partition(":")
        if not line.strip():
            if current:
                found.append(current)
            current = {}
        elif colon and not line[0].isspace():
            # A second block may follow without an empty line between: DHCP servers of old versions.
            if key in current and key == next(iter(current)):
                found.append(current)
                current = {}
            current[key.strip()] = value.strip()
    return found


def state(info: dict[str, str]) -> State:
    """docker-machine's state for what ``showvminfo --machinereadable`` said."""
    if info.get("name") == "<inaccessible>":
        return State.ERROR
    return _STATES.get(info.get("VMState", ""), State.ERROR)


def forwardings(info: dict[str, str]) -> dict[str, int]:
    """Host ports of the first NAT interface's forwarding rules, by the rules' names."""
    found = {}
    for key, value in info.items():
        if _FORWARDING.match(key):
            name, _, _, port, *_ = [*value.split(","), "", "", ""]
            if port.isdigit():
                found[name] = int(port)
    return found


def attached(info: dict[str, str]) -> Iterator[str]:
    """The files attached to any storage controller."""
    for key, value in info.items():
        # An empty port has "none", an empty drive "emptydrive".
        if re.search(r"-\d+-\d+\Z", key) and "ImageUUID" not in key and ("/" in value or "\\" in value):
            yield value


def errors(stderr: str) -> list[str]:
    """VBoxManage's complaints, without progress, usage texts and where in its source they come from."""
    lines = []
    for line in _ERROR.findall(stderr):
        if not line.startswith("Context: ") and line not in lines:
            lines.append(line)
    return lines


def warnings(stderr: str) -> list[str]:
    """What VBoxManage warns of; it ends with success all the same."""
    return _WARNING.findall(stderr)


def code(stderr: str) -> str:
    """VirtualBox's own code of a failure, or nothing: that of ``Details:``, else the first there is."""
    lines = errors(stderr)
    for line in [*(line for line in lines if line.startswith(("Details: code", "Code "))), *lines]:
        if match := _CODE.search(line):
            return match[1]
    return ""


def version(text: str) -> tuple[int, int, int]:
    """The numbers of ``--version`` (``7.2.22_Debianr175245``); zeros if there are none."""
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)


def uuid(text: str) -> str:
    """The first UUID in `text`, or nothing."""
    match = _UUID.search(text)
    return match[0] if match else ""
