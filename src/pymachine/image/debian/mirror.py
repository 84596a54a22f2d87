"""Choose the mirror for packages: from an argument, a variable, this host's apt sources, or Debian's default."""

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
    """The URLs of Debian's two archives, without a trailing slash, and where the choice comes from."""

    main: str
    security: str
    origin: str


@dataclass(frozen=True)
class AptSource:
    """One repository in this host's apt sources."""

    uri: str
    suite: str
    components: tuple[str, ...]


def choose(argument: str | None = None, *, env: Mapping[str, str] | None = None, apt: Path = APT) -> Mirrors:
    """Return the mirrors to use. A chosen URL that ends in ``/debian`` serves both archives.

    A choice may be two URLs separated by a space: the archive's and that of security updates. Raises `RecipeError` for
    an invalid URL.
    """
    variables = os.environ if env is None else env
    for text, origin in ((argument, "--mirror"), (variables.get(ENV_MIRROR), ENV_MIRROR)):
        if text:
            return _chosen(text, origin)
    return from_apt(apt) or Mirrors(MAIN, SECURITY, "Debian's own mirror")


def _chosen(text: str, origin: str) -> Mirrors:
    urls = [url.rstrip("/") for url in text.split()]
    if not 1 <= len(urls) <= 2 or not all(url.startswith(SCHEMES) for url in urls):
        raise RecipeError(
            f"{origin}: not the URL of a mirror: {text}",
            hint=f"Use a URL such as {MAIN}, or two URLs separated by a space, the second for security updates.",
        )
    main = urls[0]
    return Mirrors(main, urls[1] if len(urls) == 2 else _security_url(main), origin)


def _security_url(main: str) -> str:
    """Return the security archive's URL: next to a main archive named ``debian``, else Debian's own."""
    return f"{main}-security" if main.endswith("/debian") and main != MAIN else SECURITY


def from_apt(apt: Path = APT) -> Mirrors | None:
    """Return the mirrors that this host's apt uses for any release of Debian; None if it uses none."""
    sources = list(apt_sources(apt))
    debian = [source for source in sources if "main" in source.components and _is_debian(source.uri)]
    security = [source.uri for source in debian if _is_security(source)]
    main = [source.uri for source in debian if not _is_security(source)]
    if not main:
        return None
    return Mirrors(main[0], security[0] if security else _security_url(main[0]), "this host's apt sources")


def _is_debian(uri: str) -> bool:
    return uri.startswith(SCHEMES) and re.search(r"/debian(-security)?$", uri) is not None


def _is_security(source: AptSource) -> bool:
    return source.uri.endswith("-security") or "security" in source.suite


def apt_sources(apt: Path) -> Iterator[AptSource]:
    """Yield the enabled entries of ``sources.list`` and ``sources.list.d``, in one-line and deb822 format."""
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue  # missing or unreadable: other sources or the default are used
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
