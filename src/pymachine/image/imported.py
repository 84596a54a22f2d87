"""Import images that were exported elsewhere: an ISO by path or URL."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

from pymachine.image import cache
from pymachine.image.debian.download import session
from pymachine.image.errors import ImageError, MirrorError
from pymachine.image.kernel import kernel_packing
from pymachine.image.layout import ISO, ISO_INITRD, ISO_KERNEL, ISO_MANIFEST, with_files
from pymachine.system import os_errors
from pymachine.system.folder_collection import DIGITS
from pymachine.system.progress import Reporter

# An image has about 200 MB.
MAX_IMAGE_BYTES = 4 << 30
_CHECK_URL = "Check the image's URL."


def import_image(source: str, *, store: Path, reporter: Reporter, refetch: bool = False) -> cache.Image:
    """Return the image in the ISO at `source`, a path or an http, https or file URL. It is kept in the cache.

    With `refetch`, a URL is fetched even if its image is in the cache.
    Raises `ImageError` if the ISO cannot be read, or was not written by `pymachine image export`.
    """
    key = "source-" + hashlib.sha256(source.encode()).hexdigest()[:DIGITS]
    with cache.locked(store, key):
        if source.startswith(("http://", "https://")):
            return _from_url(source, store=store, reporter=reporter, refetch=refetch)
        path = Path(source.removeprefix("file://")).expanduser()
        known = cache.intact(_known(path, store), reporter)
        return known or cache.add(store, lambda folder: _unpack_iso(path, folder))


def _known(path: Path, store: Path) -> cache.Image | None:
    """Return the image in the cache with the same bytes as the file at `path`, or None."""
    try:
        size = path.stat().st_size
        candidates = [image for image in cache.list_images(store) if image.manifest["files"][ISO]["size"] == size]
        if not candidates:
            return None
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise os_errors.wrapped(ImageError, f"{path}: cannot be read", error) from error
    return next((image for image in candidates if image.digest == digest), None)


def _from_url(url: str, *, store: Path, reporter: Reporter, refetch: bool) -> cache.Image:
    known = next((image for image in cache.list_images(store) if image.manifest.get("source") == url), None)
    if not refetch and (known := cache.intact(known, reporter)):
        return known

    def fill(folder: Path) -> dict[str, Any]:
        _fetch(url, folder / "fetched", reporter)
        return _unpack_iso(folder / "fetched", folder, source=url)

    return cache.add(store, fill)


def _fetch(url: str, target: Path, reporter: Reporter) -> None:
    from pymachine.system.http_client import FetchError  # noqa: PLC0415

    try:
        with session() as http, http.get(url, largest=MAX_IMAGE_BYTES) as answer:
            if answer.status != 200:
                raise MirrorError(f"{url}: the server answered {answer.status}", hint=_CHECK_URL)
            if (answer.length or 0) > MAX_IMAGE_BYTES:
                raise MirrorError(
                    f"{url}: it has {answer.length} bytes, and an image has at most {MAX_IMAGE_BYTES}", hint=_CHECK_URL
                )
            with (
                reporter.task(f"Fetching {url}", total=answer.length, unit="B") as task,
                target.open("wb") as file,
            ):
                for chunk in answer.chunks():
                    file.write(chunk)
                    task.advance(len(chunk))
    except FetchError as error:
        raise MirrorError(f"{url}: cannot be fetched", details=str(error), hint=_CHECK_URL) from error


def _unpack_iso(path: Path, folder: Path, *, source: str = "") -> dict[str, Any]:
    """Put the ISO at `path`, and the kernel and RAM disk in it, into `folder`."""
    manifest = read_manifest(path)
    kernel, ramdisk = (_extract(path, inside) for inside in (ISO_KERNEL, ISO_INITRD))
    kernel_packing.write(kernel, ramdisk, folder, architecture=manifest["architecture"])
    if path.parent == folder:
        path.rename(folder / ISO)
    else:
        part = folder / f"{os.getpid()}.part"
        shutil.copyfile(path, part)
        part.rename(folder / ISO)
    return with_files({**manifest, **({"source": source} if source else {})}, folder)


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest in the ISO at `path`. Raises `ImageError` if it is not pymachine's image."""
    try:
        manifest = json.loads(_extract(path, ISO_MANIFEST))
    except (ValueError, RecursionError) as error:
        raise _not_an_image(path, str(error)) from error
    if not isinstance(manifest, dict) or not manifest.get("architecture"):
        raise _not_an_image(path, "its manifest names no architecture")
    return manifest


def _extract(path: Path, inside: str) -> bytes:
    from pycdlib import PyCdlib  # noqa: PLC0415
    from pycdlib.pycdlibexception import PyCdlibException  # noqa: PLC0415

    iso, data = PyCdlib(), io.BytesIO()
    try:
        iso.open(str(path))
    except OSError as error:
        raise os_errors.wrapped(ImageError, f"{path}: cannot be read", error) from error
    except (PyCdlibException, struct.error, IndexError, ValueError) as error:
        raise _not_an_image(path, str(error)) from error
    try:
        iso.get_file_from_iso_fp(data, rr_path="/" + inside)
    except (PyCdlibException, struct.error, IndexError, ValueError) as error:
        raise _not_an_image(path, str(error)) from error
    finally:
        iso.close()
    return data.getvalue()


def _not_an_image(path: Path, details: str) -> ImageError:
    return ImageError(
        f"{path} is not an image of pymachine",
        details=details,
        hint="Name an ISO that `pymachine image export` wrote, or omit the option.",
    )
