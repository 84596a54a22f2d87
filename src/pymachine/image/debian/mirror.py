"""Which mirror packages come from: an argument, a variable, this host's own apt sources, or Debian's own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pymachine.image.errors import RecipeError

ENV_MIRROR = "PYMACHINE_MIRROR"
APT = Path("/etc/apt")
MAIN = "http://ftp.debian.org/debian"
SECURITY = "http://security.debian.org/debian-security"
SCHEMES = ("http://", "https://")
ONE_LINE = re.compile(r"^deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>.*)$")


@dataclass(frozen=True)
class Mirrors:
    """Where Debian's two archives are taken from, without a trailing slash, and who said so."""

    main: str
    security: str
    origin: str


@dataclass(frozen=True)
class AptSource:
    """One repository of this host's own apt."""

    uri: str
    suite: str
    components: tuple[str, ...]


def choose(argument: str | None = None, *, env: Mapping[str, str] | None = None, apt: Path = APT) -> Mirrors:
    """The mirrors to use. One that is given by name stands for both archives if it ends in ``/debian``.

    A given mirror may be two URLs with a space between them: the archive's, and that of security updates. Raises
    `RecipeError` for something that is not a URL.
    """
    variables = os.environ if env is None else env
    for text, origin in ((argument, "--mirror"), (variables.get(ENV_MIRROR), ENV_MIRROR)):
        if text:
            return _given(text, origin)
    return from_apt(apt) or Mirrors(MAIN, SECURITY, "Debian's own mirror")


def _given(text: str, origin: str) -> Mirrors:
    urls = [url.rstrip("/") for url in text.split()]
    if not 1 <= len(urls) <= 2 or not all(url.startswith(SCHEMES) for url in urls):
        raise RecipeError(
            f"{origin}: not a mirror's URL: {text}",
            hint=f"Give a URL such as {MAIN}, or two with a space between them: the archive's and the security one's.",
        )
    main = urls[0]
    return Mirrors(main, urls[1] if len(urls) == 2 else _security_beside(main), origin)


def _security_beside(main: str) -> str:
    """Mirrors that carry the security archive have it beside the main one; for the others there is Debian's own."""
    return f"{main}-security" if main.endswith("/debian") and main != MAIN else SECURITY


def from_apt(apt: Path = APT) -> Mirrors | None:
    """The mirrors that this host's apt uses for Debian, of whatever release; None if it uses none."""
    sources = list(apt_sources(apt))
    debian = [source for source in sources if "main" in source.components and _is_debian(source.uri)]
    security = [source.uri for source in debian if _is_security(source)]
    main = [source.uri for source in debian if not _is_security(source)]
    if not main:
        return None
    return Mirrors(main[0], security[0] if security else _security_beside(main[0]), "this host's apt sources")


def _is_debian(uri: str) -> bool:
    return uri.startswith(SCHEMES) and re.search(r"/debian(-security)?$", uri) is not None


def _is_security(source: AptSource) -> bool:
    return source.uri.endswith("-security") or "security" in source.suite


def apt_sources(apt: Path) -> Iterator[AptSource]:
    """What is enabled in ``sources.list`` and ``sources.list.d``, one-line and deb822 formats alike."""
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue  # not there, or not ours to read: there is a default
        if path.suffix == ".sources":
            yield from _deb822(text)
        elif path.suffix == ".list":
            yield from _one_line(text)


def _one_line(text: str) -> Iterator[AptSource]:
    for line in text.splitlines():
        if match := ONE_LINE.match(line.partition("#")[0].strip()):
            yield AptSource(match["uri"].rstrip("/"), match["suite"], tuple(match["components"].split()))


def _deb822(text: str) -> Iterator[AptSource]:
    from debian.deb822 import Deb822  # noqa: PLC0415 (slow to import, and seldom needed)

    for stanza in Deb822.iter_paragraphs(text, use_apt_pkg=False):
        if stanza.get("Enabled", "yes").lower() in {"no", "false"} or "deb" not in stanza.get("Types", "").split():
            continue
        components = tuple(stanza.get("Components", "").split())
        for uri in stanza.get("URIs", "").split():
            for suite in stanza.get("Suites", "").split():
                yield AptSource(uri.rstrip("/"), suite, components)
