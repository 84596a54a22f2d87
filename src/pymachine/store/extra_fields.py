"""The fields of a record that docker-machine drops when it rewrites config.json, kept in a second file.

docker-machine writes back only the fields that it knows. config.json is the record: the copy is read only if
config.json has none of pymachine's own fields, which means that docker-machine was the last to write it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pymachine.driver.contract import Json

# A record with this field has the configuration of a driver that docker-machine has too, and nothing of pymachine's.
PROGRAM = "DriverProgram"
KEYS = (
    PROGRAM,
    "Endpoint",
    "CertificatesExpire",
    "DockerContext",
    "Expires",
    "Owner",
    "InstallScript",
    "Shares",
    "ShareEvents",
    "Origins",
    "Project",
    "Socket",
    "ContextSocket",
    "IPv6Ports",
    "CACertificates",
    "Proxies",
    "ContainerProxy",
    "ClientProxies",
)


def extract(record: Mapping[str, Json]) -> dict[str, Json]:
    """Return the fields of `record` that docker-machine would drop.

    They include the driver's whole configuration, since only docker-machine's drivers know which part they keep. Of a
    driver that docker-machine has too, only the address is needed, and the rest may have secrets.
    """
    extra = {key: record[key] for key in ("Driver", *KEYS) if record.get(key) is not None}
    if PROGRAM in extra and isinstance(extra.get("Driver"), dict):
        extra["Driver"] = {key: value for key, value in extra["Driver"].items() if key == "IPAddress"}
    return extra


def is_rewritten(record: Mapping[str, Json]) -> bool:
    """Return whether `record` has none of pymachine's fields, as after a write of docker-machine."""
    return not any(key in record for key in KEYS)


def restore(record: Mapping[str, Json], extra: Mapping[str, Json]) -> dict[str, Json]:
    """Return `record`, rewritten by docker-machine, with the fields of `extra` that it lacks.

    If docker-machine gave the machine another address, the recorded endpoint is dropped.
    """
    restored = {**record, **{key: extra[key] for key in KEYS if key in extra}}
    now, before = record.get("Driver"), extra.get("Driver")
    if isinstance(now, dict) and isinstance(before, dict):
        if PROGRAM not in extra:
            restored["Driver"] = {**before, **now}
        if now.get("IPAddress") != before.get("IPAddress"):
            restored.pop("Endpoint", None)
    return restored
