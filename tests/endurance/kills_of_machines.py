"""Kill -9 at the steps of commands on real machines, in QEMU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from endurance import invariants, killing, machines
from endurance.campaign import Kind, Try, expect
from endurance.place import Place, with_bystander

_ARCHIVE = "x.pymachine.tar.zst"
_BEFORE = {"CPU": 2, "Memory": 1024}
_AFTER = {"CPU": 1, "Memory": 900}


@dataclass(frozen=True)
class Command:
    """A command that is killed, what it needs, and what holds after the next command on the same machine."""

    name: str
    words: tuple[str, ...]
    prepare: Callable[[Place], object]
    check: Callable[[Place, Try], object]
    rounds: int
    seconds: float
    slow: bool = False
    """The guest boots from power-on in each try."""
    what: str = ""

    @property
    def kind(self) -> Kind:
        """The row of the table."""
        what = self.what or f"kill -9 of `{self.words[0]}`"
        place = partial(with_bystander, real=True)
        return Kind(
            f"kill-{self.name}", what, self.rounds, place, partial(_attempt, self), slow=self.slow, seconds=self.seconds
        )


def _attempt(command: Command, place: Place, each: Try) -> None:
    before = invariants.Before.of(place)
    command.prepare(place)
    ended = killing.run(place, command.words, each)
    with invariants.after(ended.where):
        made = sorted(place.entries() - before.entries)
        invariants.commands_answer(place, [name for name in made if not name.startswith(".")])
        command.check(place, each)
        invariants.records_are_readable(place)
        for name in sorted(place.entries() - before.entries):
            machines.nothing_half_made(place, name)
        invariants.nothing_is_left(place, ("box", "copy"), before)


def _nothing(place: Place) -> None:
    """Need nothing."""


def _running_with_context(place: Place) -> None:
    machines.create(place, "box", "--docker-context")


def _stopped_with_context(place: Place) -> None:
    machines.create_stopped(place, "box", "--docker-context")


def _with_port(place: Place) -> None:
    machines.create(place)
    machines.serve(place)
    invariants.call(place, "stop", "box", code=0)


def _with_snapshot(place: Place) -> None:
    machines.create(place)
    machines.mark(place, "box", "first")
    invariants.call(place, "snapshot", "create", "box", "s1", code=0)
    machines.mark(place, "box", "second")


def _with_older_image(place: Place) -> None:
    """Have the record say that another image is booted, so that `upgrade` has one to change."""
    machines.create_stopped(place)
    for name in ("config.json", "pymachine.json"):
        path = place.folder("box") / name
        record = json.loads(path.read_text())
        if "ImageDigest" in record.get("Driver", {}):
            record["Driver"]["ImageDigest"] = "0" * 64
            path.write_text(json.dumps(record))


def _with_archive(place: Place) -> None:
    """Have an export of a machine, made once."""
    if not (place.files / _ARCHIVE).exists():
        machines.create_stopped(place)
        invariants.call(place, "export", "box", str(place.files / _ARCHIVE), code=0)
        invariants.call(place, "rm", "-y", "box", code=0)


def _without_archive(place: Place) -> None:
    shutil.rmtree(place.files)
    place.files.mkdir()
    machines.create_stopped(place)


# -- what holds afterwards ---------------------------------------------------------------------------------------


def _can_be_made(place: Place, each: Try) -> None:
    if "box" in place.entries():
        invariants.call(place, "rm", "-y", "box", code=0)
    invariants.call(place, "create", "box", code=0)
    machines.runs(place)


def _runs(place: Place, each: Try) -> None:
    machines.runs(place)


def _runs_and_forwards(place: Place, each: Try) -> None:
    machines.runs(place)
    machines.forwards(place)


def _stops(place: Place, each: Try) -> None:
    invariants.call(place, "stop", "box")
    machines.is_stopped(place)


def _is_removed(place: Place, each: Try) -> None:
    if "box" in place.entries():
        invariants.call(place, "rm", "-y", "box", code=0)
    expect("box" not in place.entries(), "rm ended well and left the machine")


def _has_one_name(place: Place, each: Try) -> None:
    there = place.entries() & {"box", "copy"}
    expect(len(there) == 1, f"the machine is there as {sorted(there)}")
    if there == {"box"}:
        invariants.call(place, "rename", "box", "copy", code=0)
    invariants.call(place, "prune", code=0)  # which finishes what a kill left
    expect(place.entries() & {"box", "copy"} == {"copy"}, "rename ended well, and the machine has not its new name")
    expect(len(place.contexts()) == 1, "rename leaves a docker context")


def _is_one_of_both(place: Place, each: Try) -> None:
    """The hardware is that of before or that of after, never a mixture; and the change can be made."""
    driver = machines.record(place)
    shape = {key: driver[key] for key in _BEFORE}
    expect(shape in (_BEFORE, _AFTER), f"the machine has half of a change: {shape}")
    invariants.call(place, "modify", "--cpus", "1", "--memory", "900", "box", code=0)
    shape = {key: machines.record(place)[key] for key in _BEFORE}
    expect(shape == _AFTER, f"modify ended well, and the machine has {shape}")


def _takes_certificates(place: Place, each: Try) -> None:
    invariants.call(place, "regenerate-certs", "-f", "box", code=0)
    machines.runs(place)


def _takes_labels(place: Place, each: Try) -> None:
    invariants.call(place, "modify", "--engine-label", "a=b", "box", code=0)
    machines.runs(place)
    said = invariants.call(place, "ssh", "box", "docker info --format '{{.Labels}}'").stdout.strip()
    expect("a=b" in said.strip("[]").split(), f"modify ended well, and the engine has the labels {said}")


def _goes_on(place: Place, each: Try) -> None:
    """The machine is not left paused: any command that waits for it has it go on; snapshots are whole or not there."""
    machines.runs(place)
    listed = json.loads(invariants.call(place, "snapshot", "ls", "--json", "box", code=0).stdout)
    if not listed:
        invariants.call(place, "snapshot", "create", "box", "s1", code=0)
    invariants.call(place, "snapshot", "restore", "--disk-only", "box", "s1", code=0)
    machines.is_stopped(place)


def _has_either_disk(place: Place, each: Try) -> None:
    """The machine has the disk of the snapshot or its own, and the restore can be repeated."""
    invariants.call(place, "snapshot", "restore", "box", "s1", code=0)
    machines.has_mark(place, "box", "first")
    machines.mark(place, "box", "third")
    _fails_to_restore(place)
    machines.runs(place)
    machines.has_mark(place, "box", "third")


def _fails_to_restore(place: Place) -> None:
    """A restore that fails changes nothing: the snapshot's disk is away for the moment."""
    disk = place.folder("box") / "snapshots" / "s1" / "disk.raw"
    away = disk.with_name("away")
    disk.rename(away)
    outcome = invariants.call(place, "snapshot", "restore", "box", "s1")
    away.rename(disk)
    expect(outcome.code != 0, "a snapshot without a disk was restored")


def _is_exported(place: Place, each: Try) -> None:
    """What is under the export's name is whole; the export can be repeated, and leaves nothing beside it."""
    file = place.files / _ARCHIVE
    if file.exists():
        invariants.call(place, "import", str(file), "copy", code=0)
        invariants.call(place, "rm", "-y", "copy", code=0)
    invariants.call(place, "export", "-f", "box", str(file), code=0)
    left = sorted(path.name for path in place.files.iterdir())
    expect(left == [_ARCHIVE], f"export leaves {left}")


def _is_imported(place: Place, each: Try) -> None:
    if "copy" in place.entries():
        invariants.call(place, "rm", "-y", "copy", code=0)
    invariants.call(place, "import", _archive(place), "copy", code=0)
    machines.is_stopped(place, "copy")


def _archive(place: Place) -> str:
    return str(place.files / _ARCHIVE)


def _is_cloned(place: Place, each: Try) -> None:
    if "copy" in place.entries():
        invariants.call(place, "rm", "-y", "copy", code=0)
    machines.is_stopped(place, "box")
    invariants.call(place, "clone", "box", "copy", code=0)
    machines.runs(place, "copy")


def _is_upgraded(place: Place, each: Try) -> None:
    invariants.call(place, "upgrade", "box", code=0)
    machines.runs(place)
    expect(machines.record(place)["ImageDigest"] != "0" * 64, "upgrade ended well, and the image is the old one")


_MODIFY = ("modify", "--cpus", "1", "--memory", "900", "box")
_LABEL = ("modify", "--engine-label", "a=b", "box")
COMMANDS = [
    Command("create", ("create", "--docker-context", "box"), _nothing, _can_be_made, 20, 7),
    Command("rm", ("rm", "-y", "box"), _running_with_context, _is_removed, 16, 5),
    Command("rename", ("rename", "box", "copy"), _stopped_with_context, _has_one_name, 15, 6),
    Command("modify", _MODIFY, machines.create_stopped, _is_one_of_both, 12, 7, what="kill -9 of `modify`, stopped"),
    Command("modify-live", _LABEL, machines.create, _takes_labels, 10, 9, what="kill -9 of `modify`, running"),
    Command("stop", ("stop", "box"), machines.create, _stops, 10, 9),
    Command("regenerate-certs", ("regenerate-certs", "-f", "box"), machines.create, _takes_certificates, 10, 8),
    Command(
        "snapshot-create",
        ("snapshot", "create", "box", "s1"),
        machines.create,
        _goes_on,
        12,
        9,
        what="kill -9 of `snapshot create`, running",
    ),
    Command(
        "snapshot-restore",
        ("snapshot", "restore", "box", "s1"),
        _with_snapshot,
        _has_either_disk,
        8,
        13,
        what="kill -9 of `snapshot restore`, running",
    ),
    Command("export", ("export", "box", _ARCHIVE), _without_archive, _is_exported, 8, 10),
    Command("import", ("import", _ARCHIVE, "copy"), _with_archive, _is_imported, 10, 8),
    Command("start", ("start", "box"), _with_port, _runs_and_forwards, 3, 40, slow=True),
    Command("restart", ("restart", "box"), machines.create, _runs, 3, 35, slow=True),
    Command("clone", ("clone", "box", "copy"), machines.create_stopped, _is_cloned, 3, 25, slow=True),
    Command("upgrade", ("upgrade", "box"), _with_older_image, _is_upgraded, 3, 30, slow=True),
]
KINDS = [command.kind for command in COMMANDS]
