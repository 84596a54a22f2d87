"""The initial RAM disk: a cpio archive in the "newc" format (Linux: driver-api/early-userspace/buffer-format)."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from pymachine.image.errors import RecipeError
from pymachine.image.filesystem.tree import Kind, Node, Tree
from pymachine.image.kernel.modules import Module, in_load_order
from pymachine.image.recipe import Recipe

TYPES = {Kind.FILE: stat.S_IFREG, Kind.DIRECTORY: stat.S_IFDIR, Kind.LINK: stat.S_IFLNK}
FOLDERS = ("dev", "proc", "sys")
BUSYBOX = "usr/bin/busybox"
MODULES = "usr/lib/modules"


def build(root: Tree, modules: Mapping[str, Module], recipe: Recipe, init: Path) -> Tree:
    """Return the tree of the RAM disk: static busybox, `init`, and the modules that find and mount the ISO.

    Modules are in ``/usr/lib/modules``. The file ``load`` there lists the modules that are always needed, and
    ``load.more`` those for other disks, both in load order.
    """
    busybox = root.get(BUSYBOX)
    if busybox is None:
        raise RecipeError("the image has no busybox: the package busybox-static is missing from the recipe")
    tree = Tree()
    for folder in FOLDERS:
        tree.put(folder, Node.directory())
    tree.put(BUSYBOX, busybox)
    tree.put("init", Node.file(init.read_bytes(), mode=0o755))
    always = in_load_order(modules, recipe.initrd_modules)
    more = [module for module in in_load_order(modules, recipe.initrd_more_modules) if module not in always]
    for name, group in (("load", always), ("load.more", more)):
        for module in group:
            tree.put(f"{MODULES}/{module.name}.ko", Node.file(module.data))
        text = "".join(f"{module.name}.ko\n" for module in group)
        tree.put(f"{MODULES}/{name}", Node.file(text.encode()))
    return tree


def write_cpio(tree: Tree, out: BinaryIO) -> None:
    """Write `tree` as a newc archive, in order and without times."""
    for number, (path, node) in enumerate(tree.walk(), start=1):
        _entry(out, number, path, TYPES[node.kind] | node.mode, node)
    _entry(out, 0, "TRAILER!!!", 0, Node.file(b""))


def _entry(out: BinaryIO, number: int, path: str, mode: int, node: Node) -> None:
    data = node.target.encode() if node.kind is Kind.LINK else node.contents()
    name = path.encode() + b"\0"
    links = 2 if node.kind is Kind.DIRECTORY else 1
    fields = (number, mode, node.uid, node.gid, links, 0, len(data), 0, 0, 0, 0, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % value for value in fields)
    out.write(_padded(header + name))
    out.write(_padded(data))


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
