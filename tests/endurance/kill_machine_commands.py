"""Kill -9 at the steps of commands on real machines, in QEMU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from endurance import invariants, killing, machines
from endurance.campaign import Kind, Try, expect
from endurance.sandbox import Sandbox, with_bystander
from pymachine.driver.kit import host_memory

_ARCHIVE = "x.pymachine.tar.zst"
# The tests' machines have one CPU (`support.runner`) and the memory that this host allows. No machine is started with
# the new hardware.
_BEFORE = {"CPU": 1, "Memory": host_memory.default_mib()}
_AFTER = {"CPU": 3, "Memory": 900}
_MODIFY = ("modify", "--cpus", "3", "--memory", "900", "box")


@dataclass(frozen=True)
class Command:
    """A command to kill, its preparation, and a check that runs the next command on the machine."""

    name: str
    words: tuple[str, ...]
    prepare: Callable[[Sandbox], object]
    check: Callable[[Sandbox, Try], object]
    rounds: int
    seconds: float
    slow: bool = False
    """Whether the guest boots from power-on in each try."""
    description: str = ""

    @property
    def kind(self) -> Kind:
        """The row of the table."""
        description = self.description or f"kill -9 of `{self.words[0]}`"
        sandbox = partial(with_bystander, real=True)
        return Kind(
            f"kill-{self.name}",
            description,
            self.rounds,
            sandbox,
            partial(_attempt, self),
            slow=self.slow,
            seconds=self.seconds,
        )


def _attempt(command: Command, sandbox: Sandbox, attempt: Try) -> None:
    before = invariants.Before.of(sandbox)
    command.prepare(sandbox)
    ended = killing.run(sandbox, command.words, attempt)
    with invariants.after(ended.where):
        made = sorted(sandbox.entries() - before.entries)
        invariants.commands_answer(sandbox, [name for name in made if not name.startswith(".")])
        command.check(sandbox, attempt)
        invariants.records_are_readable(sandbox)
        for name in sorted(sandbox.entries() - before.entries):
            machines.has_no_temporary_files(sandbox, name)
        invariants.nothing_is_left(sandbox, ("box", "copy"), before)


def _nothing(sandbox: Sandbox) -> None:
    """Prepare nothing."""


def _running_with_context(sandbox: Sandbox) -> None:
    machines.create(sandbox, "box", "--docker-context")


def _stopped_with_context(sandbox: Sandbox) -> None:
    machines.create_stopped(sandbox, "box", "--docker-context")


def _with_port(sandbox: Sandbox) -> None:
    machines.create(sandbox)
    machines.serve(sandbox)
    invariants.call(sandbox, "stop", "box", code=0)


def _with_snapshot(sandbox: Sandbox) -> None:
    machines.create(sandbox)
    machines.mark(sandbox, "box", "first")
    invariants.call(sandbox, "snapshot", "create", "box", "s1", code=0)
    machines.mark(sandbox, "box", "second")


def _with_older_image(sandbox: Sandbox) -> None:
    """Name another image in the record, so that `upgrade` has something to do."""
    machines.create_stopped(sandbox)
    for name in ("config.json", "pymachine.json"):
        path = sandbox.folder("box") / name
        record = json.loads(path.read_text())
        if "ImageDigest" in record.get("Driver", {}):
            record["Driver"]["ImageDigest"] = "0" * 64
            path.write_text(json.dumps(record))


def _with_archive(sandbox: Sandbox) -> None:
    """Export a machine, once for all tries."""
    if not (sandbox.files / _ARCHIVE).exists():
        machines.create_stopped(sandbox)
        invariants.call(sandbox, "export", "box", str(sandbox.files / _ARCHIVE), code=0)
        invariants.call(sandbox, "rm", "-y", "box", code=0)


def _without_archive(sandbox: Sandbox) -> None:
    shutil.rmtree(sandbox.files)
    sandbox.files.mkdir()
    machines.create_stopped(sandbox)


# -- checks afterwards -------------------------------------------------------------------------------------------


def _can_be_made(sandbox: Sandbox, attempt: Try) -> None:
    if "box" in sandbox.entries():
        invariants.call(sandbox, "rm", "-y", "box", code=0)
    invariants.call(sandbox, "create", "box", code=0)
    machines.runs(sandbox)


def _runs(sandbox: Sandbox, attempt: Try) -> None:
    machines.runs(sandbox)


def _runs_and_forwards(sandbox: Sandbox, attempt: Try) -> None:
    machines.runs(sandbox)
    machines.forwards(sandbox)


def _stops(sandbox: Sandbox, attempt: Try) -> None:
    invariants.call(sandbox, "stop", "box")
    machines.is_stopped(sandbox)


def _is_removed(sandbox: Sandbox, attempt: Try) -> None:
    if "box" in sandbox.entries():
        invariants.call(sandbox, "rm", "-y", "box", code=0)
    expect("box" not in sandbox.entries(), "rm succeeded and left the machine")


def _has_one_name(sandbox: Sandbox, attempt: Try) -> None:
    names = sandbox.entries() & {"box", "copy"}
    expect(len(names) == 1, f"the machine has the names {sorted(names)}")
    if names == {"box"}:
        invariants.call(sandbox, "rename", "box", "copy", code=0)
    invariants.call(sandbox, "prune", code=0)  # finishes a rename that was killed
    expect(
        sandbox.entries() & {"box", "copy"} == {"copy"}, "rename succeeded, but the machine does not have its new name"
    )
    expect(len(sandbox.contexts()) == 1, "rename leaves a docker context")


def _is_one_of_both(sandbox: Sandbox, attempt: Try) -> None:
    """Check that the hardware is the old or the new one, never a mixture, and that the change can be repeated."""
    driver = machines.record(sandbox)
    hardware = {key: driver[key] for key in _BEFORE}
    expect(hardware in (_BEFORE, _AFTER), f"the machine has half of a change: {hardware}")
    invariants.call(sandbox, *_MODIFY, code=0)
    hardware = {key: machines.record(sandbox)[key] for key in _BEFORE}
    expect(hardware == _AFTER, f"modify succeeded, but the machine has {hardware}")


def _takes_certificates(sandbox: Sandbox, attempt: Try) -> None:
    invariants.call(sandbox, "regenerate-certs", "-f", "box", code=0)
    machines.runs(sandbox)


def _takes_labels(sandbox: Sandbox, attempt: Try) -> None:
    invariants.call(sandbox, "modify", "--engine-label", "a=b", "box", code=0)
    machines.runs(sandbox)
    labels = invariants.call(sandbox, "ssh", "box", "docker info --format '{{.Labels}}'").stdout.strip()
    expect("a=b" in labels.strip("[]").split(), f"modify succeeded, but the engine has the labels {labels}")


def _goes_on(sandbox: Sandbox, attempt: Try) -> None:
    """Check that a machine left paused resumes with the next command, and that a listed snapshot is complete."""
    machines.runs(sandbox)
    listed = json.loads(invariants.call(sandbox, "snapshot", "ls", "--json", "box", code=0).stdout)
    if not listed:
        invariants.call(sandbox, "snapshot", "create", "box", "s1", code=0)
    invariants.call(sandbox, "snapshot", "restore", "--disk-only", "box", "s1", code=0)
    machines.is_stopped(sandbox)


def _has_either_disk(sandbox: Sandbox, attempt: Try) -> None:
    """Check that the machine has its own disk or the snapshot's, and that the restore can be repeated."""
    invariants.call(sandbox, "snapshot", "restore", "box", "s1", code=0)
    machines.has_mark(sandbox, "box", "first")
    machines.mark(sandbox, "box", "third")
    _fails_to_restore(sandbox)
    machines.runs(sandbox)
    machines.has_mark(sandbox, "box", "third")


def _fails_to_restore(sandbox: Sandbox) -> None:
    """Let a restore fail by moving the snapshot's disk away; it must change nothing."""
    disk = sandbox.folder("box") / "snapshots" / "s1" / "disk.raw"
    away = disk.with_name("away")
    disk.rename(away)
    outcome = invariants.call(sandbox, "snapshot", "restore", "box", "s1")
    away.rename(disk)
    expect(outcome.code != 0, "a snapshot without a disk was restored")


def _is_exported(sandbox: Sandbox, attempt: Try) -> None:
    """Check that the export is absent or complete, and that a repetition leaves only the export."""
    file = sandbox.files / _ARCHIVE
    if file.exists():
        invariants.call(sandbox, "import", str(file), "copy", code=0)
        invariants.call(sandbox, "rm", "-y", "copy", code=0)
    invariants.call(sandbox, "export", "-f", "box", str(file), code=0)
    left = sorted(path.name for path in sandbox.files.iterdir())
    expect(left == [_ARCHIVE], f"export leaves {left}")


def _is_imported(sandbox: Sandbox, attempt: Try) -> None:
    if "copy" in sandbox.entries():
        invariants.call(sandbox, "rm", "-y", "copy", code=0)
    invariants.call(sandbox, "import", _archive(sandbox), "copy", code=0)
    machines.is_stopped(sandbox, "copy")


def _archive(sandbox: Sandbox) -> str:
    return str(sandbox.files / _ARCHIVE)


def _is_cloned(sandbox: Sandbox, attempt: Try) -> None:
    if "copy" in sandbox.entries():
        invariants.call(sandbox, "rm", "-y", "copy", code=0)
    machines.is_stopped(sandbox, "box")
    invariants.call(sandbox, "clone", "box", "copy", code=0)
    machines.runs(sandbox, "copy")


def _is_upgraded(sandbox: Sandbox, attempt: Try) -> None:
    invariants.call(sandbox, "upgrade", "box", code=0)
    machines.runs(sandbox)
    expect(machines.record(sandbox)["ImageDigest"] != "0" * 64, "upgrade succeeded, but the image is the old one")


_LABEL = ("modify", "--engine-label", "a=b", "box")
COMMANDS = [
    Command("create", ("create", "--docker-context", "box"), _nothing, _can_be_made, 20, 7),
    Command("rm", ("rm", "-y", "box"), _running_with_context, _is_removed, 16, 5),
    Command("rename", ("rename", "box", "copy"), _stopped_with_context, _has_one_name, 15, 6),
    Command(
        "modify", _MODIFY, machines.create_stopped, _is_one_of_both, 12, 7, description="kill -9 of `modify`, stopped"
    ),
    Command("modify-live", _LABEL, machines.create, _takes_labels, 10, 9, description="kill -9 of `modify`, running"),
    Command("stop", ("stop", "box"), machines.create, _stops, 10, 9),
    Command("regenerate-certs", ("regenerate-certs", "-f", "box"), machines.create, _takes_certificates, 10, 8),
    Command(
        "snapshot-create",
        ("snapshot", "create", "box", "s1"),
        machines.create,
        _goes_on,
        12,
        9,
        description="kill -9 of `snapshot create`, running",
    ),
    Command(
        "snapshot-restore",
        ("snapshot", "restore", "box", "s1"),
        _with_snapshot,
        _has_either_disk,
        8,
        13,
        description="kill -9 of `snapshot restore`, running",
    ),
    Command("export", ("export", "box", _ARCHIVE), _without_archive, _is_exported, 8, 10),
    Command("import", ("import", _ARCHIVE, "copy"), _with_archive, _is_imported, 10, 8),
    Command("start", ("start", "box"), _with_port, _runs_and_forwards, 3, 40, slow=True),
    Command("restart", ("restart", "box"), machines.create, _runs, 3, 35, slow=True),
    Command("clone", ("clone", "box", "copy"), machines.create_stopped, _is_cloned, 3, 25, slow=True),
    Command("upgrade", ("upgrade", "box"), _with_older_image, _is_upgraded, 3, 30, slow=True),
]
KINDS = [command.kind for command in COMMANDS]
