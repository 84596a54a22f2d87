"""Build an image: the steps from a recipe to the files in a folder."""

from __future__ import annotations

import argparse
import io
import logging
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pymachine
from pymachine.image import boot, cache, package_lock, rootfs
from pymachine.image.debian import deb
from pymachine.image.debian.download import Cache, Downloader, Item
from pymachine.image.debian.mirror import Mirrors, choose
from pymachine.image.debian.repository import Repository
from pymachine.image.debian.resolve import Package, Universe, closure
from pymachine.image.errors import RecipeError
from pymachine.image.filesystem import initrd, iso
from pymachine.image.filesystem.tree import Node, Tree
from pymachine.image.kernel import kernel_packing, modules
from pymachine.image.layout import ISO, ISO_INITRD, ISO_KERNEL, ISO_MANIFEST, to_bytes, with_files
from pymachine.image.recipe import Recipe, Source
from pymachine.store import paths
from pymachine.system.progress import Reporter
from pymachine.system.stream_reporter import StreamReporter

MANIFEST_FORMAT = 1
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """Where a build gets packages: the mirrors, and the cache of fetched files."""

    mirrors: Mirrors
    cache: Cache

    def url(self, source: Source) -> str:
        """Return the URL of `source`, with ``dists`` and ``pool`` below it."""
        return {"main": self.mirrors.main, "security": self.mirrors.security}.get(source.url, source.url)


def build_into_cache(
    architecture: str,
    *,
    store: Path,
    reporter: Reporter,
    mirror_url: str | None = None,
    lock_file: Path | None = None,
) -> cache.Image:
    """Build the default recipe's image with the newest packages, or those of a lock file, and put it into the cache.

    Call it under `cache.locked`. Raises the errors of `pymachine.image.errors`.
    """
    recipe = Recipe(architecture=architecture)
    packages = package_lock.read(lock_file, architecture=architecture) if lock_file else None
    sources = Sources(choose(mirror_url), Cache(paths.cache(store) / "packages"))
    reporter.info(f"Packages come from {sources.mirrors.main} ({sources.mirrors.origin}).")
    return cache.add(store, lambda folder: build(recipe, folder, sources=sources, reporter=reporter, packages=packages))


def refresh_cache(architecture: str, *, store: Path, reporter: Reporter) -> cache.Image:
    """Return an image of today's packages: the newest in the cache if it has them, else one that is built now.

    Call it under `cache.locked`. Raises the errors of `pymachine.image.errors`.
    """
    recipe = Recipe(architecture=architecture)
    sources = Sources(choose(None), Cache(paths.cache(store) / "packages"))
    reporter.info(f"Packages come from {sources.mirrors.main} ({sources.mirrors.origin}).")
    packages = resolve(recipe, sources=sources, reporter=reporter)
    found = cache.intact(cache.newest(store, architecture, recipe=recipe.whole_digest()), reporter)
    if found and found.manifest["packages"] == [package_lock.to_json(package) for package in packages]:
        return found
    return cache.add(store, lambda folder: build(recipe, folder, sources=sources, reporter=reporter, packages=packages))


def build(
    recipe: Recipe, out: Path, *, sources: Sources, reporter: Reporter, packages: Sequence[Package] | None = None
) -> dict[str, Any]:
    """Build the image of `recipe` into the existing folder `out`, and return its manifest.

    `packages` come from a lock file; None selects the newest. Raises the errors of `pymachine.image.errors`.
    """
    chosen = list(packages) if packages is not None else resolve(recipe, sources=sources, reporter=reporter)
    files = fetch(recipe, chosen, sources=sources, reporter=reporter)
    with tempfile.TemporaryDirectory(prefix=".work-", dir=out) as work:
        with reporter.task("Unpacking packages", total=len(chosen)) as task:
            unpacked = unpack(recipe, chosen, files, Path(work), task.advance)
        with reporter.task("Assembling the image"):
            return write(recipe, chosen, rootfs.assemble(recipe, unpacked), out)


def resolve(recipe: Recipe, *, sources: Sources, reporter: Reporter) -> list[Package]:
    """Return the newest packages of the recipe and their dependencies, from verified indices."""
    repositories = [
        Repository(source, sources.url(source), cache=sources.cache, reporter=reporter) for source in recipe.sources
    ]
    with ThreadPoolExecutor(len(repositories)) as pool:
        found = pool.map(lambda repository: repository.indices(recipe.architecture), repositories)
        indices = [index for group in found for index in group]
    return closure(Universe(indices), recipe.roots, excluded=recipe.excluded)


def fetch(recipe: Recipe, packages: Sequence[Package], *, sources: Sources, reporter: Reporter) -> list[Path]:
    """Return the .deb file of each package, fetched unless it is in the cache."""
    urls = {source.name: sources.url(source) for source in recipe.sources}
    unknown = {package.source for package in packages} - set(urls)
    if unknown:
        raise RecipeError(f"the lock file names a source that the recipe does not have: {', '.join(sorted(unknown))}")
    items = [
        Item(f"{urls[package.source]}/{package.filename}", package.sha256, package.size, suffix=".deb")
        for package in packages
    ]
    return Downloader(sources.cache, reporter=reporter).fetch(items, title=f"Fetching {len(items)} packages")


@contextmanager
def _pool() -> Iterator[Executor]:
    """Return a pool of processes, or of one thread if the system has no semaphores.

    Semaphores are files in /dev/shm, which a user may not write in small containers and chroots.
    """
    # "spawn", since download threads may be running, and a fork would copy their locks.
    context = multiprocessing.get_context("spawn")
    try:
        context.Semaphore()
    except (OSError, ImportError) as error:
        log.info("no semaphores (%s): one process unpacks everything", error)
        with ThreadPoolExecutor(1) as one:
            yield one
        return
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 4), mp_context=context) as pool:
        yield pool


def unpack(
    recipe: Recipe,
    packages: Sequence[Package],
    files: Sequence[Path],
    work: Path,
    on_unpacked: Callable[[], None],
) -> list[list[tuple[str, Node]]]:
    """Return the files that each package installs. Several processes read them, the largest package first."""
    largest_first = sorted(range(len(packages)), key=lambda number: -packages[number].size)
    results: list[list[tuple[str, Node]]] = [[] for _ in packages]
    with _pool() as pool:
        jobs = {
            number: pool.submit(_unpack_one, files[number], packages[number], work / f"{number}.spool", recipe.left_out)
            for number in largest_first
        }
        for number, job in jobs.items():
            results[number] = job.result()
            on_unpacked()
    return results


def _unpack_one(path: Path, package: Package, spool: Path, left_out: tuple[str, ...]) -> list[tuple[str, Node]]:
    deb.check_digest(path, package.sha256)
    return deb.unpack(path, spool, partial(_is_included, left_out), installed_kib=package.installed_kib)


def _is_included(left_out: tuple[str, ...], path: str) -> bool:
    return not (path + "/").startswith(left_out)


def write(recipe: Recipe, packages: Sequence[Package], tree: Tree, out: Path) -> dict[str, Any]:
    """Finish the root file system in `tree` and write the image's files into `out`."""
    kernel = f"boot/vmlinuz-{modules.kernel_version(tree)}"
    vmlinuz = tree[kernel]
    manifest = describe(recipe, packages, kernel=modules.kernel_version(tree))
    kept_modules = modules.prune(tree, recipe.modules)
    tree.remove("boot")
    rootfs.overlay(tree, rootfs.OVERLAY, substitutions(manifest))
    if rootfs.MANIFEST.is_file():
        rootfs.apply_manifest(tree, rootfs.MANIFEST.read_text())
    ramdisk = initrd.build(tree, kept_modules, recipe, rootfs.INIT)
    archive = io.BytesIO()
    initrd.write_cpio(ramdisk, archive)
    tree.put(ISO_KERNEL, vmlinuz)
    tree.put(ISO_INITRD, Node.file(archive.getvalue()))
    kernel_packing.write(vmlinuz.contents(), archive.getvalue(), out, architecture=recipe.architecture)
    tree.put(ISO_MANIFEST, Node.file(to_bytes(manifest)))
    loaders = boot.install(tree, recipe.architecture, command_line=recipe.boot_command_line)
    iso.write(tree, out / ISO, volume=f"Boot2Docker-v{manifest['engine']}", loaders=loaders)
    return with_files(manifest, out)


def describe(recipe: Recipe, packages: Sequence[Package], *, kernel: str) -> dict[str, Any]:
    """Return the manifest without the digests of the image's files."""
    engine = next((package.version for package in packages if package.name == "docker.io"), "0")
    return {
        "format": MANIFEST_FORMAT,
        "architecture": recipe.architecture,
        "engine": upstream(engine),
        "kernel": kernel,
        "version": pymachine.__version__,
        "recipe": recipe.whole_digest(),
        "command_line": recipe.command_line,
        "packages": [package_lock.to_json(package) for package in packages],
    }


def upstream(version: str) -> str:
    """Return the upstream part of a Debian version: ``26.1.5`` of ``1:26.1.5+dfsg1-9``."""
    return version.rpartition(":")[2].partition("-")[0].partition("+")[0].partition("~")[0]


def substitutions(manifest: dict[str, Any]) -> dict[str, str]:
    """Return the values of ``@NAME@`` in the overlay's ``.in`` files."""
    return {
        "ENGINE_VERSION": manifest["engine"],
        "IMAGE_VERSION": manifest["version"],
        "KERNEL_VERSION": manifest["kernel"],
        "ARCHITECTURE": manifest["architecture"],
    }


def main() -> None:
    """Build an image into a folder, for developing the image: ``python -m pymachine.image.build --out DIR``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arch", default="amd64")
    parser.add_argument("--mirror")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cache = Cache(paths.cache(paths.default_root()) / "packages")
    manifest = build(
        Recipe(architecture=options.arch),
        options.out,
        sources=Sources(choose(options.mirror), cache),
        reporter=StreamReporter(sys.stderr),
    )
    sys.stdout.write(f"{manifest['digest']}\n")


if __name__ == "__main__":
    main()
