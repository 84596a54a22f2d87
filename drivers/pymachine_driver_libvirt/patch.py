"""A user's additions to a domain's XML: a ``<domain>`` that has only what is to be added or changed.

Attributes replace those of the same name. An element is merged into the one of the same name, or added if there is
none; one that has a name (a CPU's feature, a clock's timer) into the one with that name too. Devices are not merged
but added, since a machine may have several of a kind.
"""

from __future__ import annotations

from xml.etree import ElementTree

from pymachine.driver.errors import UsageError

# Their children are things of which there may be several.
_LISTS = frozenset({"devices", "metadata", "{http://libvirt.org/schemas/domain/qemu/1.0}commandline"})
# What tells a domain from others is not for a patch to change.
_OURS = frozenset({"name", "uuid"})


def check(text: str, *, name: str) -> None:
    """Raise `UsageError`, naming the patch, unless `text` can be merged into a domain."""
    try:
        root = parse(text)
    except ElementTree.ParseError as error:
        raise UsageError(f"--libvirt-xml-patch: {name} is not XML: {error}") from error
    if root.tag != "domain":
        raise UsageError(
            f"--libvirt-xml-patch: the root of {name} is <{root.tag}>, expected <domain>",
            hint="Write what is to be added where it would be in the domain, for example: "
            "<domain><devices><input type='tablet' bus='virtio'/></devices></domain>",
        )
    for child in root:
        if child.tag in _OURS:
            raise UsageError(f"--libvirt-xml-patch: {name} has a <{child.tag}>, which must stay pymachine's own")


def parse(text: str) -> ElementTree.Element:
    """The root of an XML document. Raises `ElementTree.ParseError`."""
    # Entities that grow without end are refused by expat itself since 2.4.1.
    return ElementTree.fromstring(text)  # noqa: S314


def merge(domain: ElementTree.Element, patch: ElementTree.Element) -> None:
    """Put what `patch` has into `domain`."""
    domain.attrib.update(patch.attrib)
    if patch.text and patch.text.strip():
        domain.text = patch.text
    for child in patch:
        mine = None if domain.tag in _LISTS else _same(domain, child)
        if mine is None:
            domain.append(child)
        else:
            merge(mine, child)


def _same(parent: ElementTree.Element, child: ElementTree.Element) -> ElementTree.Element | None:
    """What `child` of a patch is merged into."""
    return next((each for each in parent.findall(child.tag) if each.get("name") == child.get("name")), None)
