"""Reading .deb files and resolving packages."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from pymachine.image.debian.deb import check_digest, unpack
from pymachine.image.debian.repository import Index
from pymachine.image.debian.resolve import Package, Relation, Universe, closure, compare, parse_relations
from pymachine.image.errors import DigestError, PackageError, ResolveError
from pymachine.image.filesystem.tree import Kind, Node, Tree
from pymachine.image.recipe import Source
from support.apt import Repository, deb

SOURCE = Source(name="test", url="http://localhost", suite="test", keyring=())


def make_universe(*packages: str) -> Universe:
    entries = [
        text.strip() + f"\nArchitecture: amd64\nFilename: ./pool/x\nSize: 1\nSHA256: {'0' * 64}\n" for text in packages
    ]
    return Universe([Index(SOURCE, SOURCE.url, "\n".join(entries).encode())])


def names(found: list[Package]) -> list[str]:
    return [package.name for package in found]


@pytest.mark.parametrize("kind", ["xz", "gz", "zst", ""])
def test_packages_of_each_compression_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(deb({"usr/bin/tool": b"#!" * 5000, "usr/share/x": b"", "usr/bin/other": "tool"}, kind=kind))
    found = dict(unpack(path, tmp_path / "spool", lambda _: True))
    assert found["usr/bin/tool"].mode == 0o755
    assert found["usr/bin/tool"].contents() == b"#!" * 5000
    assert found["usr/share/x"].contents() == b""
    assert found["usr/bin/other"].kind is Kind.LINK
    assert found["usr/bin/other"].target == "tool"


def test_a_package_that_unpacks_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(deb({"usr/bin/tool": bytes(70 << 20)}))
    with pytest.raises(PackageError, match=r"a\.deb: data\.tar\.xz: unpacks to more than 67112960 bytes"):
        unpack(path, tmp_path / "spool", lambda _: False, installed_kib=2)
    assert [name for name, _ in unpack(path, tmp_path / "spool", lambda _: True, installed_kib=70 << 10)]
    monkeypatch.setattr("pymachine.image.debian.deb.MAX_TAR_BYTES", 60 << 20)
    for installed_kib in (None, 70 << 10):
        with pytest.raises(PackageError, match="unpacks to more than 62914560 bytes"):
            unpack(path, tmp_path / "spool", lambda _: True, installed_kib=installed_kib)


def test_the_installed_size_is_read_from_the_index() -> None:
    found = make_universe(
        "Package: a\nVersion: 1\nInstalled-Size: 12",
        "Package: b\nVersion: 1",
        "Package: c\nVersion: 1\nInstalled-Size: x",
    )
    assert [found.named(name)[0].installed_kib for name in "abc"] == [12, None, None]


def test_setuid_bits_owners_and_hard_links_are_kept_as_data(tmp_path: Path) -> None:
    setuid = tarfile.TarInfo("./usr/bin/sudo")
    setuid.mode, setuid.uid, setuid.gid = 0o4755, 0, 42
    hard = tarfile.TarInfo("./usr/bin/sudoedit")
    hard.type, hard.linkname = tarfile.LNKTYPE, "./usr/bin/sudo"
    path = tmp_path / "a.deb"
    path.write_bytes(deb({"usr/bin/sudo": setuid, "usr/bin/sudoedit": hard}))
    found = dict(unpack(path, tmp_path / "spool", lambda _: True))
    assert (found["usr/bin/sudo"].mode, found["usr/bin/sudo"].gid) == (0o4755, 42)
    assert found["usr/bin/sudoedit"] is found["usr/bin/sudo"]


def test_unwanted_paths_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(deb({"usr/share/doc/a": b"long", "usr/bin/a": b"a"}))
    assert [name for name, _ in unpack(path, tmp_path / "spool", lambda name: "doc" not in name)] == ["usr/bin/a"]


@pytest.mark.parametrize("damage", [b"", b"not an archive", b"!<arch>\ngarbage" + b" " * 60])
def test_a_file_that_is_not_a_package_is_refused(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(damage)
    with pytest.raises(PackageError):
        unpack(path, tmp_path / "spool", lambda _: True)


@given(cut=st.integers(min_value=8, max_value=400))
def test_a_truncated_package_is_always_refused(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("deb")
    path = folder / "a.deb"
    data = deb({"usr/bin/a": bytes(range(256)) * 40})
    path.write_bytes(data[: min(cut, len(data) - 30)])
    with pytest.raises(PackageError):
        unpack(path, folder / "spool", lambda _: True)


def test_a_wrong_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(b"x")
    with pytest.raises(DigestError, match="a.deb"):
        check_digest(path, "0" * 64)


def test_package_relations_are_parsed() -> None:
    groups = parse_relations("libc6 (>= 2.38), adduser | passwd, perl:any, x (<< 1:2~rc1) [amd64]")
    assert groups[0] == (Relation("libc6", ">=", "2.38"),)
    assert [relation.name for relation in groups[1]] == ["adduser", "passwd"]
    assert groups[2] == (Relation("perl"),)
    assert groups[3] == (Relation("x", "<<", "1:2~rc1"),)


@pytest.mark.parametrize(
    ("older", "newer"), [("1.0", "1.1"), ("1.0~rc1", "1.0"), ("9.0", "1:1.0"), ("1.0-1", "1.0-1+b1"), ("1.9", "1.10")]
)
def test_versions_are_ordered_as_debian_does(older: str, newer: str) -> None:
    assert compare(older, newer) < 0 < compare(newer, older)


def test_the_closure_follows_depends_and_pre_depends() -> None:
    found = closure(
        make_universe(
            "Package: a\nVersion: 1\nDepends: b",
            "Package: b\nVersion: 1\nPre-Depends: c (>= 2)",
            "Package: c\nVersion: 2",
            "Package: unrelated\nVersion: 1",
        ),
        ["a"],
    )
    assert names(found) == ["a", "b", "c"]


def test_the_newest_version_of_all_sources_is_taken() -> None:
    old = Index(
        SOURCE, "", f"Package: a\nVersion: 1\nArchitecture: all\nFilename: x\nSize: 1\nSHA256: {'0' * 64}\n".encode()
    )
    new = Index(SOURCE, "", old.data.replace(b"Version: 1", b"Version: 1+deb13u1"))
    assert closure(Universe([new, old]), ["a"])[0].version == "1+deb13u1"


def test_the_first_alternative_that_is_available_or_already_chosen_is_taken() -> None:
    packages = make_universe(
        "Package: a\nVersion: 1\nDepends: missing | b | c",
        "Package: b\nVersion: 1",
        "Package: c\nVersion: 1",
    )
    assert names(closure(packages, ["a"])) == ["a", "b"]
    assert names(closure(packages, ["c", "a"])) == ["a", "c"]


def test_versioned_provides_satisfy_versioned_dependencies() -> None:
    packages = make_universe(
        "Package: a\nVersion: 1\nDepends: virtual (>= 2)",
        "Package: unversioned\nVersion: 9\nProvides: virtual",
        "Package: versioned\nVersion: 1\nProvides: virtual (= 3)",
    )
    assert names(closure(packages, ["a"])) == ["a", "versioned"]


def test_dependency_cycles_end_and_excluded_packages_count_as_installed() -> None:
    packages = make_universe(
        "Package: a\nVersion: 1\nDepends: b, perl:any",
        "Package: b\nVersion: 1\nDepends: a (= 1), debconf | debconf-2.0",
    )
    assert names(closure(packages, ["a"], excluded=["perl", "debconf"])) == ["a", "b"]


def test_a_missing_dependency_is_named_with_the_package_that_needs_it() -> None:
    with pytest.raises(ResolveError, match=r"gone \(>= 3\), which a needs"):
        closure(make_universe("Package: a\nVersion: 1\nDepends: gone (>= 3)", "Package: gone\nVersion: 2"), ["a"])


def test_a_damaged_index_entry_is_a_resolve_error() -> None:
    index = Index(SOURCE, SOURCE.url, b"Package: a\nVersion: 1\n")
    with pytest.raises(ResolveError, match="damaged entry of a"):
        closure(Universe([index]), ["a"])


def test_paths_below_a_linked_folder_go_into_usr() -> None:
    tree = Tree()
    tree.put("lib", Node.link("usr/lib"))
    tree.put("lib/x.so", Node.file(b"x"))
    tree.put("lib", Node.directory())
    assert [path for path, _ in tree.walk()] == ["lib", "usr", "usr/lib", "usr/lib/x.so"]
    assert tree["lib"].kind is Kind.LINK


def test_the_test_repository_publishes_an_inrelease_file(tmp_path: Path) -> None:
    repository = Repository()
    repository.add("a", "1", {"usr/bin/a": b"a"})
    repository.publish()
    assert "dists/test/InRelease" in repository.files
