"""Kill -9 at the steps of commands on machines of the driver none, which are only records: the quick kinds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from endurance import invariants, killing
from endurance.campaign import Kind, Try, expect
from endurance.sandbox import BYSTANDER, Sandbox, with_bystander

CREATE = ("create", "--driver", "none", "--url", "tcp://127.0.0.1:1")
_NAMES = ("box",)


def _attempt(
    words: tuple[str, ...],
    prepare: Callable[[Sandbox], object],
    check: Callable[[Sandbox], object],
    sandbox: Sandbox,
    attempt: Try,
) -> None:
    before = invariants.Before.of(sandbox)
    prepare(sandbox)
    ended = killing.run(sandbox, words, attempt)
    with invariants.after(ended.where):
        invariants.commands_answer(sandbox, _NAMES)
        check(sandbox)
        invariants.records_are_readable(sandbox)
        invariants.nothing_is_left(sandbox, _NAMES, before)


def _nothing(sandbox: Sandbox) -> None:
    """Prepare nothing."""


def _create(sandbox: Sandbox) -> None:
    sandbox.program(*CREATE, "box")


def _export(sandbox: Sandbox) -> None:
    """Export the bystander's connection, once for all tries."""
    file = sandbox.files / "connection"
    if not file.exists():
        sandbox.program("export", "--connection", BYSTANDER, str(file))


def _can_be_made(sandbox: Sandbox) -> None:
    """Check that the command can be repeated after a half-made machine is removed."""
    if "box" in sandbox.entries():
        invariants.call(sandbox, "rm", "-y", "-f", "box", code=0)
    invariants.call(sandbox, *CREATE, "box", code=0)


def _can_be_removed(sandbox: Sandbox) -> None:
    """Check that `rm` can be repeated if the machine still exists."""
    if "box" in sandbox.entries():
        invariants.call(sandbox, "rm", "-y", "box", code=0)
    expect("box" not in sandbox.entries(), "rm succeeded and left the machine")


def _kind(
    name: str,
    description: str,
    words: tuple[str, ...],
    prepare: Callable[[Sandbox], object],
    check: Callable[[Sandbox], object],
) -> Kind:
    sandbox = partial(with_bystander, real=False)
    return Kind(name, description, 100, sandbox, partial(_attempt, words, prepare, check), seconds=2.2)


KINDS = [
    _kind("kill-create-record", "kill -9 of `create`, driver none", (*CREATE, "box"), _nothing, _can_be_made),
    _kind("kill-rm-record", "kill -9 of `rm`, driver none", ("rm", "-y", "box"), _create, _can_be_removed),
    _kind(
        "kill-import-record",
        "kill -9 of `import` of a connection",
        ("import", "connection", "box"),
        _export,
        _can_be_made,
    ),
]
