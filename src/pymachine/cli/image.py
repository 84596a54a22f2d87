"""`image`: build, list, verify, export and remove the guest images on this host."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from pymachine.cli.context import App, json_option, pass_app
from pymachine.cli.tables import table
from pymachine.image import cache, package_lock
from pymachine.image.recipe import ARCHITECTURES
from pymachine.system import printable
from pymachine.system.progress import human

GIVEN_IMAGE = click.argument("image", metavar="IMAGE")


@click.group(name="image", short_help="Build, list, verify and remove guest images")
def command() -> None:
    """Build, list, verify and remove guest images."""


@command.command(name="build")
@click.option("--arch", type=click.Choice(ARCHITECTURES), help="Architecture of the guest (default: the host's)")
@click.option("--mirror", metavar="URL", help="Debian mirror to download packages from [$PYMACHINE_MIRROR]")
@click.option("--lock", "lock_file", type=click.Path(path_type=Path), help="Use exactly the packages in this file")
@click.option("--write-lock", type=click.Path(path_type=Path), help="Write the list of packages used to this file")
@json_option
@pass_app
def build(app: App, *, arch: str | None, mirror: str | None, lock_file: Path | None, write_lock: Path | None) -> None:
    """Build an image from the newest packages, or from those of a lock file."""
    from pymachine.hosts.trusted_cas import trust_in_downloads  # noqa: PLC0415
    from pymachine.image.build import build_into_cache  # noqa: PLC0415 (only this command builds)

    trust_in_downloads(app.store_root)
    architecture = arch or cache.host_architecture()
    with cache.locked(app.store_root, architecture):
        image = build_into_cache(
            architecture, store=app.store_root, reporter=app.reporter, mirror_url=mirror, lock_file=lock_file
        )
    if write_lock:
        package_lock.write(write_lock, image.manifest)
    app.show(image.name, _summary(image))


@command.command(name="ls")
@json_option
@pass_app
def list_(app: App) -> None:
    """List images."""
    images = cache.list_images(app.store_root)
    rows = [("NAME", "ENGINE", "KERNEL", "SIZE", "BUILT")]
    rows += [
        (
            image.name,
            str(image.manifest["engine"]),
            str(image.manifest["kernel"]),
            human(_size(image), "B"),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(image.built)),
        )
        for image in images
    ]
    app.show(table(rows), [_summary(image) for image in images])


def _size(image: cache.Image) -> int:
    return sum(int(entry["size"]) for entry in image.manifest["files"].values())


def _summary(image: cache.Image) -> dict[str, Any]:
    without_packages = {key: value for key, value in image.manifest.items() if key != "packages"}
    return {"name": image.name, "path": str(image.directory), **without_packages}


@command.command(name="show")
@GIVEN_IMAGE
@json_option
@pass_app
def show(app: App, *, image: str) -> None:
    """Show details of an image, and each package with its version and digest."""
    found = cache.find(app.store_root, image)
    packages = found.manifest["packages"]
    lines = [f"{key + ':':14}{found.manifest[key]}" for key in ("architecture", "engine", "kernel", "recipe", "digest")]
    lines.append(f"{'path:':14}{found.directory}")
    lines += [f"  {package['name']} {package['version']} {package['sha256']}" for package in packages]
    app.show("\n".join(map(printable.line, lines)), {**_summary(found), "packages": packages})


@command.command(name="verify")
@click.argument("images", metavar="[IMAGE...]", nargs=-1)
@json_option
@pass_app
def verify(app: App, *, images: tuple[str, ...]) -> None:
    """Check the files of images against their manifests (default: all images)."""
    named = [cache.find(app.store_root, name) for name in images]
    good = []
    for image in named or cache.list_images(app.store_root):
        cache.verify(image)
        good.append(image.name)
    app.show("\n".join(f"{name}: OK" for name in good), [{"name": name, "ok": True} for name in good])


@command.command(name="rm")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@json_option
@pass_app
def remove(app: App, *, images: tuple[str, ...]) -> None:
    """Remove images. Existing machines keep their own copy."""
    found = [cache.find(app.store_root, name) for name in images]
    for image in found:
        cache.remove(image)
    app.show(
        "\n".join(f"Removed {image.name}" for image in found),
        [{"name": image.name, "removed": True} for image in found],
    )


@command.command(name="export")
@GIVEN_IMAGE
@click.argument("target", type=click.Path(path_type=Path))
@json_option
@pass_app
def export(app: App, *, image: str, target: Path) -> None:
    """Copy an image's ISO to TARGET, a file or a folder.

    Use it with the driver's image option of `create`.
    """
    path = cache.export(cache.find(app.store_root, image), target)
    app.show(str(path), {"name": image, "path": str(path)})
