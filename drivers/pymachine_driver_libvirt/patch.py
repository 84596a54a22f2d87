"""Users' patches to a domain's XML: a ``<domain>`` element with only the parts to add or change.

Attributes replace those of the same name. An element is merged into the element of the same tag, or added if there is
none. If it has a ``name`` attribute (a CPU's feature, a clock's timer), that must match too. Devices are always added,
since a machine may have several of a kind.
"""

from __future__ import annotations

from xml.etree import ElementTree

from pymachine.driver.errors import UsageError

# Elements whose children are added instead of merged.
_LISTS = frozenset({"devices", "metadata", "{http://libvirt.org/schemas/domain/qemu/1.0}commandline"})
# A patch must not change the domain's identifiers.
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
            hint="Write the additions as they would be in the domain, for example: "
            "<domain><devices><input type='tablet' bus='virtio'/></devices></domain>",
        )
    for child in root:
        if child.tag in _OURS:
            raise UsageError(f"--libvirt-xml-patch: {name} has a <{child.tag}>, which only pymachine sets")


def parse(text: str) -> ElementTree.Element:
    """Parse an XML document and return its root. Raises `ElementTree.ParseError`."""
    # expat itself refuses exponentially growing entities since 2.4.1.
    return ElementTree.fromstring(text)  # noqa: S314


def merge(domain: ElementTree.Element, patch: ElementTree.Element) -> None:
    """Merge `patch` into `domain`."""
    domain.attrib.update(patch.attrib)
    if patch.text and patch.text.strip():
        domain.text = patch.text
    for child in patch:
        target = None if domain.tag in _LISTS else _same(domain, child)
        if target is None:
            domain.append(child)
        else:
            merge(target, child)


def _same(parent: ElementTree.Element, child: ElementTree.Element) -> ElementTree.Element | None:
    """Return the element that a patch's `child` is merged into, or None."""
    return next((each for each in parent.findall(child.tag) if each.get("name") == child.get("name")), None)
