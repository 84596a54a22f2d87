"""Select kernel modules, and write modprobe's tables from the modules' ``.modinfo``.

This does the work of depmod(8), which the host may not have.
"""

from __future__ import annotations

import lzma
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate

from pymachine.image.errors import PackageError, RecipeError
from pymachine.image.filesystem.tree import Node, Tree
from pymachine.image.kernel import kmod_index

ROOT = "usr/lib/modules"
COMPRESSED = ".ko.xz"
SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")


@dataclass(frozen=True)
class Module:
    """One module: its uncompressed path below the version's folder, its contents and its modinfo."""

    path: str
    data: bytes
    info: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """The kernel's name for it."""
        return module_name(self.path)

    def values(self, key: str) -> list[str]:
        """Return all values of one modinfo key."""
        return [value for name, value in self.info if name == key]

    @property
    def depends(self) -> list[str]:
        """The names of the modules whose symbols it uses."""
        return [normalize_name(name) for text in self.values("depends") for name in text.split(",") if name]

    @property
    def softdeps(self) -> list[str]:
        """The names of the modules that should be loaded before or after it."""
        words = [word for text in self.values("softdep") for word in text.split()]
        return [normalize_name(word) for word in words if word not in {"pre:", "post:"}]


def normalize_name(name: str) -> str:
    """Return a module's name with underscores, as the kernel writes it."""
    return name.replace("-", "_")


def module_name(path: str) -> str:
    """Return the kernel's name for the module in the file at `path`."""
    return normalize_name(path.rpartition("/")[2].partition(".ko")[0])


def modinfo(data: bytes) -> tuple[tuple[str, str], ...]:
    """Return the keys and values in the ``.modinfo`` section of a 64-bit little-endian ELF object."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise PackageError("a kernel module is not a 64-bit little-endian ELF object")
    try:
        section = _section(data, b".modinfo")
    except (struct.error, IndexError) as error:
        raise PackageError(f"a kernel module's section table is damaged: {error}") from error
    pairs = (entry.decode("utf-8", "replace").partition("=") for entry in section.split(b"\0") if entry)
    return tuple((key, value) for key, _, value in pairs)


def _section(data: bytes, name: bytes) -> bytes:
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, strings = struct.unpack_from("<HHH", data, 0x3A)
    headers = [SECTION_HEADER.unpack_from(data, table + number * size) for number in range(count)]
    names = headers[strings][4]
    for header in headers:
        begin = names + header[0]
        if data[begin : data.index(b"\0", begin)] == name:
            return data[header[4] : header[4] + header[5]]
    return b""


def expand_braces(pattern: str) -> Iterator[str]:
    """Expand the braces in `pattern`, as a shell does."""
    before, brace, rest = pattern.partition("{")
    if not brace:
        yield pattern
        return
    words, _, after = rest.partition("}")
    for word in words.split(","):
        yield from expand_braces(before + word + after)


def select(paths: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return those of `paths` (below ``kernel/``) that match a pattern, in order."""
    # One expression for all patterns: matching thousands of modules with hundreds of patterns would take a second.
    matches = re.compile("|".join(translate(single) for pattern in patterns for single in expand_braces(pattern))).match
    return sorted(path for path in paths if matches(_stem(path)))


def _stem(path: str) -> str:
    return path.removeprefix("kernel/").partition(".ko")[0]


def kernel_version(tree: Tree) -> str:
    """Return the kernel's version. Raises `RecipeError` unless there is exactly one kernel."""
    versions = sorted({path.split("/")[3] for path, _ in tree.below(ROOT) if path.count("/") >= 3})
    if len(versions) != 1:
        raise RecipeError(f"an image has one kernel, not {len(versions)}: {', '.join(versions)}")
    return versions[0]


def prune(tree: Tree, patterns: Sequence[str]) -> dict[str, Module]:
    """Keep only matching modules and their dependencies in `tree`, uncompressed, and add modprobe's tables."""
    base = f"{ROOT}/{kernel_version(tree)}"
    found = {path.removeprefix(base + "/"): node for path, node in tree.below(f"{base}/kernel") if ".ko" in path}
    kept = load(found, select(found, patterns))
    for leftover in ("kernel", "build", "source"):
        tree.remove(f"{base}/{leftover}")
    for module in kept.values():
        tree.put(f"{base}/{module.path}", Node.file(module.data))
    listing, info = (tree.get(f"{base}/modules.builtin{suffix}") for suffix in ("", ".modinfo"))
    builtin = read_builtin(listing.contents() if listing else b"", info.contents() if info else b"")
    for name, data in modprobe_tables(kept, builtin).items():
        tree.put(f"{base}/{name}", Node.file(data))
    return kept


def load(found: Mapping[str, Node], wanted: Iterable[str]) -> dict[str, Module]:
    """Return the `wanted` modules and their dependencies by name, ordered by path."""
    by_name = {module_name(path): path for path in found}
    queue = list(wanted)
    loaded: dict[str, Module] = {}
    while queue:
        path = queue.pop()
        if module_name(path) in loaded:
            continue
        module = _load(path, found[path])
        loaded[module.name] = module
        queue.extend(by_name[name] for name in [*module.depends, *module.softdeps] if name in by_name)
    return {module.name: module for module in sorted(loaded.values(), key=lambda module: module.path)}


def _load(path: str, node: Node) -> Module:
    data = node.contents()
    if path.endswith(COMPRESSED):
        try:
            data = lzma.decompress(data)
        except lzma.LZMAError as error:
            raise PackageError(f"{path}: damaged: {error}") from error
    return Module(path.partition(".ko")[0] + ".ko", data, modinfo(data))


def in_load_order(modules: Mapping[str, Module], names: Iterable[str]) -> list[Module]:
    """Return the modules of these names and their dependencies, each module after its own dependencies.

    Unknown names are skipped: they are built into the kernel, or missing on this architecture.
    """
    ordered: dict[str, Module] = {}

    def visit(name: str) -> None:
        module = modules.get(normalize_name(name))
        if module is None or module.name in ordered:
            return
        for dependency in module.depends:
            visit(dependency)
        ordered[module.name] = module

    for name in names:
        visit(name)
    return list(ordered.values())


def modprobe_tables(modules: Mapping[str, Module], builtin: Builtin) -> dict[str, bytes]:
    """Return modprobe's tables by file name: as text, and as the indices that kmod reads."""
    needs = {module.name: _dep_line(modules, module) for module in modules.values()}
    aliases = [(value, module.name) for module in modules.values() for value in module.values("alias")]
    softdeps = (f"softdep {module.name} {value}" for module in modules.values() for value in module.values("softdep"))
    return {
        "modules.dep": _text(needs.values()),
        "modules.dep.bin": kmod_index.build(needs.items()),
        "modules.alias": _text(f"alias {alias} {name}" for alias, name in aliases),
        "modules.alias.bin": kmod_index.build((kmod_index.normalize_alias(alias), name) for alias, name in aliases),
        "modules.softdep": _text(softdeps),
        "modules.symbols.bin": kmod_index.build(()),  # only used for names that begin with "symbol:"
        "modules.builtin.bin": kmod_index.build((name, "") for name in builtin.names),
        "modules.builtin.alias.bin": kmod_index.build(
            (kmod_index.normalize_alias(alias), name) for alias, name in builtin.aliases
        ),
    }


def _dep_line(modules: Mapping[str, Module], module: Module) -> str:
    # depmod's order has the nearest dependency first. modprobe inserts modules from the end.
    needed = [other.path for other in reversed(in_load_order(modules, [module.name])) if other is not module]
    return f"{module.path}:{''.join(' ' + path for path in needed)}"


def _text(lines: Iterable[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


@dataclass(frozen=True)
class Builtin:
    """The modules built into the kernel: their names, and (alias, name) pairs."""

    names: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...]


def read_builtin(listing: bytes, info: bytes) -> Builtin:
    """Parse the kernel package's modules.builtin (paths) and modules.builtin.modinfo (``name.key=value``)."""
    pairs = (entry.decode("utf-8", "replace").partition("=") for entry in info.split(b"\0"))
    aliases = tuple(
        (value, name) for left, _, value in pairs for name, _, key in [left.partition(".")] if key == "alias"
    )
    return Builtin(tuple(module_name(path) for path in listing.decode().split()), aliases)
