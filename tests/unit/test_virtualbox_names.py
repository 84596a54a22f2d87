"""The host's names in the identity of guests in VirtualBox."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pymachine.driver.contract import BootRequest, Endpoint
from pymachine.driver.kit import host_names, search_domains
from pymachine.driver.testing import defaults, reference
from pymachine.system.progress import Silent
from pymachine_driver_virtualbox import Driver, boot


def test_a_start_sends_the_hosts_names_when_they_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    class Box:
        def info(self, machine: str) -> dict[str, str]:
            return {"macaddress2": "080027010203"}

    ref = reference(tmp_path)
    driver: Any = Driver(ref, dict(Driver.configure(ref, defaults(Driver), [])), reporter=Silent())
    driver.config["IPAddress"] = "192.168.56.7"
    driver.vbox = Box
    driver.endpoint = lambda: Endpoint("192.168.56.7", docker_port=2376, ssh_port=22)
    driver.run_in_guest = lambda *_, stdin, **__: sent.append(stdin)
    buffer = io.BytesIO()
    tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT).close()
    request = BootRequest(identity=lambda endpoint: buffer.getvalue())

    monkeypatch.setattr(search_domains, "host_domains", lambda: ["corp.example"])
    for address in ("192.0.2.7", "192.0.2.7", "192.0.2.8"):
        text = f"{address} wiki\n127.0.0.1 shop.test\n"
        monkeypatch.setattr(host_names, "host_names", lambda text=text: host_names.parse(text))
        boot.send_identity(driver, request, pinned=True, again=False)

    assert [read(tar, "hosts") for tar in sent] == ["192.0.2.7 wiki\n", "192.0.2.8 wiki\n"]
    assert read(sent[0], "search") == "corp.example\n"
    assert read(sent[0], "host-names") == "shop.test\n"


def read(tar: bytes, name: str) -> str:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        found = archive.extractfile(name)
        assert found
        return found.read().decode()
