"""Run commands with little free disk space: they must leave nothing half made, and report the full disk.

As root, the store is on its own small file system in its own mount namespace. Other users limit the size of files
instead (``ulimit -f``), which applies to each file and not to all together.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from endurance import invariants
from endurance.campaign import Kind, Try, command, expect
from endurance.kill_record_commands import CREATE
from endurance.sandbox import BYSTANDER, SECONDS, Sandbox, with_bystander
from support.runner import PROGRAM

MOUNTS = os.geteuid() == 0
SIGNS = ("No space left on device", "File too large", "MB free", "Not enough space", "not enough space")
# Many times the size of a record and its keys.
_MOST_KIB = 64


@dataclass(frozen=True)
class Command:
    """A command to run on a full disk, and one to run before it."""

    name: str
    words: tuple[str, ...]
    prepare: tuple[str, ...] = ()


def _attempt(on: Command, sandbox: Sandbox, attempt: Try) -> None:
    before = invariants.Before.of(sandbox)
    if on.prepare:
        sandbox.program(*on.prepare)
    kept = invariants.Before.of(sandbox)
    free = int(attempt.spread * _MOST_KIB)
    code, text = _run(sandbox, on.words, free)
    where = f"`{command(on.words)}` with {free} KiB free ({'tmpfs' if MOUNTS else 'ulimit -f'})"
    with invariants.after(f"{where}, which ended with {code}"):
        expect("Traceback" not in text and "internal error" not in text, text)
        if code != 0:
            expect(any(sign in text for sign in SIGNS), f"the error does not say that the disk is full: {text}")
            expect(sandbox.entries() >= kept.entries, f"machines are lost: {sorted(kept.entries - sandbox.entries())}")
            extra = sandbox.entries() - kept.entries
            expect(not extra, f"half of a machine is left: {sorted(extra)}")
        invariants.commands_answer(sandbox, ("box",))
        invariants.records_are_readable(sandbox)
        invariants.nothing_is_left(sandbox, ("box",), before)


def _run(sandbox: Sandbox, words: Sequence[str], free: int) -> tuple[int, str]:
    """Run the command with `free` KiB of space, and keep what it left in the store."""
    line = shlex.join([str(PROGRAM), *words])
    if MOUNTS:
        argv = ["unshare", "--mount", "bash", "-c", _on_small_disk(sandbox, line, free)]
    else:
        argv = ["bash", "-c", f"ulimit -f {free}; {line}; echo code $?"]
    outcome = sandbox.program.run(argv, timeout=SECONDS)
    text, _, code = outcome.text.rpartition("code ") if not outcome.stderr else _split(outcome.stdout, outcome.stderr)
    return int(code), text


def _split(stdout: str, stderr: str) -> tuple[str, str, str]:
    output, mark, code = stdout.rpartition("code ")
    return output + stderr, mark, code


def _on_small_disk(sandbox: Sandbox, line: str, free: int) -> str:
    """Return a script that runs the command on a copy of the store in a small file system, then copies it back."""
    store, copy = shlex.quote(str(sandbox.store)), shlex.quote(str(sandbox.base / "copy"))
    size = "$(( $(du -sk --apparent-size . | cut -f1) + 4096 ))k"
    return f"""set -e
cp -a {store} {copy}; cd {copy}
mount -t tmpfs -o mode=0700,size={size} none {store}; cp -a . {store}
left=$(df --output=avail -k {store} | tail -1)
[ "$left" -le {free} ] || head -c $(( (left - {free}) * 1024 )) /dev/zero > {store}/ballast
set +e; cd /; {line}; code=$?; set -e
rm -f {store}/ballast; rm -rf {copy}; cp -a {store} {copy}; umount {store}
find {store} -mindepth 1 -delete; cp -a {copy}/. {store}/; rm -rf {copy}
echo code $code"""


COMMANDS = [
    Command("create", (*CREATE, "box")),
    Command("rm", ("rm", "-y", "box"), (*CREATE, "box")),
    Command("export", ("export", "--connection", "-f", BYSTANDER, "/dev/shm/endurance")),
]
KINDS = [
    Kind(
        f"full-disk-{each.name}",
        f"`{each.words[0]}` with 0 to {_MOST_KIB} KiB free, driver none",
        15,
        partial(with_bystander, real=False),
        partial(_attempt, each),
        seconds=2.5,
    )
    for each in COMMANDS[:2]
]
