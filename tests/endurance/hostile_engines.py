"""Engines and mirrors that misbehave: endless, slow, deeply nested or inflating answers."""

from __future__ import annotations

import importlib
import importlib.util
import shlex
from functools import partial
from typing import Any

from endurance import invariants
from endurance.campaign import Kind, Try, command, expect
from endurance.sandbox import BYSTANDER, SECONDS, Sandbox, with_bystander
from support.runner import PROGRAM

MODULE = "support.hostile"
# The limit on the address space of a command, in KiB: it must not collect endless answers in memory.
_MOST_MEMORY = 1024 * 1024
_COMMANDS = (("ls", "-t", "5"), ("version", "hostile"), ("status", "hostile"), ("env", "hostile"))


def _behaviours() -> tuple[Any, dict[str, Any]]:
    """Return the module with the misbehaving servers, and each behaviour by name."""
    hostile: Any = importlib.import_module(MODULE)
    behaviours = {f"flood: {name}": behaviour for name, behaviour in hostile.FLOODS.items()}
    behaviours |= {f"drip: {name}": behaviour for name, behaviour in hostile.DRIPS.items()}
    return hostile, behaviours | {"nested": hostile.nested(), "inflating": hostile.inflating()}


def _chosen(attempt: Try, behaviours: dict[str, Any]) -> tuple[str, Any]:
    return list(behaviours.items())[attempt.number % len(behaviours)]


def _bounded(sandbox: Sandbox, words: tuple[str, ...], *, env: dict[str, str] | None = None) -> str:
    """Run a command with little memory, and check that it ends without an internal error."""
    line = f"ulimit -v {_MOST_MEMORY}; exec {shlex.join([str(PROGRAM), *words])}"
    text = sandbox.program.run(["bash", "-c", line], code=None, env=env, timeout=SECONDS).text
    for sign in ("Traceback", "internal error", "MemoryError"):
        expect(sign not in text, f"`{command(words)}` says: {text}")
    return text


def _engine(sandbox: Sandbox, attempt: Try) -> None:
    """Check that no command hangs or uses unbounded memory, and that the other machine is listed."""
    before = invariants.Before.of(sandbox)
    hostile, behaviours = _behaviours()
    name, behaviour = _chosen(attempt, behaviours)
    with invariants.after(f"an engine that answers by {name}"):
        with hostile.engine(sandbox.store, behaviour):
            for words in _COMMANDS:
                text = _bounded(sandbox, words)
                expect(words[0] != "ls" or BYSTANDER in text, f"`ls` does not show the other machine: {text}")
        invariants.nothing_is_left(sandbox, ("hostile",), before)


def _mirror(sandbox: Sandbox, attempt: Try) -> None:
    """Check that an image build from such a mirror fails with a reason and leaves nothing."""
    before = invariants.Before.of(sandbox)
    hostile, behaviours = _behaviours()
    name, behaviour = _chosen(attempt, behaviours)
    with invariants.after(f"a mirror that answers by {name}"), hostile.serving(behaviour) as port:
        cache = sandbox.base / "cache"
        env = {"PYMACHINE_CACHE": str(cache)}
        text = _bounded(sandbox, ("image", "build", "--mirror", f"http://127.0.0.1:{port}/debian"), env=env)
        expect(text.strip(), "the build ended without a message")
        images = [path.name for path in cache.glob("images/*") if not path.name.endswith(".lock")]
        expect(not images, f"the cache has an image: {images}")
        invariants.nothing_is_left(sandbox, (), before)


def kinds() -> list[Kind]:
    """Return the kinds, if the module with the servers exists."""
    if importlib.util.find_spec(MODULE) is None:
        return []
    sandbox = partial(with_bystander, real=False)
    return [
        Kind("hostile-engine", "engines that flood, drip, nest, inflate", 19, sandbox, _engine, seconds=11),
        Kind("hostile-mirror", "mirrors that flood, drip, nest, inflate", 19, sandbox, _mirror, seconds=8),
    ]
