"""The registry cache of this host, as a mirror for a machine's engine: see `pymachine.registry_cache`.

It is not in the record, since it is valid only while the cache runs. Each identity has it or not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pymachine.driver.abilities import LoopbackReachable
from pymachine.driver.contract import Driver, Trait
from pymachine.registry_cache import place, state as states
from pymachine.store import paths
from pymachine.store.record import EngineOptions
from pymachine.system.progress import Reporter


@dataclass(frozen=True)
class Mirror:
    """The registry cache as a machine reaches it."""

    address: str
    """Host and port."""
    ca: str
    """The CA of its certificate, in PEM."""

    @property
    def member(self) -> str:
        """The file of the identity that makes the engine trust the certificate at this address."""
        return f"{self.address}\n{self.ca}"

    def added_to(self, engine: EngineOptions) -> EngineOptions:
        """Return engine options with this mirror, after those of the user."""
        return replace(engine, arbitrary_flags=[*engine.arbitrary_flags, f"registry-mirror=https://{self.address}"])


def find(driver: Driver, store: Path, reporter: Reporter) -> Mirror | None:
    """Return the registry cache for a machine, or None if it does not run or the machine cannot use it."""
    if Trait.IDENTITY not in driver.info.traits or not isinstance(driver, LoopbackReachable):
        return None
    folder = place.folder(store)
    state = states.of_running(folder)
    host = driver.host_loopback() if state else ""
    if state is None or host not in state.hosts:
        return None
    try:
        ca = (folder / paths.CA_CERT).read_text(encoding="ascii")
    except (OSError, ValueError) as error:
        reporter.warn(f"The registry cache is not used: its CA cannot be read ({error})")
        return None
    return Mirror(f"{host}:{state.port}", ca)


def with_mirror(engine: EngineOptions, mirror: Mirror | None) -> EngineOptions:
    """Return engine options with `mirror`, if there is one."""
    return mirror.added_to(engine) if mirror else engine
