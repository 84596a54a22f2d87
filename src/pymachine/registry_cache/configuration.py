"""The configuration of docker-registry: a pull-through cache with TLS, without credentials."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from pymachine.registry_cache.place import UPSTREAM_CAS
from pymachine.registry_cache.state import State
from pymachine.store import paths

ADDRESS = "127.0.0.1"
# The variable with the file of CAs that a Go program trusts.
_CERTIFICATES = "SSL_CERT_FILE"


def text(folder: Path, state: State) -> str:
    """Return the configuration in JSON, which is YAML too.

    There is no cache of descriptors, so that a blob may be removed while docker-registry runs.
    """
    configuration = {
        "version": "0.1",
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / state.storage)}},
        "http": {
            "addr": f"{ADDRESS}:{state.port}",
            "tls": {
                "certificate": str(folder / paths.SERVER_CERT),
                "key": str(folder / paths.SERVER_KEY),
                "minimumtls": "tls1.2",
            },
        },
        "proxy": {"remoteurl": state.upstream},
    }
    return json.dumps(configuration, indent=1, ensure_ascii=False) + "\n"


def environment(folder: Path) -> dict[str, str]:
    """Return the variables for docker-registry: this process's, without those that override the configuration.

    It trusts the CAs in `UPSTREAM_CAS`, and the system's folder of certificates, which Go programs read as well.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    added = folder / UPSTREAM_CAS
    return {**kept, _CERTIFICATES: str(added)} if added.exists() else kept


def upstream_cas(ca_certificates: Sequence[str]) -> str:
    """Return the content of `UPSTREAM_CAS`: the certificates, and those of the file that it replaces."""
    replaced = os.environ.get(_CERTIFICATES)
    try:
        others = Path(replaced).read_text(encoding="utf-8") if replaced else ""
    except (OSError, ValueError):
        others = ""  # docker-registry would ignore it, too
    return "".join([*ca_certificates, others])
