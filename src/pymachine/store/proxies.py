"""The proxies that a machine's engine uses. A URL may have a password, so it is never printed as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from pymachine.driver import fields as kinds
from pymachine.driver.contract import Json
from pymachine.errors import UsageError

_SCHEMES = {"http", "https", "socks5", "socks5h"}
# To the last @, since a password may have a / or # that should have been escaped.
_USER = re.compile(r"//.*@")


@dataclass(frozen=True)
class Proxies:
    """The values of the variables HTTP_PROXY, HTTPS_PROXY and NO_PROXY. Without the first two there is no proxy."""

    http: str = field(default="", repr=False)
    https: str = field(default="", repr=False)
    no: str = ""

    def __bool__(self) -> bool:
        """Whether there is a proxy."""
        return bool(self.http or self.https)

    def variables(self) -> str:
        """Return the engine's variables that are set, as ``NAME=value`` lines; an empty text without a proxy.

        The engine lets a SOCKS proxy resolve all names, but its older versions do not know the scheme ``socks5h``.
        """
        values = {"HTTP_PROXY": self.http, "HTTPS_PROXY": self.https, "NO_PROXY": self.no if self else ""}
        values = {name: re.sub("^socks5h(?=://)", "socks5", value) for name, value in values.items()}
        return "".join(f"{name}={value}\n" for name, value in values.items() if value)

    def masked(self) -> Proxies:
        """Return them without users and passwords."""
        return replace(self, http=mask(self.http), https=mask(self.https))


def of_environment(environment: Mapping[str, str]) -> Proxies:
    """Return the proxies that the variables of a process name, in either case. Raises `UsageError`."""
    http, https, no = (_value(environment, name) for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"))
    found = Proxies(_url("HTTP_PROXY", http), _url("HTTPS_PROXY", https), no)
    return found or Proxies()


def mask(url: str) -> str:
    """Return a URL without its user and password."""
    return _USER.sub("//***@", url)


def proxies_json(proxies: Proxies) -> dict[str, Json]:
    """Return proxies as the record has them."""
    return {"HTTP": proxies.http, "HTTPS": proxies.https, "No": proxies.no}


def proxies(value: Mapping[str, Json]) -> Proxies:
    """Return the proxies of a record, whose values fit `PROXIES`."""
    return Proxies(value.get("HTTP", ""), value.get("HTTPS", ""), value.get("No", ""))


PROXIES = kinds.section({"HTTP": kinds.TEXT, "HTTPS": kinds.TEXT, "No": kinds.TEXT})


def _value(environment: Mapping[str, str], name: str) -> str:
    value = (environment.get(name) or environment.get(name.lower()) or "").strip()
    if not kinds.TEXT.fits(value):
        raise UsageError(f"{name} is not a line of text", hint="Correct the variable, or use --no-host-proxy.")
    return value


def _url(name: str, value: str) -> str:
    """Return the URL of a proxy. Without a scheme it is HTTP, as for curl and the engine."""
    if not value:
        return ""
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
        # An @ after the host is a sign of a password with one of / ? #, which ended the host too early.
        is_right = is_right and "@" not in parts.path + parts.query + parts.fragment
    except ValueError:
        is_right = False
    if not is_right:
        # The value may have a password.
        raise UsageError(
            f"{name} is not the URL of a proxy",
            hint=f"Expected is http://HOST:PORT ({', '.join(sorted(_SCHEMES))}). In a password, write / as %2F, # as "
            "%23 and ? as %3F. Correct it, or use --no-host-proxy.",
        )
    return url
