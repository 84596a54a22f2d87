"""Where the values of a machine came from: the options that a record notes, and their current values."""

from __future__ import annotations

from hashlib import sha256

from pymachine.driver.abilities import HardwareChange
from pymachine.driver.contract import Json
from pymachine.store.record import Machine

DRIVER = "driver"
SHARE = "share"
SHARE_EVENTS = "no-share-events"
SANS = "tls-san"
SOCKET = "socket"
IPV6_PORTS = "ipv6-ports"
CA_CERT = "ca-cert"
NO_HOST_PROXY = "no-host-proxy"
CONTAINER_PROXY = "container-proxy"
# The fields of `HardwareChange`, by the end of the driver's option: DRIVER-memory and so on, as in docker-machine.
HARDWARE = {"cpu-count": "cpus", "memory": "memory_mib", "disk-size": "disk_mb"}
# The fields of `EngineOptions`, by option. The last one cannot be changed by `modify`.
ENGINE = {
    "engine-opt": "arbitrary_flags",
    "engine-env": "env",
    "engine-insecure-registry": "insecure_registry",
    "engine-label": "labels",
    "engine-registry-mirror": "registry_mirror",
    "engine-storage-driver": "storage_driver",
    "ipv6": "ipv6",
    "engine-install-url": "install_url",
}


def hardware_option(driver_name: str, end: str) -> str:
    """Return the name of the driver's option for one of `HARDWARE`."""
    return f"{driver_name}-{end}"


def current_value(record: Machine, option: str) -> Json:
    """Return the current value of an option of a machine. A value that is only noted at `create` may be None."""
    known: dict[str, Json] = {
        DRIVER: record.driver_name,
        SHARE: [str(share) for share in record.shares],
        SHARE_EVENTS: not record.share_events,
        SANS: list(record.auth.server_cert_sans),
        SOCKET: record.socket,
        IPV6_PORTS: record.ipv6_ports,
        NO_HOST_PROXY: not record.proxies,
        CONTAINER_PROXY: record.container_proxy,
        CA_CERT: [fingerprint(pem) for pem in record.ca_certificates],
        **{name: getattr(record.engine, field) for name, field in ENGINE.items()},
    }
    if option in known:
        return known[option]
    return record.origins[option].value if option in record.origins else None


def fingerprint(pem: str) -> str:
    """Return the SHA-256 of a certificate in PEM, as a short text that identifies it."""
    import ssl  # noqa: PLC0415 (slow to import, and few machines have such certificates)

    return f"sha256:{sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()}"


def hardware_values(change: HardwareChange) -> dict[str, int | None]:
    """Return the values of a change by the end of the driver's option."""
    return {end: getattr(change, name) for end, name in HARDWARE.items()}
