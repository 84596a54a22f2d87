"""Resolve packages and their dependencies, by Depends and Pre-Depends.

python-debian would parse the whole of Debian's Packages (56 MB). One regular expression finds the names instead, and
only the paragraphs that are needed are parsed.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from pymachine.image.debian.repository import Index
from pymachine.image.errors import ResolveError

if TYPE_CHECKING:
    from debian.debian_support import Version

NAMES = re.compile(rb"^(Package|Provides): (.*)$", re.MULTILINE)
# python-debian's PkgRelation only logs a warning for a relation that it cannot parse.
RELATION = re.compile(r"^(?P<name>[^\s:(\[]+)(?::\S+)?\s*(?:\((?P<op><<|<=|=|>=|>>)\s*(?P<version>[^)]+)\))?")


@dataclass(frozen=True)
class Relation:
    """One alternative of a dependency: a name, and optionally a bound on the version."""

    name: str
    operator: str = ""
    version: str = ""

    def accepts(self, version: str) -> bool:
        """Whether `version` is within the bound."""
        if not self.operator:
            return True
        order = compare(version, self.version)
        match self.operator:
            case "<<":
                return order < 0
            case "<=":
                return order <= 0
            case "=":
                return order == 0
            case ">=":
                return order >= 0
            case _:
                return order > 0

    def __str__(self) -> str:
        return f"{self.name} ({self.operator} {self.version})" if self.operator else self.name


@dataclass(frozen=True)
class Package:
    """One paragraph of a Packages file."""

    name: str
    version: str
    architecture: str
    sha256: str
    size: int
    filename: str
    """The path on the mirror, relative to the source's URL."""
    source: str
    """The name of its source in the recipe."""
    depends: tuple[tuple[Relation, ...], ...] = field(default=(), compare=False)
    provides: tuple[Relation, ...] = field(default=(), compare=False)
    installed_kib: int | None = field(default=None, compare=False)
    """The installed size of its files, as its maintainer estimated it."""


def compare(left: str, right: str) -> int:
    """Compare two Debian versions: negative, zero or positive."""
    first, second = _version(left), _version(right)
    return (first > second) - (first < second)


def _version(text: str) -> Version:
    from debian.debian_support import Version  # noqa: PLC0415 (slow to import)

    return Version(text)


def parse_relations(text: str) -> tuple[tuple[Relation, ...], ...]:
    """Parse a Depends field into groups. Each group needs one of its alternatives."""
    groups = [group for group in text.split(",") if group.strip()]
    return tuple(tuple(_relation(alternative) for alternative in group.split("|")) for group in groups)


def _relation(text: str) -> Relation:
    match = RELATION.match(text.strip())
    if match is None:
        raise ResolveError(f"not a relation between packages: {text.strip()}")
    return Relation(match["name"], match["op"] or "", (match["version"] or "").strip())


class Universe:
    """All packages of all indices, found by name and parsed on demand."""

    def __init__(self, indices: Sequence[Index]) -> None:
        self._indices = indices
        self._packages: dict[tuple[int, int], Package] = {}

    @cached_property
    def _positions(self) -> tuple[dict[str, list[tuple[int, int]]], dict[str, list[tuple[int, int]]]]:
        """The positions of real and of provided names: (index, offset of the paragraph's Package line)."""
        real: dict[str, list[tuple[int, int]]] = {}
        virtual: dict[str, list[tuple[int, int]]] = {}
        for number, index in enumerate(self._indices):
            position = (number, 0)
            for match in NAMES.finditer(index.data):
                if match[1] == b"Package":
                    position = (number, match.start())
                    real.setdefault(match[2].decode(), []).append(position)
                else:
                    for name in match[2].decode().split(","):
                        virtual.setdefault(name.split()[0], []).append(position)
        return real, virtual

    def named(self, name: str) -> list[Package]:
        """Return the packages of this name, the newest version first."""
        found = [self._read(position) for position in self._positions[0].get(name, ())]
        return sorted(found, key=lambda package: _version(package.version), reverse=True)

    def satisfying(self, relation: Relation) -> list[Package]:
        """Return the packages that satisfy `relation`: first by their name, then by the names that they provide."""
        real = [package for package in self.named(relation.name) if relation.accepts(package.version)]
        provided = [self._read(position) for position in self._positions[1].get(relation.name, ())]
        newest = {package.name: package for package in provided if self._newest(package)}
        return real + [newest[name] for name in sorted(newest) if provides(newest[name], relation)]

    def _newest(self, package: Package) -> bool:
        return self.named(package.name)[0].version == package.version

    def _read(self, position: tuple[int, int]) -> Package:
        if position not in self._packages:
            self._packages[position] = self._parse(position)
        return self._packages[position]

    def _parse(self, position: tuple[int, int]) -> Package:
        from debian.deb822 import Deb822  # noqa: PLC0415 (slow to import)

        number, offset = position
        index = self._indices[number]
        # The usual tools write Package as a paragraph's first field, but the format does not require it.
        begin = index.data.rfind(b"\n\n", 0, offset) + 2 if index.data.rfind(b"\n\n", 0, offset) >= 0 else 0
        end = index.data.find(b"\n\n", offset)
        fields = Deb822(index.data[begin : end if end >= 0 else None].decode())
        installed = fields.get("Installed-Size", "")
        try:
            return Package(
                name=fields["Package"],
                version=fields["Version"],
                architecture=fields["Architecture"],
                sha256=fields["SHA256"].lower(),
                size=int(fields["Size"]),
                filename=fields["Filename"].removeprefix("./"),
                source=index.source.name,
                depends=parse_relations(fields.get("Pre-Depends", "")) + parse_relations(fields.get("Depends", "")),
                provides=tuple(alternatives[0] for alternatives in parse_relations(fields.get("Provides", ""))),
                installed_kib=int(installed) if re.fullmatch(r"[0-9]{1,12}", installed) else None,
            )
        except (KeyError, ValueError) as error:
            raise ResolveError(f"{index.url}: damaged entry of {fields.get('Package', '?')}: {error}") from error


def provides(package: Package, relation: Relation) -> bool:
    """Whether `package` provides the name, in a matching version if the relation has one (Debian policy 7.5)."""
    return any(
        own.name == relation.name and (not relation.operator or (own.operator == "=" and relation.accepts(own.version)))
        for own in package.provides
    )


def closure(universe: Universe, roots: Iterable[str], *, excluded: Iterable[str] = ()) -> list[Package]:
    """Return `roots` and all their dependencies, ordered by name.

    Packages in `excluded` count as installed. Raises `ResolveError`, naming the package and the one that needs it.
    """
    excluded_names = set(excluded)
    chosen: dict[str, Package] = {}
    queue: deque[tuple[tuple[Relation, ...], str]] = deque(((Relation(root),), "the recipe") for root in roots)
    while queue:
        alternatives, wanted_by = queue.popleft()
        if _is_satisfied(alternatives, chosen, excluded_names):
            continue
        package = _best_package(universe, alternatives, wanted_by)
        chosen[package.name] = package
        queue.extend((dependency, package.name) for dependency in package.depends)
    return [chosen[name] for name in sorted(chosen)]


def _is_satisfied(alternatives: tuple[Relation, ...], chosen: Mapping[str, Package], excluded_names: set[str]) -> bool:
    return any(
        relation.name in excluded_names
        or (relation.name in chosen and relation.accepts(chosen[relation.name].version))
        or any(provides(package, relation) for package in chosen.values())
        for relation in alternatives
    )


def _best_package(universe: Universe, alternatives: tuple[Relation, ...], wanted_by: str) -> Package:
    for relation in alternatives:
        if found := universe.satisfying(relation):
            return found[0]
    wanted = " | ".join(str(relation) for relation in alternatives)
    raise ResolveError(
        f"no package for {wanted}, which {wanted_by} needs",
        hint="The mirror may be updating. Try again later, or choose another mirror with --mirror.",
    )
