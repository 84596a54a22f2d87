"""The registry cache's folder, its errors, and the process that keeps it running.

Layout: ``CACHE/registry/`` with the state, the certificates, the configuration of docker-registry, and its storage in
``storage-<12 digits of the upstream's digest>/``.
"""

from __future__ import annotations

from pathlib import Path

from pymachine.errors import PymachineError
from pymachine.ssh.background import BackgroundProcess
from pymachine.store import paths

STATE = "state.json"
CONFIGURATION = "registry.yml"
LOG = "registry.log"
# The certificates of further CAs that docker-registry trusts for the upstream registry.
UPSTREAM_CAS = "upstream-cas.pem"
# The report of the keeper; see `pymachine.registry_cache.report`.
REPORT = "report.json"
# Held by `cache start` and `cache stop`.
COMMAND_LOCK = "command.lock"


class RegistryCacheError(PymachineError):
    """The registry cache cannot be started, ended or cleaned up."""

    code = "registry-cache"


class RegistryMissingError(RegistryCacheError):
    """The program of the registry cache, docker-registry, is not installed."""

    code = "registry-missing"


class CacheNotRunningError(RegistryCacheError):
    """The registry cache is not running, or does not answer."""

    code = "registry-cache-not-running"


KEEPER = BackgroundProcess(lock="keeper.lock", log=LOG, task="runs the registry cache", error=RegistryCacheError)


def folder(store: Path) -> Path:
    """Return the folder of the registry cache, for the store at `store`."""
    return paths.cache(store) / "registry"
