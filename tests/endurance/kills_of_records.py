"""Kill -9 at the steps of commands on machines that are records only (driver none): the quick ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from endurance import invariants, killing
from endurance.campaign import Kind, Try, expect
from endurance.place import BYSTANDER, Place, with_bystander

CREATE = ("create", "--driver", "none", "--url", "tcp://127.0.0.1:1")
_NAMES = ("box",)


def _attempt(
    words: tuple[str, ...],
    prepare: Callable[[Place], object],
    check: Callable[[Place], object],
    place: Place,
    each: Try,
) -> None:
    before = invariants.Before.of(place)
    prepare(place)
    ended = killing.run(place, words, each)
    with invariants.after(ended.where):
        invariants.commands_answer(place, _NAMES)
        check(place)
        invariants.records_are_readable(place)
        invariants.nothing_is_left(place, _NAMES, before)


def _nothing(place: Place) -> None:
    """Need nothing."""


def _create(place: Place) -> None:
    place.program(*CREATE, "box")


def _export(place: Place) -> None:
    """Have an export of how to connect, made once."""
    file = place.files / "connection"
    if not file.exists():
        place.program("export", "--connection", BYSTANDER, str(file))


def _can_be_made(place: Place) -> None:
    """The command can be repeated once what is half made is removed."""
    if "box" in place.entries():
        invariants.call(place, "rm", "-y", "-f", "box", code=0)
    invariants.call(place, *CREATE, "box", code=0)


def _can_be_removed(place: Place) -> None:
    """The machine is either removed, or there as before; `rm` finishes."""
    if "box" in place.entries():
        invariants.call(place, "rm", "-y", "box", code=0)
    expect("box" not in place.entries(), "rm ended well and left the machine")


def _kind(
    name: str,
    what: str,
    words: tuple[str, ...],
    prepare: Callable[[Place], object],
    check: Callable[[Place], object],
) -> Kind:
    place = partial(with_bystander, real=False)
    return Kind(name, what, 100, place, partial(_attempt, words, prepare, check), seconds=2.2)


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
