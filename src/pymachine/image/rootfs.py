"""The guest's root file system: the packages, the effects of their scripts, and the overlay of ``rootfs/root``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pymachine.image.errors import RecipeError
from pymachine.image.filesystem.tree import Node, Tree
from pymachine.image.recipe import ROOTFS, Recipe

OVERLAY = ROOTFS / "root"
MANIFEST = ROOTFS / "root.manifest"
INIT = ROOTFS / "initrd" / "init"
TEMPLATE = ".in"
CERTIFICATES = "usr/share/ca-certificates"
BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def assemble(recipe: Recipe, packages: Iterable[list[tuple[str, Node]]]) -> Tree:
    """Combine the packages, and create the links that their scripts would have created."""
    tree = Tree()
    for name, target in recipe.links.items():
        tree.put(name, Node.link(target))
    for package in packages:
        for path, node in package:
            tree.put(path, node)
    tree.put(BUNDLE, Node.file(_bundle(tree)))
    return tree


def _bundle(tree: Tree) -> bytes:
    """Return all certificates in one file, as update-ca-certificates(8) writes it."""
    return b"".join(
        node.contents().rstrip() + b"\n" for path, node in tree.below(CERTIFICATES) if path.endswith(".crt")
    )


def overlay(tree: Tree, folder: Path, substitutions: Mapping[str, str]) -> None:
    """Copy the files below `folder` into `tree`, owned by root, with mode 0755 if they are executable, else 0644.

    In a file whose name ends in ``.in``, ``@NAME@`` is replaced for each of `substitutions`, and the suffix dropped.
    """
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.name == ".gitignore":
            continue  # directories are created as needed, and the manifest lists the empty ones
        data = path.read_bytes()
        if name.endswith(TEMPLATE):
            name = name.removesuffix(TEMPLATE)
            data = substitute(data.decode(), substitutions).encode()
        tree.put(name, Node.file(data, mode=0o755 if path.stat().st_mode & 0o100 else 0o644))


def substitute(text: str, substitutions: Mapping[str, str]) -> str:
    """Return `text` with each ``@NAME@`` replaced."""
    for name, value in substitutions.items():
        text = text.replace(f"@{name}@", value)
    return text


def apply_manifest(tree: Tree, text: str) -> None:
    """Apply the lines of ``root.manifest``, which describes their syntax. Raises `RecipeError` for an invalid line."""
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            _apply(tree, words)
        except (ValueError, KeyError) as error:
            raise RecipeError(f"root.manifest, line {number}: {line}", details=f"{error}") from error


def _apply(tree: Tree, words: list[str]) -> None:
    match words:
        case ["link", target, path]:
            tree.put(path.strip("/"), Node.link(target))
        case ["dir", mode, uid, gid, path]:
            _set(tree, path, Node.directory(), mode, uid, gid)
        case ["file", mode, uid, gid, path]:
            _set(tree, path, Node.file(b""), mode, uid, gid)
        case ["remove", path]:
            tree.remove(path.strip("/"))
        case [mode, uid, gid, path]:
            tree.change(path.strip("/"), mode=int(mode, 8), uid=int(uid), gid=int(gid))
        case _:
            raise ValueError("unknown syntax")


def _set(tree: Tree, path: str, node: Node, mode: str, uid: str, gid: str) -> None:
    name = path.strip("/")
    if name not in tree:
        tree.put(name, node)
    tree.change(name, mode=int(mode, 8), uid=int(uid), gid=int(gid))
