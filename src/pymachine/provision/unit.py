"""The engine's systemd unit: its effective command line, and the drop-in that adds pymachine's settings.

Formats: systemd.unit(5), systemd.service(5), systemd.syntax(7).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from pymachine.docker import daemon_json
from pymachine.driver.contract import Json

FOLDER = "/etc/systemd/system/docker.service.d"
# The name sorts after all others, since the last ExecStart wins.
DROP_IN = f"{FOLDER}/zz-pymachine.conf"
# The drop-in that docker-machine writes. The machine's record has its settings too.
DOCKER_MACHINE = f"{FOLDER}/10-machine.conf"
SOCKET = "unix:///var/run/docker.sock"
WORD = re.compile(r"""(?:[^\s"']|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')+""")


@dataclass(frozen=True)
class Command:
    """The engine's command line with our address, and the list values that move from it into daemon.json."""

    line: str
    moved: dict[str, list[str]] = field(default_factory=dict)


def files(text: str) -> list[tuple[str, str]]:
    """Split the output of ``systemctl cat`` into the unit and its drop-ins, in the order in which they are read."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if match := re.fullmatch(r"# (/\S+\.(?:service|conf))", line):
            found.append((match[1], []))
        elif found:
            found[-1][1].append(line)
    return [(path, "\n".join(lines)) for path, lines in found]


def exec_start(text: str, *, without: Collection[str]) -> str:
    """Return the effective command line, ignoring the files in `without`; empty if there is none."""
    command = ""
    for path, content in files(text):
        if path in without:
            continue
        for line in re.sub(r"[ \t]*\\\n\s*", " ", content).splitlines():
            key, equals, value = line.partition("=")
            if equals and key.strip() == "ExecStart":
                command = value.strip()
    return command


def with_address(command: str, *, keys: Collection[str], address: str | None, flags: Sequence[str]) -> Command:
    """Return `command` changed to listen on `address` too, without settings that daemon.json will have.

    `keys` are pymachine's keys in daemon.json: the engine refuses a setting that is also on its command line. List
    values are kept, in `moved`. `address` is None if daemon.json has it.
    """
    words = WORD.findall(command)
    kept: list[str] = []
    moved: dict[str, list[str]] = {}
    listens = False
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        name, equals, value = word.partition("=")
        key = daemon_json.key_of(name.lstrip("-")) if name.startswith("-") else None
        if key is None:
            kept.append(word)
            continue
        pieces = [word]
        if not equals and daemon_json.takes_value(name.lstrip("-")) and position < len(words):
            value = words[position]
            pieces.append(value)
            position += 1
        if key == "hosts":
            if value.strip("\"'") == address:
                continue
            listens = True
        elif key in keys:
            if daemon_json.is_list(key):
                moved.setdefault(key, []).append(value.strip("\"'"))
            continue
        kept += pieces
    if address:
        kept += [] if listens else ["-H", SOCKET]
        kept += ["-H", address]
    return Command(" ".join([*kept, *(quoted(flag) for flag in flags if flag not in kept)]), moved)


def drop_in(command: str, *, environment: Sequence[str]) -> str:
    """Return the text of our drop-in; empty if none is needed."""
    lines = [f"Environment={quoted(entry)}" for entry in environment]
    if command:
        # The empty ExecStart clears the unit's own. Otherwise there would be two commands.
        lines += ["ExecStart=", f"ExecStart={command}"]
    return (
        "# Written by pymachine; `pymachine provision` writes it anew.\n[Service]\n" + "\n".join(lines) + "\n"
        if lines
        else ""
    )


def quoted(text: str) -> str:
    """Quote `text` as one word of a unit file."""
    safe = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{safe}"'


def hosts(settings: Json) -> list[str] | None:
    """Return the addresses in daemon.json on which the engine listens; None if the command line has them."""
    value = settings.get("hosts") if isinstance(settings, dict) else None
    return [str(host) for host in value] if isinstance(value, list) else None
