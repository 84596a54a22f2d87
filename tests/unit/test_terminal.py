"""Commands on a terminal, with control characters in text from elsewhere: none reaches the terminal."""

from __future__ import annotations

import ast
import json
import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import pymachine
from pymachine.store.record import EngineOptions, Machine
from pymachine.store.store import Store
from support import fake_engine, terminal
from support.runner import PROGRAM, Pymachine, private_store

# Window title, colour, line break, override, isolate, 8-bit control, DEL, and a byte that is no text.
HOSTILE = "x\x1b]0;owned\x07\x1b[31m\r\nfake\u202eexe\u2066\x9b2J\x7f\udc9b"
SHOWN = r"x\x1b]0;owned\x07\x1b[31m\r\nfake\u202eexe\u2066\u009b2J\u007f\x9b"
LOG = b"boot \x1b[2J\x1b]0;owned\x07 \xe2\x80\xae\xc2\x9b31m\xff\ttab\r\nsecond\rline\r\n"
# A command, and whether hostile text must be in what it shows.
COMMANDS = {
    "ls": True,
    "ls -q": True,
    "ls --json": True,
    "ls --format '{{.Name}} {{.URL}} {{.DriverName}} {{.Error}}'": True,
    "ls --format 'table {{.Name}}\t{{.URL}}\t{{.Error}}'": True,
    "ls --format '{{json .}}'": True,
    "inspect record": True,
    "inspect --format '{{.Driver.URL}} {{.HostOptions.EngineOptions.Labels}}' record": True,
    "inspect --format '{{json .Driver}}' record": True,
    "url record": True,
    "ip record": False,
    "status record": False,
    "config record": True,
    "env record": True,
    "env --json record": True,
    "version intro": True,
    "version --json intro": True,
    "doctor --driver none": True,
    "doctor --json --driver none": True,
    "ports": False,
    "socket record": False,
    "ssh-config": False,
    "context ls": False,
    "context ls --json": False,
    "snapshot ls record": True,
    "template ls": True,
    "template ls --json": True,
    "image ls": True,
    "image show hostile": True,
    "image show --json hostile": True,
    "logs --console qemu": True,
    "logs --console --json qemu": True,
    "start record": False,
    "start record qemu": False,
    "start --json record": False,
    "stop NAME": True,
    "status NAME": True,
    "rm -y NAME": True,
    "rm -f NAME": True,
    "prune --dry-run": False,
    "ls --filter name=(NAME": True,
    "NAME": True,
    "--debug status NAME": True,
}


def written(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pymachine]:
    """A store with hostile text in its records, images, templates, snapshots, logs and engine."""
    monkeypatch.setattr(fake_engine, "VERSION", HOSTILE)
    with private_store() as made, fake_engine.machine(made.store):
        made.env["PYMACHINE_CACHE"] = str(made.home / "cache")
        store = Store(made.store)
        labels = EngineOptions(labels=[HOSTILE], env=[HOSTILE])
        url = f"tcp://127.0.0.1:1/{HOSTILE}"
        record = Machine(name="record", driver_name="none", driver={"URL": url}, engine=labels)
        record.expires = 1
        store.save(record)
        store.save(Machine(name=HOSTILE, driver_name=HOSTILE, driver={"IPAddress": HOSTILE, "URL": HOSTILE}))
        store.save(
            Machine(
                name="qemu", driver_name="qemu", driver={"IPAddress": "127.70.0.1", "MachineID": str(uuid.UUID(int=1))}
            )
        )
        (made.store / "machines" / f"empty{HOSTILE}").mkdir()
        (made.store / "machines" / f"stray{HOSTILE}").write_text("")
        written(made.store / "machines/broken/config.json", [HOSTILE])
        (made.store / "machines/qemu/console.log").write_bytes(LOG)
        snapshot = made.store / "machines/record/snapshots" / HOSTILE / "snapshot.json"
        written(snapshot, {"format": 1, "made": 1.0, "facts": {"Memory": HOSTILE}})
        cache = made.home / "cache"
        sizes = {"size": 1, "sha256": HOSTILE}
        image = dict.fromkeys(("digest", "architecture", "engine", "kernel", "recipe", "version"), HOSTILE)
        names = ("boot2docker.iso", "vmlinuz", "initrd.img", "initrd")
        packages = [{"name": HOSTILE, "version": HOSTILE, "sha256": HOSTILE}]
        written(
            cache / "images/hostile/manifest.json",
            {**image, "files": dict.fromkeys(names, sizes), "packages": packages},
        )
        shape = {"cpus": HOSTILE, "memory_mib": HOSTILE, "disk_mb": HOSTILE, "accelerator": HOSTILE}
        written(
            cache / "templates" / f"qemu-{HOSTILE}" / "template.json",
            {
                "format": 1,
                "made": 1.0,
                "shape": shape,
                "files": {"disk": {}},
                "driver": HOSTILE,
                "image": HOSTILE,
            },
        )
        written(
            cache / "templates" / f"named-{HOSTILE}" / "template.json",
            {
                "format": 3,
                "made": 1.0,
                "shape": shape,
                "files": {HOSTILE: {}},
                "facts": {},
                "record": {},
                "contents": {
                    "Images": [{"Names": [HOSTILE], "SizeBytes": 1}],
                    "Containers": [{"Name": HOSTILE, "Image": HOSTILE}],
                },
                "from": {"machine": HOSTILE},
            },
        )
        yield made


def words_of(command: str) -> list[str]:
    return [word.replace("NAME", HOSTILE) for word in shlex.split(command)]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_control_character_reaches_a_terminal(program: Pymachine, command: str) -> None:
    _, said = terminal.run([PROGRAM, *words_of(command)], env=program.environment())
    assert terminal.unwanted(said) == [], said
    assert (b"Traceback" in said) == ("--debug" in command)
    assert b"internal error" not in said
    if COMMANDS[command]:
        assert rb"\x1b" in said or rb"\u001b" in said, said  # JSON has \u001b
    if "--json" in command:
        json.loads(said.decode().partition('\n{"error"')[0].removeprefix('Starting "record"...'))


def test_text_in_a_record_adds_no_row_and_columns_stay_aligned(program: Pymachine) -> None:
    for words in (["ls"], ["ls", "--format", "table {{.Name}}\t{{.DriverName}}\t{{.State}}\t{{.Error}}"]):
        _, said = terminal.run([PROGRAM, *words], env=program.environment())
        lines = said.decode().splitlines()
        machines = [entry for entry in (program.store / "machines").iterdir() if entry.is_dir()]
        assert len(lines) == 1 + len(machines)
        at = lines[0].index("DRIVER")
        assert all(line[at - 1] == " " and line[at] != " " for line in lines[1:]), said.decode()
        assert any(line.startswith(SHOWN + " ") for line in lines)


def test_files_and_pipes_get_the_original_bytes(program: Pymachine) -> None:
    def output(*words: str) -> bytes:
        return subprocess.run([PROGRAM, *words], env=program.environment(), capture_output=True, check=True).stdout

    assert output("logs", "--console", "qemu") == LOG.replace(b"\r\n", b"\n")
    raw = os.fsencode(HOSTILE)
    assert raw in output("ls", "-q")
    assert raw in output("inspect", "--format", "{{index .HostOptions.EngineOptions.Labels 0}}", "record")
    assert raw in output("version", "intro")


def test_json_on_a_terminal_reads_back_to_the_same_text(program: Pymachine) -> None:
    for words in (["inspect", "record"], ["inspect", "--json", "record"]):
        said = program(*words).stdout
        assert "\u202e" not in said
        assert "\x9b" not in said
        assert json.loads(said)["HostOptions"]["EngineOptions"]["Labels"] == [HOSTILE]


def test_a_followed_log_is_escaped_in_any_pieces(program: Pymachine) -> None:
    code, said = terminal.run(
        ["timeout", "5", PROGRAM, "logs", "--console", "-f", "qemu"], env=program.environment(), timeout=30
    )
    assert code == 124
    assert terminal.unwanted(said) == []
    assert b"second\\rline\n" in said


def test_messages_and_progress_on_a_terminal_are_escaped(program: Pymachine) -> None:
    script = (
        "import sys, time; from pymachine.system import live_lines, streams; streams.prepare()\n"
        "live_lines.DELAY_SECONDS = 0.0\n"
        "from pymachine.system.stream_reporter import StreamReporter\n"
        "reporter = StreamReporter(streams.for_messages(sys.stdout), terminal=True)\n"
        "with reporter.prefixed(sys.argv[1]).task(sys.argv[1], total=2) as task:\n"
        "    task.note(sys.argv[1]); task.advance()\n"
        "    while not reporter._live._drawn: time.sleep(0.02)\n"
        "    reporter.warn(sys.argv[1])\n"
    )
    code, said = terminal.run([sys.executable, "-c", script, HOSTILE], env=program.environment())
    assert code == 0, said
    assert terminal.unwanted(said) == []
    assert terminal.REDRAW.search(said)
    assert (SHOWN + "\n").encode() in said
    assert terminal.REDRAW.sub(b"", said).count(b"\n") == 1


def test_a_terminal_in_another_encoding_gets_no_control_character(program: Pymachine) -> None:
    for encoding in ("latin-1", "ascii"):
        _, said = terminal.run([PROGRAM, "ls"], env={**program.environment(), "PYTHONIOENCODING": encoding})
        assert not [byte for byte in said if (byte < 0x20 and byte != 0x0A) or 0x7F <= byte <= 0x9F]


def test_completion_offers_only_names_that_shells_read_literally(program: Pymachine) -> None:
    for name in ("$(touch evil)", "-rf", "a;b", "größe.x_y-z"):
        (program.store / "machines" / name).mkdir()
    for instruction in ("bash_complete", "zsh_complete", "fish_complete"):
        # Where the word is that is completed; fish says which.
        place = "" if instruction.startswith("fish") else "2"
        variables = {"_PYMACHINE_COMPLETE": instruction, "COMP_WORDS": "pymachine start ", "COMP_CWORD": place}
        said = program(env={**variables, "LC_ALL": "C.UTF-8"}).stdout
        assert "intro" in said
        assert "größe.x_y-z" in said
        assert not any(each in said for each in ("touch", "-rf", ";", "fake", "\x1b")), said


def test_commands_write_through_the_escaping_streams_only() -> None:
    """click's `echo` and `print` would bypass the escaping in some places."""
    folder = Path(pymachine.__file__).parent / "cli"
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("print", "click.echo", "click.secho", "os.write"), f"{path.name}:{node.lineno}"  # type: ignore[attr-defined]
