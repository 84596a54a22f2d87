"""The storage root and the file names below it. The layout is docker-machine's."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CERTS = "certs"
MACHINES = "machines"
CONFIG = "config.json"
# The user's own settings, in the root.
USER_CONFIG = "config.toml"
# The entries of the machines for OpenSSH's client, in the root.
SSH_CONFIG = "ssh_config"
CONFIG_BACKUP = "config.json.bak"
# The fields that docker-machine drops from config.json; see `pymachine.store.extra_fields`.
EXTRA = "pymachine.json"
CA_CERT = "ca.pem"
CA_KEY = "ca-key.pem"
CLIENT_CERT = "cert.pem"
CLIENT_KEY = "key.pem"
SERVER_CERT = "server.pem"
SERVER_KEY = "server-key.pem"
# The key is Ed25519. The name is docker-machine's, since scripts use it.
SSH_KEY = "id_rsa"
SSH_HOST_KEY = "ssh_host_ed25519_key"
KNOWN_HOSTS = "known_hosts"
SNAPSHOTS = "snapshots"
# Of the process that keeps shared folders mounted over SSH.
SHARES_LOCK = "shares.lock"
SHARES_LOG = "shares.log"
# The unix socket that reaches the engine over SSH, and the files of the process that connects it.
SOCKET = "docker.sock"
SOCKET_LOCK = "socket.lock"
SOCKET_LOG = "socket.log"
SOCKET_STATUS = "socket.json"
# The script of --engine-install-url that was run on the host.
INSTALL_SCRIPT = "install-script.sh"

ENV_STORAGE_PATH = "MACHINE_STORAGE_PATH"
ENV_CACHE = "PYMACHINE_CACHE"


def default_root() -> Path:
    """Return the default root of the store: ``~/.docker/machine``."""
    home = os.environ.get("USERPROFILE" if sys.platform == "win32" else "HOME")
    return (Path(home) if home else Path.home()) / ".docker" / "machine"


def storage_root(option: str | None = None) -> Path:
    """Return the root of the store as an absolute path: `option`, else MACHINE_STORAGE_PATH, else the default."""
    chosen = option or os.environ.get(ENV_STORAGE_PATH)
    return Path(os.path.abspath(chosen)) if chosen else default_root()  # noqa: PTH100 (resolve() follows links)


def certs(root: Path) -> Path:
    """Return the folder of the store's own CA and client certificate."""
    return root / CERTS


def cache(root: Path) -> Path:
    """Return the folder of images and packages. PYMACHINE_CACHE sets another one, for several stores."""
    chosen = os.environ.get(ENV_CACHE)
    return Path(os.path.abspath(chosen)) if chosen else root / "cache"  # noqa: PTH100


def machines(root: Path) -> Path:
    """Return the folder that has one folder per machine."""
    return root / MACHINES


def machine(root: Path, name: str) -> Path:
    """Return the folder of one machine."""
    return machines(root) / name


def locks(root: Path) -> Path:
    """Return the folder of the locks between processes."""
    return root / "locks"
