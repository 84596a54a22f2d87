"""docker-machine's base fields, which the configuration of every machine has whatever its driver is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pymachine.driver.contract import Config


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """The base fields that the core reads and writes. Programs that read the store expect all of them."""

    machine_name: str
    store: str
    ip_address: str = ""
    ssh_user: str = "docker"
    ssh_port: int = 22
    ssh_key: Path | None
    """The private key to log in with, in the record an absolute path. None, an empty path there: SSH chooses one."""

    @classmethod
    def of(cls, config: Config, *, own_key: Path) -> Self:
        """Read the fields in `config`. `own_key` is where docker-machine keeps the key if the record names none."""
        recorded = config.get("SSHKeyPath")
        return cls(
            machine_name=str(config.get("MachineName") or ""),
            store=str(config.get("StorePath") or ""),
            ip_address=str(config.get("IPAddress") or ""),
            ssh_user=str(config.get("SSHUser") or ""),
            ssh_port=int(config.get("SSHPort") or 0),
            ssh_key=own_key if recorded is None else Path(recorded) if recorded else None,
        )

    def to_config(self) -> Config:
        """Return the fields as a record has them, with those of Swarm standalone, which is gone."""
        return {
            "IPAddress": self.ip_address,
            "MachineName": self.machine_name,
            "SSHUser": self.ssh_user,
            "SSHPort": self.ssh_port,
            "SSHKeyPath": str(self.ssh_key or ""),
            "StorePath": self.store,
            "SwarmMaster": False,
            "SwarmHost": "",
            "SwarmDiscovery": "",
        }
