"""Kill -9 at the steps of what is made once for all machines: the guest image, and templates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from endurance import invariants, killing
from endurance.campaign import Kind, Try, expect
from endurance.place import Place, own_cache


def _attempt(words: tuple[str, ...], folder: str, check: Callable[[Place], object], place: Place, each: Try) -> None:
    before = invariants.Before.of(place)
    ended = killing.run(place, words, each)
    with invariants.after(ended.where):
        invariants.commands_answer(place, ())
        invariants.call(place, *words, code=0)
        check(place)
        left = sorted(path.name for path in (_cache(place) / folder).glob(".tmp-*"))
        expect(not left, f"`{words[0]} {words[1]}` leaves in the cache: {left}")
        invariants.nothing_is_left(place, (), before)


def _cache(place: Place) -> Path:
    return Path(place.program.env["PYMACHINE_CACHE"])


def _images_are_whole(place: Place) -> None:
    invariants.call(place, "image", "verify", code=0)


def _templates_are_whole(place: Place) -> None:
    """A machine resumes from the template, and each try makes it again."""
    outcome = invariants.call(place, "create", "box", code=0)
    expect("to resume" in outcome.text, f"a machine is not resumed from the template: {outcome.text}")
    invariants.call(place, "rm", "-y", "box", code=0)
    invariants.call(place, "template", "prune", "--all", code=0)


KINDS = [
    Kind(
        "kill-image-build",
        "kill -9 of `image build`",
        3,
        partial(own_cache, "packages"),
        partial(_attempt, ("image", "build"), "images", _images_are_whole),
        slow=True,
        seconds=25,
    ),
    Kind(
        "kill-template-build",
        "kill -9 of `template build`",
        3,
        partial(own_cache, "packages", "images"),
        partial(_attempt, ("template", "build"), "templates", _templates_are_whole),
        slow=True,
        seconds=45,
    ),
]
