"""`cache`: keep a pull-through registry on this host for all machines of the user."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pymachine.cli.context import App, json_option, pass_app
from pymachine.cli.errors import FlagError
from pymachine.driver.contract import Json
from pymachine.registry_cache import place
from pymachine.system import durations, sizes
from pymachine.system.progress import human

if TYPE_CHECKING:
    from pymachine.registry_cache.control import Status
    from pymachine.registry_cache.state import State
    from pymachine.registry_cache.storage import Blob

_HIGHEST_PORT = 65535


@click.group(name="cache", short_help="Keep a registry on this host, from which machines pull images")
def command() -> None:
    """Keep a registry on this host, from which machines pull the images of Docker Hub.

    It fetches each layer once, for all machines of the user. Machines use it automatically while it runs: new ones at
    once, others from their next start or `provision` on. Without it, they pull directly.
    """


@command.command(name="start")
@click.option("--upstream", metavar="URL", help="Cache the images of this registry  [default: Docker Hub]")
@click.option("--limit", metavar="SIZE", help="Let it take this much of the disk  [default: 20GB]")
@click.option(
    "--port", type=click.IntRange(1, _HIGHEST_PORT), help="Listen at this port of 127.0.0.1  [default: a free one]"
)
@json_option
@pass_app
def start(app: App, *, upstream: str | None, limit: str | None, port: int | None) -> None:
    """Start the cache. It runs until `cache stop`, or until this host is switched off.

    The options are kept for the next start. With other options than before, a running cache is started again. With
    another upstream, the stored layers are removed.
    """
    from pymachine.hosts import trusted_cas  # noqa: PLC0415 (the help does not need it)
    from pymachine.registry_cache import control  # noqa: PLC0415 (the help does not need it)

    wanted = control.Wanted(upstream=upstream, limit_mib=None if limit is None else _size(limit), port=port)
    state, is_new = control.start(_folder(app), wanted, ca_certificates=trusted_cas.of_all_machines(app.store_root))
    words = "runs" if is_new else "is running already,"
    app.show(f"The registry cache {words} at {control.url(state)}, for {_upstream(state)}.", _settings(state))


@command.command(name="stop")
@json_option
@pass_app
def stop(app: App) -> None:
    """Stop the cache. The stored layers stay, and machines pull directly."""
    from pymachine.registry_cache import control  # noqa: PLC0415 (the help does not need it)

    ran = control.stop(_folder(app))
    app.show("The registry cache was stopped." if ran else "The registry cache is not running.", {"Stopped": ran})


@command.command(name="status")
@json_option
@pass_app
def status(app: App) -> None:
    """Show whether the cache runs, and how much it has stored. The exit code is 1 if it does not run or answer."""
    from pymachine.registry_cache import control  # noqa: PLC0415 (the help does not need it)

    found = control.status(_folder(app))
    if found is None:
        app.show("", {"Running": False})
    else:
        app.show("\n".join(_lines(found)), _summary(found))
    if found is None or not found.is_running:
        raise place.CacheNotRunningError(
            "the registry cache is not running", hint="Start it: pymachine cache start\nMachines pull directly."
        )
    if found.problem:
        raise place.CacheNotRunningError(
            f"the registry cache does not answer: {found.problem}",
            hint=f"It is started again soon. Its log is {_folder(app) / place.LOG}\nMachines pull directly.",
        )


@command.command(name="prune")
@click.option("--unused-for", default="7d", show_default=True, help="Remove layers not used for this long")
@click.option("--all", "-a", "everything", is_flag=True, help="Remove all layers")
@json_option
@pass_app
def prune(app: App, *, unused_for: str, everything: bool) -> None:
    """Remove layers that have not been used for some time. The cache fetches them again when a machine needs them."""
    from pymachine.registry_cache import control  # noqa: PLC0415 (the help does not need it)

    try:
        seconds = 0.0 if everything else durations.parse(unused_for)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--unused-for") from error
    removed = control.prune(_folder(app), unused_seconds=seconds)
    size = sum(blob.size for blob in removed)
    app.show(f"Removed {len(removed)} layers and manifests, {human(size, 'B')}", _rows(removed))


def _folder(app: App) -> Path:
    return place.folder(app.store_root)


def _size(text: str) -> int:
    """Return the mebibytes that --limit means. Raises `FlagError`."""
    found = int(text) if text.isascii() and text.isdigit() else sizes.with_unit(text)
    if not found:
        raise FlagError(f"--limit {text!r} is not a size above 0", hint=sizes.HINT)
    return found


def _lines(found: Status) -> Iterable[str]:
    yield f"Running: {'yes' if found.is_running else 'no'}"
    yield f"Address: {found.url}"
    yield f"Upstream: {_upstream(found.state)}"
    yield f"Size: {human(found.size, 'B')} of {human(found.state.limit_mib << 20, 'B')}"
    yield f"Layers and manifests: {found.blobs}"


def _upstream(state: State) -> str:
    from pymachine.registry_cache.state import DOCKER_HUB  # noqa: PLC0415 (the help does not need it)

    return "Docker Hub" if state.upstream == DOCKER_HUB else state.upstream


def _settings(state: State) -> dict[str, Json]:
    from pymachine.registry_cache import control  # noqa: PLC0415 (the help does not need it)

    return {"Address": control.url(state), "Upstream": state.upstream, "LimitBytes": state.limit_mib << 20}


def _summary(found: Status) -> dict[str, Json]:
    return {
        "Running": found.is_running,
        **_settings(found.state),
        "SizeBytes": found.size,
        "Blobs": found.blobs,
        "Problem": found.problem,
    }


def _rows(removed: Iterable[Blob]) -> list[dict[str, Json]]:
    return [{"Digest": f"sha256:{blob.digest}", "SizeBytes": blob.size, "Removed": True} for blob in removed]
