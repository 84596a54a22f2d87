"""Fill the disk at a step of a command on a real machine, whose store is on its own small file system."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from endurance import full_disk, invariants, killing, machines, small_disk
from endurance.campaign import Kind, Try, expect
from endurance.sandbox import Sandbox, fingerprint

# `create` requires a gibibyte of free space, and a machine with its export and snapshot takes about as much.
_DISK_MEBIBYTES = 1900
_LEFT_BYTES = (0, 0, 4096, 65536, 2**20, 16 * 2**20)
_BLAMED = ("network", "mirror", "proxy")
_KEPT = ("config.json", "pymachine.json", "*.pem", "id_*", "ssh_host_*", "machine-id")


@dataclass(frozen=True)
class Command:
    """A command whose disk fills up, its preparation, and checks that it did nothing or everything."""

    name: str
    words: Callable[[Sandbox], tuple[str, ...]]
    prepare: Callable[[Sandbox], object]
    undone: Callable[[Sandbox], object]
    """Check after a failure that nothing half made is left."""
    done: Callable[[Sandbox], object]
    """Check the effect after a success, or after a repetition with enough space."""
    rounds: int
    seconds: float

    @property
    def kind(self) -> Kind:
        """The row of the table."""
        description = f"the disk fills up at a step of `{self.name}`, driver qemu"
        sandbox = partial(small_disk.with_bystander, mebibytes=_DISK_MEBIBYTES)
        name = f"full-disk-qemu-{self.name.replace(' ', '-')}"
        return Kind(name, description, self.rounds, sandbox, partial(_attempt, self), seconds=self.seconds)


def _attempt(command: Command, sandbox: Sandbox, attempt: Try) -> None:
    before = invariants.Before.of(sandbox)
    command.prepare(sandbox)
    kept, names = _records(sandbox), sandbox.entries()
    words = command.words(sandbox)
    ended = killing.run_on_filling_disk(sandbox, words, attempt, left=attempt.random.choice(_LEFT_BYTES))
    with invariants.after(ended.where):
        expect("Traceback" not in ended.text and "internal error" not in ended.text, ended.text)
        if ended.code != 0:
            _blames_the_disk(ended.text)
            expect(
                sandbox.entries() == names, f"machines before and after: {sorted(names)}, {sorted(sandbox.entries())}"
            )
            changed = sorted(key for key in kept if _records(sandbox).get(key) != kept[key])
            expect(not changed, f"changed by a command that failed: {changed}")
            command.undone(sandbox)
        invariants.commands_answer(sandbox, sorted(names))
        small_disk.make_room(sandbox)
        if ended.code != 0:
            invariants.call(sandbox, *words, code=0)
        command.done(sandbox)
        invariants.records_are_readable(sandbox)
        for name in sorted(sandbox.entries() - before.entries):
            machines.has_no_temporary_files(sandbox, name)
        invariants.nothing_is_left(sandbox, ("box", "copy"), before)


def _blames_the_disk(text: str) -> None:
    expect(any(sign in text for sign in full_disk.SIGNS), f"the error does not say that the disk is full: {text}")
    blamed = [word for word in _BLAMED if word in text.lower()]
    expect(not blamed, f"the error blames something else, {blamed}: {text}")


def _records(sandbox: Sandbox) -> dict[str, object]:
    """Return the fingerprints of the records, keys and certificates of all machines."""
    folder = sandbox.store / "machines"
    found = fingerprint(folder)
    return {key: facts for key, facts in found.items() if any(Path(key).match(f"*/{kept}") for kept in _KEPT)}


def _nothing(sandbox: Sandbox) -> None:
    """Prepare or check nothing."""


def _has_no_snapshot(sandbox: Sandbox) -> None:
    listed = json.loads(invariants.call(sandbox, "snapshot", "ls", "--json", "box", code=0).stdout)
    expect(not listed, f"a snapshot that failed is listed: {listed}")


def _has_snapshot(sandbox: Sandbox) -> None:
    invariants.call(sandbox, "snapshot", "restore", "--disk-only", "box", "s1", code=0)
    machines.is_stopped(sandbox)


def _has_no_archive(sandbox: Sandbox) -> None:
    left = sorted(path.name for path in _archive(sandbox).parent.iterdir())
    expect(not left, f"an export that failed leaves {left}")


def _can_be_imported(sandbox: Sandbox) -> None:
    invariants.call(sandbox, "import", str(_archive(sandbox)), "copy", code=0)
    machines.is_stopped(sandbox, "copy")


def _stopped(sandbox: Sandbox) -> None:
    machines.create_stopped(sandbox)
    _archive(sandbox).parent.mkdir(exist_ok=True)
    _archive(sandbox).unlink(missing_ok=True)


def _exported(sandbox: Sandbox) -> None:
    _stopped(sandbox)
    invariants.call(sandbox, "export", "box", str(_archive(sandbox)), code=0)


def _is_imported(sandbox: Sandbox) -> None:
    machines.is_stopped(sandbox, "copy")


def _archive(sandbox: Sandbox) -> Path:
    """Return the path of an export on the disk that fills up."""
    return sandbox.store / "exports" / "x.pymachine.tar.zst"


def _regenerate(sandbox: Sandbox) -> tuple[str, ...]:
    return "regenerate-certs", "-f", "box"


def _snapshot(sandbox: Sandbox) -> tuple[str, ...]:
    return "snapshot", "create", "box", "s1"


def _export(sandbox: Sandbox) -> tuple[str, ...]:
    return "export", "box", str(_archive(sandbox))


def _import(sandbox: Sandbox) -> tuple[str, ...]:
    return "import", str(_archive(sandbox)), "copy"


COMMANDS = [
    Command("create", lambda _: ("create", "box"), _nothing, _nothing, machines.runs, 10, 8),
    Command("regenerate-certs", _regenerate, machines.create, _nothing, machines.runs, 6, 10),
    Command("snapshot create", _snapshot, machines.create, _has_no_snapshot, _has_snapshot, 6, 10),
    Command("export", _export, _stopped, _has_no_archive, _can_be_imported, 6, 10),
    Command("import", _import, _exported, _nothing, _is_imported, 6, 10),
]
KINDS = [command.kind for command in COMMANDS] if full_disk.MOUNTS else []
