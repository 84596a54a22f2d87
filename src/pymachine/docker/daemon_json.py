"""The engine's settings: daemon.json, environment and flags of dockerd."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from hashlib import sha256

from pymachine.driver.contract import Json
from pymachine.errors import UsageError
from pymachine.store.record import EngineOptions


@dataclass(frozen=True)
class EngineFiles:
    """The configuration files of an engine."""

    daemon_json: str
    environment: str
    """``NAME=value`` lines."""
    flags: str
    """Flags of dockerd that have no key in daemon.json, one per line."""
    fingerprint: str
    """SHA-256 of all settings that need a restart of the engine."""


# From dockerd's reference: flags that may be repeated, and the key of daemon.json for their values.
_LISTS = {
    "add-cdi-spec-dir": "cdi-spec-dirs",
    "allow-nondistributable-artifacts": "allow-nondistributable-artifacts",
    "authorization-plugin": "authorization-plugins",
    "dns": "dns",
    "dns-opt": "dns-opts",
    "dns-search": "dns-search",
    "exec-opt": "exec-opts",
    "insecure-registry": "insecure-registries",
    "label": "labels",
    "registry-mirror": "registry-mirrors",
    "storage-opt": "storage-opts",
}
_MAPS = {"log-opt": "log-opts"}
_NUMBERS = {
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
    "mtu",
    "network-control-plane-mtu",
    "oom-score-adjust",
    "shutdown-timeout",
}
_BOOLEANS = {
    "debug",
    "experimental",
    "icc",
    "init",
    "ip-forward",
    "ip-masq",
    "ip6tables",
    "iptables",
    "ipv6",
    "live-restore",
    "no-new-privileges",
    "raw-logs",
    "selinux-enabled",
    "userland-proxy",
}
_TEXTS = {
    "bip",
    "bridge",
    "cgroup-parent",
    "containerd-namespace",
    "containerd-plugins-namespace",
    "default-cgroupns-mode",
    "default-gateway",
    "default-gateway-v6",
    "default-ipc-mode",
    "default-runtime",
    "default-shm-size",
    "exec-root",
    "fixed-cidr",
    "fixed-cidr-v6",
    "group",
    "http-proxy",
    "https-proxy",
    "init-path",
    "ip",
    "log-driver",
    "log-format",
    "log-level",
    "metrics-addr",
    "no-proxy",
    "seccomp-profile",
    "storage-driver",
    "userland-proxy-path",
    "userns-remap",
}
CONTAINERS_IPV6 = "fd70:796d:6163::/64"
"""The IPv6 addresses of containers on the default bridge: unique local ones, which the engine translates."""
# The addresses of networks that users create: the engine's own, and IPv6 addresses, of which version 26 has none.
_POOLS = (
    *((f"172.{number}.0.0/16", 16) for number in (17, 18, 19)),
    *((f"172.{number}.0.0/14", 16) for number in (20, 24, 28)),
    ("192.168.0.0/16", 20),
    ("fd70:796d:6164::/56", 64),
)
RELOADABLE = frozenset(
    {
        "allow-nondistributable-artifacts",
        "debug",
        "default-runtime",
        "features",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    }
)
"""The keys of daemon.json that dockerd reloads on SIGHUP, without a restart (dockerd's reference)."""


def files(options: EngineOptions, *, driver_name: str) -> EngineFiles:
    """Return the files for an engine with `options` and, as in docker-machine, the label ``provider=DRIVER``.

    Raises `UsageError` for an option that dockerd would refuse.
    """
    daemon, flags = content(options, driver_name=driver_name)
    for line in options.env:
        if not re.match(r"[A-Za-z_][A-Za-z0-9_]*=", line) or "\n" in line:
            raise UsageError(f"--engine-env {line!r}: expected NAME=value, a name of letters, digits and underscores")
    fixed = {key: value for key, value in daemon.items() if key not in RELOADABLE}
    return EngineFiles(
        daemon_json=json.dumps(daemon, indent=2, sort_keys=True) + "\n",
        environment="".join(f"{line}\n" for line in options.env),
        flags="".join(f"{flag}\n" for flag in flags),
        fingerprint=sha256(json.dumps([fixed, options.env, flags], sort_keys=True).encode()).hexdigest(),
    )


def content(options: EngineOptions, *, driver_name: str) -> tuple[dict[str, Json], list[str]]:
    """Return the content of daemon.json for `options`, and the flags that have no key in it."""
    daemon: dict[str, Json] = {"labels": [*options.labels, f"provider={driver_name}"]}
    for key, values in (
        ("insecure-registries", options.insecure_registry),
        ("registry-mirrors", options.registry_mirror),
        ("dns", options.dns or []),
    ):
        if values:
            daemon[key] = list(values)
    for key, text in (
        ("storage-driver", options.storage_driver),
        ("log-level", options.log_level),
        ("data-root", options.graph_dir),
    ):
        if text:
            daemon[key] = text
    if options.ipv6:
        daemon["ipv6"] = True
    if options.selinux_enabled:
        daemon["selinux-enabled"] = True
    flags = [flag for option in options.arbitrary_flags if (flag := _apply(daemon, option))]
    if options.ipv6:
        # Before version 27, the engine takes the addresses from here only, and translates them only as an experiment.
        daemon = {"fixed-cidr-v6": CONTAINERS_IPV6, "ip6tables": True, "experimental": True, **daemon}
        if not any(flag.startswith("--default-address-pool") for flag in flags):
            daemon["default-address-pools"] = [{"base": base, "size": size} for base, size in _POOLS]
    _check_labels(daemon["labels"])
    return daemon, flags


def _check_labels(labels: list[str]) -> None:
    """Refuse labels with which dockerd does not start, or which it drops silently while it is running."""
    values: dict[str, str] = {}
    for label in labels:
        key, separator, value = label.partition("=")
        if not separator:
            raise UsageError(f"--engine-label {label!r}: expected KEY=VALUE")
        if values.setdefault(key, value) != value:
            raise UsageError(f"--engine-label {label!r}: there is {f'{key}={values[key]}'!r} already")


def _apply(daemon: dict[str, Json], option: str) -> str | None:
    """Add one ``--engine-opt`` to `daemon`, or return it as a flag if daemon.json has no key for it."""
    name, separator, value = option.partition("=")
    name = name.strip().lstrip("-")
    if not name or any(character.isspace() for character in name) or "\n" in value:
        raise UsageError(f"--engine-opt {option!r}: expected NAME or NAME=value, a flag of dockerd without dashes")
    if name in _LISTS:
        daemon.setdefault(_LISTS[name], []).append(value)
    elif name in _MAPS:
        key, _, entry = value.partition("=")
        daemon.setdefault(_MAPS[name], {})[key] = entry
    elif name in _BOOLEANS:
        daemon[name] = _boolean(option, value if separator else "true")
    elif name in _NUMBERS:
        daemon[name] = _number(option, value)
    elif name in _TEXTS:
        daemon[name] = value
    elif name in {"data-root", "graph", "g"}:
        daemon["data-root"] = value
    else:
        return f"--{name}={value}" if separator else f"--{name}"
    return None


def _boolean(option: str, value: str) -> bool:
    # The values that Go's strconv.ParseBool accepts.
    if value in {"1", "t", "T", "TRUE", "true", "True"}:
        return True
    if value in {"0", "f", "F", "FALSE", "false", "False"}:
        return False
    raise UsageError(f"--engine-opt {option!r}: {value!r} is neither true nor false")


def _number(option: str, value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise UsageError(f"--engine-opt {option!r}: {value!r} is not a number") from error


_SHORT = {
    "H": "host",
    "D": "debug",
    "l": "log-level",
    "s": "storage-driver",
    "g": "data-root",
    "G": "group",
    "b": "bridge",
}
_OTHER_KEYS = {"host": "hosts", "graph": "data-root", "data-root": "data-root"}
_TLS = {"tls", "tlsverify", "tlscacert", "tlscert", "tlskey"}


def key_of(flag: str) -> str | None:
    """Return the key of daemon.json for a flag of dockerd (without dashes), or None."""
    name = _SHORT.get(flag, flag)
    if name in _LISTS or name in _MAPS:
        return _LISTS.get(name) or _MAPS[name]
    if name in _OTHER_KEYS:
        return _OTHER_KEYS[name]
    return name if name in _BOOLEANS | _NUMBERS | _TEXTS | _TLS else None


def takes_value(flag: str) -> bool:
    """Return whether a known flag of dockerd without an equals sign is followed by its value."""
    name = _SHORT.get(flag, flag)
    return name not in _BOOLEANS and name not in {"tls", "tlsverify"}


def is_list(key: str) -> bool:
    """Return whether a key of daemon.json holds the values of a flag that may be repeated."""
    return key in _LISTS.values() or key == "hosts"


def as_flags(key: str, value: Json) -> list[str]:
    """Return the flags of dockerd, each with its value, for a key of daemon.json and its value."""
    flag = next((name for name, collected in (_LISTS | _MAPS).items() if collected == key), key)
    if isinstance(value, list):
        return [f"--{flag} {entry}" for entry in value]
    if isinstance(value, dict):
        return [f"--{flag} {name}={entry}" for name, entry in value.items()]
    if isinstance(value, bool):
        return [f"--{flag}={str(value).lower()}"]
    return [f"--{flag}={value}"]
