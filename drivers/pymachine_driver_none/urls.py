"""Parse URLs as docker-machine does: by the rules of Go's package net/url, which are looser than other parsers'.

A machine's URL can be anything that Go parses, such as ``unix:///run/docker.sock`` or a bare word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pymachine.driver.contract import DOCKER_PORT

PORTS = {"http": 80, "https": 443}
_UNRESERVED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")
_IN_HOSTS = _UNRESERVED | frozenset("!$&'()*+,;=:[]<>\"")
_IN_USERS = _UNRESERVED | frozenset("!$&'()*+,;=:%@")


class UrlError(ValueError):
    """A text that Go does not parse as a URL; the message is Go's."""


@dataclass(frozen=True)
class Url:
    """The parts of a URL that locate an engine."""

    scheme: str
    host: str
    """Host and port as in the URL; empty if it has none."""

    @property
    def address(self) -> str:
        """The host without port and brackets."""
        if self.host.startswith("["):
            return self.host[1 : self.host.rindex("]")]
        return self.host.partition(":")[0] if self.host.count(":") == 1 else self.host.rpartition(":")[0] or self.host

    @property
    def port(self) -> int:
        """The port, by default the scheme's, and 2376 for ``tcp``."""
        port = self.host.rpartition("]")[2].rpartition(":")[2] if ":" in self.host.rpartition("]")[2] else ""
        # Ten digits are enough: a port that is too large is refused when a client connects.
        return int(port[:10]) if port else PORTS.get(self.scheme, DOCKER_PORT)


def parse(text: str) -> Url:
    """Parse `text`. Raises `UrlError`."""
    shown, _, fragment = text.partition("#")
    try:
        url = _parse(shown)
        shown = text
        _check_escapes(fragment)
    except UrlError as error:
        raise UrlError(f"parse {_quoted(shown)}: {error}") from error
    return url


def _quoted(text: str) -> str:
    """Quote `text` as Go's %q does, for characters that are possible in a command-line argument."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub("[\\x00-\\x1f\\x7f]", lambda found: f"\\x{ord(found[0]):02x}", escaped) + '"'


def _parse(url: str) -> Url:
    if any(character < " " or character == "\x7f" for character in url):
        raise UrlError("net/url: invalid control character in URL")
    scheme, rest = _scheme(url)
    rest = rest.partition("?")[0]
    if not rest.startswith("/"):
        if not scheme and ":" in rest.partition("/")[0]:
            raise UrlError("first path segment in URL cannot contain colon")
        if not scheme:
            _check_escapes(rest)
        return Url(scheme, "")
    host = ""
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, path = rest[2:].partition("/")
        host, rest = _host(authority), slash + path
    _check_escapes(rest)
    return Url(scheme, host)


def _scheme(url: str) -> tuple[str, str]:
    """Return the scheme in lower case, and the rest of the URL."""
    if url.startswith(":"):
        raise UrlError("missing protocol scheme")
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.\-]*):", url)
    return (match[1].lower(), url[match.end() :]) if match else ("", url)


def _host(authority: str) -> str:
    user, at, host = authority.rpartition("@")
    if host.startswith("["):
        end = host.rfind("]")
        if end < 0:
            raise UrlError("missing ']' in host")
        port = host[end + 1 :]
    else:
        port = host[host.rfind(":") :] if ":" in host else ""
    if not re.fullmatch(r"(:[0-9]*)?", port):
        raise UrlError(f"invalid port {_quoted(port)} after host")
    _check_host(host)
    if at and not set(user) <= _IN_USERS:
        raise UrlError("net/url: invalid userinfo")
    _check_escapes(user)
    return re.sub("%([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), host)


def _check_host(host: str) -> None:
    for at, character in enumerate(host):
        escape = host[at : at + 3]
        if character == "%":
            # In a host, only a zone's percent sign and non-ASCII characters may be escaped.
            if not re.fullmatch("%(25|[89a-fA-F][0-9a-fA-F])", escape):
                raise UrlError(f"invalid URL escape {_quoted(escape)}")
        elif character.isascii() and character not in _IN_HOSTS:
            raise UrlError(f"invalid character {_quoted(character)} in host name")


def _check_escapes(text: str) -> None:
    bad = re.search("%(?![0-9a-fA-F]{2}).{0,2}", text)
    if bad:
        raise UrlError(f"invalid URL escape {_quoted(bad[0])}")
