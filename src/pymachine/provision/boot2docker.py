"""boot2docker's profile, which its init script reads. The file is byte for byte docker-machine's."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from pymachine.docker import daemon_json
from pymachine.driver.contract import Json

FOLDER = "/var/lib/boot2docker"


def profile(
    daemon: Mapping[str, Json],
    *,
    address: str,
    flags: Sequence[str],
    environment: Sequence[str],
    without: Collection[str] = (),
) -> str:
    """Return ``/var/lib/boot2docker/profile``: the engine's flags, one per line, and its environment.

    Keys in `without` are left out, because the host's daemon.json sets them.
    """
    given = [
        flag
        for key, value in daemon.items()
        if key not in {"storage-driver", *without}
        for flag in daemon_json.as_flags(key, value)
    ]
    storage = "auto" if "storage-driver" in without else daemon.get("storage-driver") or "overlay2"
    # A shell reads the file, so quotes must be escaped.
    words = [flag.replace("'", r"'\''") for flag in (*given, *flags)]
    lines = ["", "EXTRA_ARGS='", *words, "", "'"]
    lines += [
        f"CACERT={FOLDER}/ca.pem",
        f"DOCKER_HOST='-H {address}'",
        f"DOCKER_STORAGE={storage}",
        "DOCKER_TLS=auto",
        f"SERVERKEY={FOLDER}/server-key.pem",
        f"SERVERCERT={FOLDER}/server.pem",
        "",
    ]
    lines += ['export "' + re.sub(r'([\\"$`])', r"\\\1", entry) + '"' for entry in environment]
    return "\n".join(lines) + "\n"
