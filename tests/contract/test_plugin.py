"""The contract suite on a driver in a plug-in program, written in Go. An end-to-end test has one with real machines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.driver.contract import BootRequest, Driver
from pymachine.driver.errors import DriverError
from pymachine.driver.testing import LiveDriverContract, reread
from pymachine_driver_plugin import session
from pymachine_driver_plugin.finder import Finder
from pymachine_driver_plugin.programs import PREFIX, VARIABLE
from support.go_plugins import GoPlugins


@pytest.fixture(autouse=True, scope="module")
def driver(plugin_programs: GoPlugins) -> Iterator[None]:
    """Find the driver for the suite."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(plugin_programs.folder))
        patch.delenv(VARIABLE, raising=False)
        found = Finder().find("othergo", "")
        assert found is not None
        TestPlugin.driver = found
        yield
        session.close_all()


class TestPlugin(LiveDriverContract):
    def boot_request(self, driver: Driver) -> BootRequest:
        return BootRequest(identity=lambda endpoint: b"")

    def check_running(self) -> None:
        assert self.live.endpoint().engine == "127.0.0.1:2376"
        assert (self.live.endpoint().ssh_user, self.live.endpoint().ssh_port) == ("docker", 22)

    def test_two_machines_do_not_share_an_address(self, tmp_path: Path) -> None:
        """The program chooses the addresses: they are known only once a machine runs."""
        assert self.make(tmp_path, "one").config["MachineName"] == "one"

    def test_remove_leaves_nothing_and_can_be_repeated(self) -> None:
        self.live.remove()
        with pytest.raises(DriverError, match="Machine does not exist"):
            reread(self.live).state()
        self.live.remove()

    def test_health_names_the_program(self) -> None:
        assert self.driver.health().usable
        assert self.driver.health().version.endswith(f"{PREFIX}othergo")
