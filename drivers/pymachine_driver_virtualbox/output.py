"""Parse the output of VBoxManage. These are pure functions over text.

Its machine-readable format has ``key=value`` lines, with optional quotes around each. Its lists have blocks of
``Key:   value`` lines with empty lines between the blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from pymachine.driver.contract import State

# Debian's wrapper script prints this on stdout before the output, while the kernel module is not loaded.
_WRAPPER_WARNING = re.compile(
    r"\AWARNING: The (?:character device|vboxdrv kernel module).*?until this problem is fixed\.\n|"
    r"\AWARNING: The (?:character device|vboxdrv kernel module).*?\n(?:[ \t]+.*\n|\n(?=[ \t]))*",
    re.DOTALL,
)
_ERROR = re.compile(r"^VBoxManage(?:\.exe)?: error: (.*)$", re.MULTILINE)
_WARNING = re.compile(r"^VBoxManage(?:\.exe)?: warning: (.*)$", re.MULTILINE)
_CODE = re.compile(r"\b((?:VBOX_E|NS_ERROR|E|VERR)_[A-Z0-9_]+)\b")
_SHARED_FOLDER = "SharedFolderNameMachineMapping"
_FORWARDING = re.compile(r"Forwarding\(\d+\)\Z")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Maps VirtualBox's machine states (its MachineState enumeration) to docker-machine's.
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
    """Remove the warning that Debian's and Oracle's wrapper scripts put before the output."""
    return _WRAPPER_WARNING.sub("", text, count=1)


def properties(text: str) -> dict[str, str]:
    """Parse the ``key=value`` lines of ``--machinereadable``; ignore other lines."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=") if not line.startswith('"') else _quoted_key(line)
        if equals:
            found[_unquoted(key.strip())] = _unquoted(value.strip())
    return found


def _quoted_key(line: str) -> tuple[str, str, str]:
    """Split a line whose key is quoted. Such a key may contain ``=``: users choose the names of storage controllers."""
    key, separator, value = line.partition('"=')
    return (key + '"', "=", value) if separator else (line, "", "")


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return text


def blocks(text: str) -> list[dict[str, str]]:
    """Parse the blocks of ``VBoxManage list``, each into a mapping of its ``Key: value`` lines without indent."""
    found: list[dict[str, str]] = []
    current: dict[str, str] = {}
    for line in [*text.splitlines(), ""]:
        key, colon, value = line.partition(":")
        if not line.strip():
            if current:
                found.append(current)
            current = {}
        elif colon and not line[0].isspace():
            # Old versions list DHCP servers without empty lines between the blocks.
            if key in current and key == next(iter(current)):
                found.append(current)
                current = {}
            current[key.strip()] = value.strip()
    return found


def state(info: dict[str, str]) -> State:
    """Return the machine's state from ``showvminfo --machinereadable``."""
    if info.get("name") == "<inaccessible>":
        return State.ERROR
    return _STATES.get(info.get("VMState", ""), State.ERROR)


def forwardings(info: dict[str, str]) -> dict[str, int]:
    """Return the host ports of the first NAT interface's forwarding rules, by rule name."""
    found = {}
    for key, value in info.items():
        if _FORWARDING.match(key):
            name, _, _, port, *_ = [*value.split(","), "", "", ""]
            if port.isdigit():
                found[name] = int(port)
    return found


def attached(info: dict[str, str]) -> Iterator[str]:
    """Yield the paths of the files attached to the machine's storage controllers."""
    for key, value in info.items():
        # An empty port has "none", an empty drive "emptydrive".
        if re.search(r"-\d+-\d+\Z", key) and "ImageUUID" not in key and ("/" in value or "\\" in value):
            yield value


def shared_folders(info: Mapping[str, str]) -> dict[str, str]:
    """Return the host paths of the machine's permanent shared folders, by name."""
    return {
        value: info.get(key.replace("Name", "Path", 1), "")
        for key, value in sorted(info.items())
        if key.startswith(_SHARED_FOLDER)
    }


def errors(stderr: str) -> list[str]:
    """Return VBoxManage's error messages, without progress, usage texts and source locations."""
    lines = []
    for line in _ERROR.findall(stderr):
        if not line.startswith("Context: ") and line not in lines:
            lines.append(line)
    return lines


def warnings(stderr: str) -> list[str]:
    """Return VBoxManage's warnings, which do not affect its exit code."""
    return _WARNING.findall(stderr)


def code(stderr: str) -> str:
    """Return VirtualBox's error code of a failure, or "": preferably the one of the ``Details:`` line."""
    lines = errors(stderr)
    for line in [*(line for line in lines if line.startswith(("Details: code", "Code "))), *lines]:
        if match := _CODE.search(line):
            return match[1]
    return ""


def version(text: str) -> tuple[int, int, int]:
    """Parse the output of ``--version``, such as ``7.2.22_Debianr175245``; return zeros if there is no version."""
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)


def uuid(text: str) -> str:
    """Return the first UUID in `text`, or ""."""
    match = _UUID.search(text)
    return match[0] if match else ""
