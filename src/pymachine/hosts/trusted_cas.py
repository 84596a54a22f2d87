"""The CA certificates that a machine's guest trusts: its own, and those in config.toml for all machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pymachine.driver.contract import Driver, Trait
from pymachine.errors import PymachineError, UnsupportedError
from pymachine.store import paths, user_config
from pymachine.store.record import Machine
from pymachine.system import trust
from pymachine.system.progress import Reporter


def check(store: Path, driver: type[Driver], certificates: Sequence[str]) -> None:
    """Refuse certificates for a driver whose guests have no trust store of ours, and a wrong config.toml.

    Raises `UnsupportedError`, `ConfigError` and `CaCertificateError`.
    """
    if Trait.IDENTITY not in driver.info.traits:
        if certificates:
            raise UnsupportedError(f"{driver.info.name} driver does not support --ca-cert")
        return
    of_all_machines(store)


def of_all_machines(store: Path) -> list[str]:
    """Return the certificates that config.toml names, in PEM. Raises `ConfigError` and `CaCertificateError`."""
    named = user_config.ca_certificates(store / paths.USER_CONFIG)
    if not named:
        return []
    from pymachine.tls import trusted_cas  # noqa: PLC0415 (cryptography)

    try:
        return trusted_cas.read_all(named)
    except trusted_cas.CaCertificateError as error:
        raise error.prefixed(f"{store / paths.USER_CONFIG}: ") from error


def trust_in_downloads(store: Path, certificates: Sequence[str] = ()) -> None:
    """Trust `certificates`, in PEM, and those of config.toml in this process's downloads.

    Raises `ConfigError` and `CaCertificateError`.
    """
    trust.add([*of_all_machines(store), *certificates])


def of(record: Machine, store: Path, reporter: Reporter) -> list[str]:
    """Return the certificates for a machine, in PEM, each once. A wrong config.toml is only a warning."""
    try:
        common = of_all_machines(store)
    except PymachineError as error:
        # No reason to leave a machine off. `create` and `modify` refuse it.
        reporter.warn(f"CA certificates for all machines are left out: {error.brief}")
        common = []
    return list(dict.fromkeys([*common, *record.ca_certificates]))
