"""Find or build the image for a machine: from the cache, from Debian packages, or from an exported ISO."""

from __future__ import annotations

from pathlib import Path

from pymachine.driver.contract import ImageFiles, ImageRequest
from pymachine.image import cache
from pymachine.image.errors import MirrorError
from pymachine.image.recipe import Recipe
from pymachine.system.progress import Reporter


def find_or_build(request: ImageRequest, *, store: Path, reporter: Reporter) -> ImageFiles:
    """Return the image for `request`. Build it, or fetch it from its URL, if it is not in the cache.

    Of several processes at once, one builds and the others wait. Raises the errors of `pymachine.image.errors`.
    """
    if request.source:
        from pymachine.image import imported  # noqa: PLC0415 (pycdlib, requests)

        return imported.import_image(request.source, store=store, reporter=reporter).files()
    architecture = request.architecture or cache.host_architecture()
    wanted = Recipe(architecture=architecture).whole_digest()
    found = cache.intact(cache.newest(store, architecture, recipe=wanted), reporter)
    if found is None:
        with cache.locked(store, architecture):
            found = cache.intact(cache.newest(store, architecture, recipe=wanted), reporter)
            if found is None:
                from pymachine.image import build  # noqa: PLC0415 (its imports take 50 ms)

                reporter.info(f"Building the guest image for {architecture} (once; later machines use the same)...")
                found = build.build_into_cache(architecture, store=store, reporter=reporter)
    return found.files()


def refresh(request: ImageRequest, *, store: Path, reporter: Reporter) -> ImageFiles:
    """Return the image for `request` with today's packages, or fetched again from its URL.

    Nothing is built if the newest image has these packages already. If no mirror answers, it is the newest image.
    """
    if request.source:
        from pymachine.image import imported  # noqa: PLC0415 (pycdlib, requests)

        return imported.import_image(request.source, store=store, reporter=reporter, refetch=True).files()
    from pymachine.image import build  # noqa: PLC0415 (its imports take 50 ms)

    architecture = request.architecture or cache.host_architecture()
    with cache.locked(store, architecture):
        try:
            found = build.refresh_cache(architecture, store=store, reporter=reporter)
        except MirrorError as error:
            known = cache.newest(store, architecture, recipe=Recipe(architecture=architecture).whole_digest())
            if known is None:
                raise
            reporter.warn(f"Cannot check for newer packages: {error.brief}")
            found = known
    return found.files()
