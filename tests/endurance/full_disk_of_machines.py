"""A disk that fills up at a step of a command on a real machine: the store is a small file system of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from endurance import full_disk, invariants, killing, machines, small_disk
from endurance.campaign import Kind, Try, expect
from endurance.place import Place, fingerprint

# What is made needs a gibibyte to be free at first, and a machine, its export and its snapshot about as much.
_DISK_MEBIBYTES = 1900
_LEFT_BYTES = (0, 0, 4096, 65536, 2**20, 16 * 2**20)
_BLAMED = ("network", "mirror", "proxy")
_KEPT = ("config.json", "pymachine.json", "*.pem", "id_*", "ssh_host_*", "machine-id")


@dataclass(frozen=True)
class Command:
    """A command whose disk fills up, what it needs, and what shows that it did nothing, or all."""

    name: str
    words: Callable[[Place], tuple[str, ...]]
    prepare: Callable[[Place], object]
    undone: Callable[[Place], object]
    """It failed: nothing half made is there."""
    done: Callable[[Place], object]
    """It succeeded, or was repeated when there was room."""
    rounds: int
    seconds: float

    @property
    def kind(self) -> Kind:
        """The row of the table."""
        what = f"the disk fills up at a step of `{self.name}`, driver qemu"
        place = partial(small_disk.with_bystander, mebibytes=_DISK_MEBIBYTES)
        name = f"full-disk-qemu-{self.name.replace(' ', '-')}"
        return Kind(name, what, self.rounds, place, partial(_attempt, self), seconds=self.seconds)


def _attempt(command: Command, place: Place, each: Try) -> None:
    before = invariants.Before.of(place)
    command.prepare(place)
    kept, names = _records(place), place.entries()
    words = command.words(place)
    ended = killing.run_on_filling_disk(place, words, each, left=each.random.choice(_LEFT_BYTES))
    with invariants.after(ended.where):
        expect("Traceback" not in ended.text and "internal error" not in ended.text, ended.text)
        if ended.code != 0:
            _blames_the_disk(ended.text)
            expect(place.entries() == names, f"machines before and after: {sorted(names)}, {sorted(place.entries())}")
            changed = sorted(key for key in kept if _records(place).get(key) != kept[key])
            expect(not changed, f"changed by a command that failed: {changed}")
            command.undone(place)
        invariants.commands_answer(place, sorted(names))
        small_disk.make_room(place)
        if ended.code != 0:
            invariants.call(place, *words, code=0)
        command.done(place)
        invariants.records_are_readable(place)
        for name in sorted(place.entries() - before.entries):
            machines.nothing_half_made(place, name)
        invariants.nothing_is_left(place, ("box", "copy"), before)


def _blames_the_disk(text: str) -> None:
    expect(any(sign in text for sign in full_disk.SIGNS), f"the error does not say that the disk is full: {text}")
    blamed = [word for word in _BLAMED if word in text.lower()]
    expect(not blamed, f"the error blames something else, {blamed}: {text}")


def _records(place: Place) -> dict[str, object]:
    """The records, keys and certificates of all machines."""
    folder = place.store / "machines"
    found = fingerprint(folder)
    return {key: facts for key, facts in found.items() if any(Path(key).match(f"*/{kept}") for kept in _KEPT)}


def _nothing(place: Place) -> None:
    """Need nothing, or expect nothing more."""


def _has_no_snapshot(place: Place) -> None:
    listed = json.loads(invariants.call(place, "snapshot", "ls", "--json", "box", code=0).stdout)
    expect(not listed, f"a snapshot that failed is listed: {listed}")


def _has_snapshot(place: Place) -> None:
    invariants.call(place, "snapshot", "restore", "--disk-only", "box", "s1", code=0)
    machines.is_stopped(place)


def _has_no_archive(place: Place) -> None:
    left = sorted(path.name for path in _archive(place).parent.iterdir())
    expect(not left, f"an export that failed leaves {left}")


def _can_be_imported(place: Place) -> None:
    invariants.call(place, "import", str(_archive(place)), "copy", code=0)
    machines.is_stopped(place, "copy")


def _stopped(place: Place) -> None:
    machines.create_stopped(place)
    _archive(place).parent.mkdir(exist_ok=True)
    _archive(place).unlink(missing_ok=True)


def _exported(place: Place) -> None:
    _stopped(place)
    invariants.call(place, "export", "box", str(_archive(place)), code=0)


def _is_imported(place: Place) -> None:
    machines.is_stopped(place, "copy")


def _archive(place: Place) -> Path:
    """An export on the disk that fills up."""
    return place.store / "exports" / "x.pymachine.tar.zst"


def _regenerate(place: Place) -> tuple[str, ...]:
    return "regenerate-certs", "-f", "box"


def _snapshot(place: Place) -> tuple[str, ...]:
    return "snapshot", "create", "box", "s1"


def _export(place: Place) -> tuple[str, ...]:
    return "export", "box", str(_archive(place))


def _import(place: Place) -> tuple[str, ...]:
    return "import", str(_archive(place)), "copy"


COMMANDS = [
    Command("create", lambda _: ("create", "box"), _nothing, _nothing, machines.runs, 10, 8),
    Command("regenerate-certs", _regenerate, machines.create, _nothing, machines.runs, 6, 10),
    Command("snapshot create", _snapshot, machines.create, _has_no_snapshot, _has_snapshot, 6, 10),
    Command("export", _export, _stopped, _has_no_archive, _can_be_imported, 6, 10),
    Command("import", _import, _exported, _nothing, _is_imported, 6, 10),
]
KINDS = [command.kind for command in COMMANDS] if full_disk.MOUNTS else []
