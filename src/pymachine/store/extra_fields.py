"""The fields of a record that docker-machine drops when it rewrites config.json, kept in a file beside it.

docker-machine writes back only the fields that it knows. config.json is the record: the copy is read only if
config.json has none of pymachine's own fields, which means that docker-machine was the last to write it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pymachine.driver.contract import Json

KEYS = ("Endpoint", "CertificatesExpire", "DockerContext", "Expires", "Owner", "InstallScript")


def extract(record: Mapping[str, Json]) -> dict[str, Json]:
    """Return the fields of `record` that docker-machine would drop.

    The driver's configuration is among them as a whole: only docker-machine's drivers know which part of it they keep.
    """
    return {key: record[key] for key in ("Driver", *KEYS) if record.get(key) is not None}


def is_rewritten(record: Mapping[str, Json]) -> bool:
    """Whether `record` has none of pymachine's fields, as docker-machine leaves it."""
    return not any(key in record for key in KEYS)


def restore(record: Mapping[str, Json], extra: Mapping[str, Json]) -> dict[str, Json]:
    """Return `record`, rewritten by docker-machine, with the fields of `extra` that it lacks.

    docker-machine may have moved the machine to another address: the recorded endpoint does not hold then.
    """
    restored = {**record, **{key: extra[key] for key in KEYS if key in extra}}
    now, before = record.get("Driver"), extra.get("Driver")
    if isinstance(now, dict) and isinstance(before, dict):
        restored["Driver"] = {**before, **now}
        if now.get("IPAddress") != before.get("IPAddress"):
            restored.pop("Endpoint", None)
    return restored
