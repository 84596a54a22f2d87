"""A store with fifty machines: some answer, others are dead, stopped or have a broken record."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pymachine.driver.contract import Endpoint
from pymachine.store.record import Machine
from pymachine.store.store import Store
from support import fake_engine

CERTIFICATES = ("ca.pem", "cert.pem", "key.pem")


@contextmanager
def created(root: Path) -> Iterator[int]:
    """Add to the store at `root` 12 machines that answer, 12 dead, 24 stopped, 2 broken; yield the port of the 12."""
    store = Store(root)
    with fake_engine.machine(root, "running0") as port:
        for number in range(1, 12):
            _with_certificates(store, f"running{number}", port)
        for number in range(12):
            _with_certificates(store, f"dead{number}", 1)
        for number in range(24):
            driver = {"IPAddress": f"127.70.1.{number + 1}", "MachineID": str(uuid.UUID(int=number))}
            machine = Machine(name=f"stopped{number}", driver_name="qemu", driver=driver)
            machine.endpoint = Endpoint(driver["IPAddress"])
            store.save(machine)
        store.save(Machine(name="alien", driver_name="vmwarefusion", driver={}))
        (root / "machines" / "broken").mkdir()
        (root / "machines" / "broken" / "config.json").write_text("{")
        yield port


def _with_certificates(store: Store, name: str, port: int) -> None:
    fake_engine.record(store, name, port)
    for file in CERTIFICATES:
        shutil.copy(store.machine_dir("running0") / file, store.machine_dir(name) / file)
