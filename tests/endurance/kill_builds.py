"""Kill -9 at the steps of builds for all machines: the guest image and templates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from endurance import invariants, killing
from endurance.campaign import Kind, Try, expect
from endurance.sandbox import Sandbox, own_cache


def _attempt(
    words: tuple[str, ...], folder: str, check: Callable[[Sandbox], object], sandbox: Sandbox, attempt: Try
) -> None:
    before = invariants.Before.of(sandbox)
    ended = killing.run(sandbox, words, attempt)
    with invariants.after(ended.where):
        invariants.commands_answer(sandbox, ())
        invariants.call(sandbox, *words, code=0)
        check(sandbox)
        left = sorted(path.name for path in (_cache(sandbox) / folder).glob(".tmp-*"))
        expect(not left, f"`{words[0]} {words[1]}` leaves in the cache: {left}")
        invariants.nothing_is_left(sandbox, (), before)


def _cache(sandbox: Sandbox) -> Path:
    return Path(sandbox.program.env["PYMACHINE_CACHE"])


def _images_are_whole(sandbox: Sandbox) -> None:
    invariants.call(sandbox, "image", "verify", code=0)


def _templates_are_whole(sandbox: Sandbox) -> None:
    """Check that a machine resumes from the template; remove the template for the next try."""
    outcome = invariants.call(sandbox, "create", "box", code=0)
    expect("to resume" in outcome.text, f"a machine is not resumed from the template: {outcome.text}")
    invariants.call(sandbox, "rm", "-y", "box", code=0)
    invariants.call(sandbox, "template", "prune", "--all", code=0)


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
