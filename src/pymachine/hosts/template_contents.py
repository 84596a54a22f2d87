"""The contents of a named template: the images and the running containers of the machine that was frozen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pymachine.driver.contract import Json
from pymachine.system.printable import line

# Of images, of an image's names, and of containers; and the length of a name. An engine is not trusted, and may list
# them without end. A manifest with the most of all is below the limit for manifests.
_MOST = 200
_MOST_NAMES = 10
_LONGEST = 300


@dataclass(frozen=True)
class Image:
    """An image."""

    names: Sequence[str]
    size: int
    """In bytes."""


@dataclass(frozen=True)
class Container:
    """A container that was running."""

    name: str
    image: str


@dataclass(frozen=True)
class Contents:
    """The images and running containers in a template."""

    images: Sequence[Image]
    containers: Sequence[Container]

    @classmethod
    def of_engine(cls, images: Sequence[Any], containers: Sequence[Any]) -> Contents:
        """Read the engine's lists. Raises KeyError, TypeError or ValueError for other answers."""
        return cls(
            [
                Image([_text(tag) for tag in (each["RepoTags"] or ())[:_MOST_NAMES]], int(each["Size"]))
                for each in images[:_MOST]
            ],
            [Container(_text(each["Names"][0]).removeprefix("/"), _text(each["Image"])) for each in containers[:_MOST]],
        )

    @classmethod
    def from_json(cls, value: Any) -> Contents:
        """Read the result of `to_json`. Raises KeyError, TypeError or ValueError for other values."""
        return cls(
            [Image([_text(name) for name in each["Names"]], int(each["SizeBytes"])) for each in value["Images"]],
            [Container(_text(each["Name"]), _text(each["Image"])) for each in value["Containers"]],
        )

    def to_json(self) -> Mapping[str, Json]:
        """Return them for a manifest, and for the user's programs."""
        return {
            "Images": [{"Names": list(each.names), "SizeBytes": each.size} for each in self.images],
            "Containers": [{"Name": each.name, "Image": each.image} for each in self.containers],
        }


def _text(value: object) -> str:
    return line(str(value)[:_LONGEST])
