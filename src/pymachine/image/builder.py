"""Building the default image into the cache."""

from __future__ import annotations

from pathlib import Path

from pymachine.image import build, cache, lock
from pymachine.image.debian import mirror
from pymachine.image.debian.download import Cache
from pymachine.image.recipe import Recipe
from pymachine.store import paths
from pymachine.system.progress import Reporter


def build_into_cache(
    architecture: str,
    *,
    store: Path,
    reporter: Reporter,
    mirror_url: str | None = None,
    lock_file: Path | None = None,
) -> cache.Image:
    """Build the default recipe's image, with the newest packages or a lock file's, and put it into the cache.

    Call it under `cache.locked`. Raises the errors of `pymachine.image.errors`.
    """
    recipe = Recipe(architecture=architecture)
    packages = lock.read(lock_file, architecture=architecture) if lock_file else None
    sources = build.Sources(mirror.choose(mirror_url), Cache(paths.cache(store) / "packages"))
    reporter.info(f"Packages come from {sources.mirrors.main} ({sources.mirrors.origin}).")
    return cache.add(
        store, lambda folder: build.build(recipe, folder, sources=sources, reporter=reporter, packages=packages)
    )


def refresh_cache(architecture: str, *, store: Path, reporter: Reporter) -> cache.Image:
    """The image of today's packages: the newest in the cache if it has them, else one that is built now.

    Call it under `cache.locked`. Raises the errors of `pymachine.image.errors`.
    """
    recipe = Recipe(architecture=architecture)
    sources = build.Sources(mirror.choose(None), Cache(paths.cache(store) / "packages"))
    reporter.info(f"Packages come from {sources.mirrors.main} ({sources.mirrors.origin}).")
    packages = build.resolve(recipe, sources=sources, reporter=reporter)
    found = cache.intact(cache.newest(store, architecture, recipe=recipe.whole_digest()), reporter)
    if found and found.manifest["packages"] == [lock.to_json(package) for package in packages]:
        return found
    return cache.add(
        store, lambda folder: build.build(recipe, folder, sources=sources, reporter=reporter, packages=packages)
    )
