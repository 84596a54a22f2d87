"""Engines and mirrors that misbehave: they answer without end, a byte at a time, nested, inflated."""

from __future__ import annotations

import importlib
import importlib.util
import shlex
from functools import partial
from typing import Any

from endurance import invariants
from endurance.campaign import Kind, Try, command, expect
from endurance.place import BYSTANDER, SECONDS, Place, with_bystander
from support.runner import PROGRAM

MODULE = "support.hostile"
# The address space of one command, in KiB: what it reads must not pile up.
_MOST_MEMORY = 1024 * 1024
_COMMANDS = (("ls", "-t", "5"), ("version", "hostile"), ("status", "hostile"), ("env", "hostile"))


def _behaviours() -> tuple[Any, dict[str, Any]]:
    """The module of servers that misbehave, and each of their ways by name."""
    hostile: Any = importlib.import_module(MODULE)
    ways = {f"flood: {name}": way for name, way in hostile.FLOODS.items()}
    ways |= {f"drip: {name}": way for name, way in hostile.DRIPS.items()}
    return hostile, ways | {"nested": hostile.nested(), "inflating": hostile.inflating()}


def _chosen(each: Try, ways: dict[str, Any]) -> tuple[str, Any]:
    return list(ways.items())[each.number % len(ways)]


def _bounded(place: Place, words: tuple[str, ...], *, env: dict[str, str] | None = None) -> str:
    """Run a command with little memory: it ends, without an internal error."""
    line = f"ulimit -v {_MOST_MEMORY}; exec {shlex.join([str(PROGRAM), *words])}"
    text = place.program.run(["bash", "-c", line], code=None, env=env, timeout=SECONDS).text
    for sign in ("Traceback", "internal error", "MemoryError"):
        expect(sign not in text, f"`{command(words)}` says: {text}")
    return text


def _engine(place: Place, each: Try) -> None:
    """No command hangs or takes memory without end, and the other machine is listed."""
    before = invariants.Before.of(place)
    hostile, ways = _behaviours()
    name, way = _chosen(each, ways)
    with invariants.after(f"an engine that answers by {name}"):
        with hostile.engine(place.store, way):
            for words in _COMMANDS:
                text = _bounded(place, words)
                expect(words[0] != "ls" or BYSTANDER in text, f"`ls` does not show the other machine: {text}")
        invariants.nothing_is_left(place, ("hostile",), before)


def _mirror(place: Place, each: Try) -> None:
    """An image build from such a mirror fails with a reason, and leaves nothing."""
    before = invariants.Before.of(place)
    hostile, ways = _behaviours()
    name, way = _chosen(each, ways)
    with invariants.after(f"a mirror that answers by {name}"), hostile.serving(way) as port:
        cache = place.base / "cache"
        env = {"PYMACHINE_CACHE": str(cache)}
        text = _bounded(place, ("image", "build", "--mirror", f"http://127.0.0.1:{port}/debian"), env=env)
        expect(text.strip(), "the build ended without a word")
        images = [path.name for path in cache.glob("images/*") if not path.name.endswith(".lock")]
        expect(not images, f"an image was made of it: {images}")
        invariants.nothing_is_left(place, (), before)


def kinds() -> list[Kind]:
    """The kinds, if the module with the servers is there."""
    if importlib.util.find_spec(MODULE) is None:
        return []
    place = partial(with_bystander, real=False)
    return [
        Kind("hostile-engine", "engines that flood, drip, nest, inflate", 19, place, _engine, seconds=11),
        Kind("hostile-mirror", "mirrors that flood, drip, nest, inflate", 19, place, _mirror, seconds=8),
    ]
