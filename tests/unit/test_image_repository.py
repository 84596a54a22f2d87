"""Signatures, indices, downloads and mirrors, against a repository that the tests sign and serve."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pysequoia import Tsk

from pymachine.image import build, package_lock
from pymachine.image.debian import mirror
from pymachine.image.debian.download import Cache, Downloader, Item
from pymachine.image.debian.repository import Repository as DebianRepository, verify_signature
from pymachine.image.debian.resolve import Package
from pymachine.image.errors import (
    DigestError,
    ExpiredError,
    MirrorError,
    RecipeError,
    ReleaseError,
    RollbackError,
    SignatureError,
)
from pymachine.image.recipe import ARCHIVE_KEYS, SECURITY_KEYS, Recipe
from pymachine.system.progress import Silent
from support.apt import Repository, Server, serving

DEB = "pool/tool_1.0_amd64.deb"


@pytest.fixture
def repository() -> Repository:
    made = Repository()
    made.add("tool", "1.0", {"usr/bin/tool": os.urandom(200_000)}, Depends="library (>= 1)")
    made.add("library", "1.2-1", {"usr/lib/library.so": b"library"})
    made.publish()
    return made


@pytest.fixture
def server(repository: Repository) -> Iterator[Server]:
    with serving(repository.files) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "packages")


@pytest.fixture
def sources(cache: Cache) -> build.Sources:
    return build.Sources(mirror.Mirrors("http://127.0.0.1:1", "http://127.0.0.1:1", "the test"), cache)


def make_recipe(repository: Repository, server: Server, tmp_path: Path) -> Recipe:
    # A kernel is a root of every recipe; here a package of that name stands for it.
    repository.add("linux-image-amd64", "6", {"boot/vmlinuz-6": b"kernel"})
    repository.publish()
    sources = (repository.source(tmp_path, server.url),)
    return Recipe(architecture="amd64", sources=sources, packages=("tool",), loaders={"amd64": ()})


def open_repository(repository: Repository, server: Server, cache: Cache, tmp_path: Path) -> DebianRepository:
    return DebianRepository(repository.source(tmp_path, server.url), server.url, cache=cache, reporter=Silent())


def test_packages_are_resolved_verified_and_downloaded_once(
    repository: Repository, server: Server, sources: build.Sources, tmp_path: Path
) -> None:
    wanted = make_recipe(repository, server, tmp_path)
    packages = build.resolve(wanted, sources=sources, reporter=Silent())
    assert [package.name for package in packages] == ["library", "linux-image-amd64", "tool"]
    files = build.fetch(wanted, packages, sources=sources, reporter=Silent())
    assert files[2].read_bytes() == repository.files[DEB]
    build.fetch(wanted, packages, sources=sources, reporter=Silent())
    assert server.asked[DEB] == 1


def test_a_release_signed_by_another_key_is_refused(
    repository: Repository, server: Server, cache: Cache, tmp_path: Path
) -> None:
    repository.publish(key=Tsk.generate("Somebody else"))
    with pytest.raises(SignatureError, match="not signed by a key"):
        open_repository(repository, server, cache, tmp_path).indices("amd64")


def test_a_release_changed_after_signing_is_refused(
    repository: Repository, server: Server, cache: Cache, tmp_path: Path
) -> None:
    path = "dists/test/InRelease"
    repository.files[path] = repository.files[path].replace(b"Suite: test", b"Suite: tost")
    with pytest.raises(SignatureError):
        open_repository(repository, server, cache, tmp_path).release()


def test_text_outside_the_signature_is_ignored(
    repository: Repository, server: Server, cache: Cache, tmp_path: Path
) -> None:
    path = "dists/test/InRelease"
    repository.files[path] = b"SHA256:\n 00 1 evil/Packages\n\n" + repository.files[path]
    try:
        release = open_repository(repository, server, cache, tmp_path).release()
    except SignatureError:
        return
    assert "evil/Packages" not in release.files


@pytest.mark.parametrize("text", [b"", b"<html>Log in to this hotel's network</html>"])
def test_a_file_that_is_not_a_release_is_refused(text: bytes) -> None:
    with pytest.raises(SignatureError):
        verify_signature(text, ARCHIVE_KEYS, name="debian")


def test_the_bundled_keys_are_debians() -> None:
    from pysequoia import Cert

    fingerprints = [Cert.from_file(str(path)).fingerprint for path in (*ARCHIVE_KEYS, *SECURITY_KEYS)]
    # https://ftp-master.debian.org/keys.html
    assert fingerprints == [
        "04b54c3cdca79751b16bc6b5225629df75b188bd",
        "41587f7db8c774bccf131416762f67a0b2c39de4",
        "5e04a1e3223a19a20706e20f9904613d4cce68c6",
    ]


def test_an_expired_release_is_refused(repository: Repository, server: Server, cache: Cache, tmp_path: Path) -> None:
    repository.publish(valid_for=timedelta(days=-1))
    with pytest.raises(ExpiredError, match="expired on") as caught:
        open_repository(repository, server, cache, tmp_path).release()
    assert "clock" in caught.value.hint
    repository.publish()
    with pytest.raises(ExpiredError):
        open_repository(repository, server, cache, tmp_path).release(now=datetime.now(UTC) + timedelta(days=8))


def test_an_index_that_was_changed_is_refused(
    repository: Repository, server: Server, cache: Cache, tmp_path: Path
) -> None:
    (path,) = [name for name in repository.files if "by-hash" in name]
    data = bytearray(repository.files[path])
    data[40] ^= 1
    repository.files[path] = bytes(data)
    with pytest.raises(DigestError, match="by-hash"):
        open_repository(repository, server, cache, tmp_path).indices("amd64")


@pytest.mark.parametrize("change", ["flip", "truncate", "grow"])
def test_a_package_that_was_changed_is_refused_and_named(
    repository: Repository, server: Server, sources: build.Sources, tmp_path: Path, change: str
) -> None:
    wanted = make_recipe(repository, server, tmp_path)
    packages = build.resolve(wanted, sources=sources, reporter=Silent())
    data = repository.files[DEB]
    repository.files[DEB] = {"flip": data[:-1] + b"?", "truncate": data[:1000], "grow": data + b"more"}[change]
    downloader = Downloader(sources.cache, reporter=Silent(), pause=0.01)
    items = [Item(f"{server.url}/{package.filename}", package.sha256, package.size) for package in packages]
    with pytest.raises((DigestError, MirrorError), match="tool_1.0_amd64.deb"):
        downloader.fetch(items, title="")
    assert not sources.cache.has(items[2])
    repository.files[DEB] = data
    assert downloader.fetch(items, title="")[2].read_bytes() == data


def test_a_connection_that_was_cut_is_resumed(repository: Repository, server: Server, cache: Cache) -> None:
    import hashlib

    data = repository.files[DEB]
    server.cut[DEB] = 150_000
    item = Item(f"{server.url}/{DEB}", hashlib.sha256(data).hexdigest(), len(data))
    (path,) = Downloader(cache, reporter=Silent(), pause=0.01).fetch([item], title="")
    assert path.read_bytes() == data
    assert server.asked[DEB] == 2
    assert len(server.ranges) == 1
    assert 0 < int(server.ranges[0].removeprefix("bytes=").rstrip("-")) <= 150_000


def test_a_download_of_a_killed_process_is_resumed(repository: Repository, server: Server, cache: Cache) -> None:
    import hashlib

    data = repository.files[DEB]
    item = Item(f"{server.url}/{DEB}", hashlib.sha256(data).hexdigest(), len(data))
    target = cache.path(item)
    target.parent.mkdir(parents=True)
    dead = 2**22 - 1  # beyond the pids that Linux gives by default
    target.with_name(f"{target.name}.{dead}.part").write_bytes(data[:1234])
    assert Downloader(cache, reporter=Silent()).fetch([item], title="")[0].read_bytes() == data
    assert server.ranges == ["bytes=1234-"]


def test_a_mirror_that_is_down_is_named_and_the_hint_offers_another(
    cache: Cache, repository: Repository, tmp_path: Path
) -> None:
    url = "http://127.0.0.1:9"
    with pytest.raises(MirrorError, match=url) as caught:
        DebianRepository(repository.source(tmp_path, url), url, cache=cache, reporter=Silent()).release()
    assert "--mirror" in caught.value.hint


def test_cached_indices_and_packages_suffice_when_the_mirror_is_down(
    repository: Repository, sources: build.Sources, tmp_path: Path
) -> None:
    with serving(repository.files) as server:
        wanted = make_recipe(repository, server, tmp_path)
        before = build.resolve(wanted, sources=sources, reporter=Silent())
        files = build.fetch(wanted, before, sources=sources, reporter=Silent())
    assert build.resolve(wanted, sources=sources, reporter=Silent()) == before
    assert build.fetch(wanted, before, sources=sources, reporter=Silent()) == files


def test_a_lock_file_names_packages_exactly(
    repository: Repository, server: Server, sources: build.Sources, tmp_path: Path
) -> None:
    wanted = make_recipe(repository, server, tmp_path)
    packages = build.resolve(wanted, sources=sources, reporter=Silent())
    path = tmp_path / "image.lock"
    package_lock.write(
        path, {"architecture": "amd64", "packages": [package_lock.to_json(package) for package in packages]}
    )
    repository.add("tool", "2.0", {"usr/bin/tool": b"new"})
    repository.publish()
    newest = build.resolve(wanted, sources=sources, reporter=Silent())
    assert [package.version for package in newest if package.name == "tool"] == ["2.0"]
    locked = package_lock.read(path, architecture="amd64")
    assert locked == packages
    assert [file.read_bytes() for file in build.fetch(wanted, locked, sources=sources, reporter=Silent())][2] == (
        repository.files[DEB]
    )


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"architecture": "amd64", "packages": [{"name": "x"}]}'])
def test_a_file_that_is_not_a_lock_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock"
    path.write_text(text)
    with pytest.raises(RecipeError, match="not a lock file"):
        package_lock.read(path, architecture="amd64")


def test_a_lock_file_of_another_architecture_is_refused(tmp_path: Path) -> None:
    package_lock.write(tmp_path / "lock", {"architecture": "arm64", "packages": []})
    with pytest.raises(RecipeError, match="for arm64, not for amd64"):
        package_lock.read(tmp_path / "lock", architecture="amd64")


def test_a_lock_file_cannot_add_a_source(sources: build.Sources) -> None:
    package = Package("x", "1", "all", "0" * 64, 1, "pool/x", "elsewhere")
    with pytest.raises(RecipeError, match="elsewhere"):
        build.fetch(Recipe(architecture="amd64"), [package], sources=sources, reporter=Silent())


def test_a_recipe_needs_a_known_architecture_and_its_digest_covers_the_packages() -> None:
    with pytest.raises(RecipeError, match="sparc"):
        Recipe(architecture="sparc")
    one = Recipe(architecture="amd64")
    assert one.digest() == Recipe(architecture="amd64").digest()
    assert one.digest() != replace(one, packages=(*one.packages, "nano")).digest()


def _release_date(moved: timedelta) -> str:
    return f"{datetime.now(UTC) + moved:%a, %d %b %Y %H:%M:%S UTC}"


def test_a_release_older_than_the_last_one_is_refused(
    repository: Repository, server: Server, cache: Cache, tmp_path: Path
) -> None:
    newer = open_repository(repository, server, cache, tmp_path).release()
    repository.publish(date=_release_date(timedelta(days=-1)))
    assert open_repository(repository, server, cache, tmp_path).release().date == newer.date
    for kept in (cache.directory / "releases").glob("*.InRelease"):
        kept.unlink()
    for _ in range(2):  # a refused one is not remembered
        with pytest.raises(RollbackError, match="older than one that was seen") as caught:
            open_repository(repository, server, cache, tmp_path).release()
    path = Path(caught.value.hint.rpartition("rm ")[2])
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    open_repository(repository, server, cache, tmp_path).release()


def test_another_mirror_may_have_an_older_release(
    repository: Repository, server: Server, cache: Cache, tmp_path: Path
) -> None:
    open_repository(repository, server, cache, tmp_path).release()
    repository.publish(date=_release_date(timedelta(days=-1)))
    with serving(repository.files) as other:
        open_repository(repository, other, cache, tmp_path).release()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"suite": "other"}, "of suite 'other', codename '', not of 'test'"),
        ({"date": _release_date(timedelta(hours=1))}, "made in the future"),
        ({"date": "tomorrow"}, "field Date is 'tomorrow'"),
        ({"more": " nonsense\n"}, "field SHA256 has the line 'nonsense'"),
        ({"more": " ../../x 12 main/x\n"}, "field SHA256 has the line"),
        ({"more": "Valid-Until: never\n"}, "field Valid-Until is 'never'"),
    ],
)
def test_a_signed_release_with_wrong_fields_is_refused(
    repository: Repository, server: Server, cache: Cache, tmp_path: Path, change: dict[str, str], text: str
) -> None:
    repository.publish(**change)  # type: ignore[arg-type]
    with pytest.raises(ReleaseError, match=text):
        open_repository(repository, server, cache, tmp_path).release()


def test_an_index_that_unpacks_beyond_the_limit_is_refused(
    repository: Repository, server: Server, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pymachine.image.debian.repository.MAX_INDEX_BYTES", 100)
    with pytest.raises(ReleaseError, match="more than 100 bytes"):
        open_repository(repository, server, cache, tmp_path).indices("amd64")
