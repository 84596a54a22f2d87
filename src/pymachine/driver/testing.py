"""The contract suite, which every driver must pass, including those of third parties.

Subclass `DriverContract` in a test module, call the class ``Test...``, and set the driver::

    class TestMine(DriverContract):
        driver = MyDriver

`LiveDriverContract` adds tests on a real machine. One machine is created for the class, and goes through its life in
the order of the tests. The subclass defines `boot_request`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pymachine.driver.abilities import ConfigPortable
from pymachine.driver.contract import API_VERSION, BootRequest, Config, Driver, Json, MachineRef, State, Trait
from pymachine.driver.options import OptionKind

# They only find a driver that hangs: on a busy host a second of work takes several.
HEALTH_SECONDS = 30.0
STATE_SECONDS = 30.0
_TYPES: Mapping[OptionKind, tuple[type, ...]] = {
    OptionKind.STRING: (str,),
    OptionKind.STRINGS: (tuple,),
    OptionKind.INTEGER: (int,),
    OptionKind.BOOLEAN: (bool,),
    OptionKind.SIZE: (int,),
}


def defaults(driver: type[Driver], **changed: Json) -> dict[str, Json]:
    """Return a value for every option of `driver`: from `changed` (by name with underscores), or its default."""
    values: dict[str, Json] = {option.name: option.default for option in driver.options()}
    for name, value in changed.items():
        key = name.replace("_", "-")
        assert key in values, f"{driver.info.name} has no option {key}"
        values[key] = value
    return values


def reference(folder: Path, name: str = "contract") -> MachineRef:
    """Create a machine's folder in the store `folder`, and return its reference."""
    directory = folder / "machines" / name
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return MachineRef(name, directory, folder, directory / "id_rsa")


def reread(driver: Driver) -> Driver:
    """Return the machine as another process would load it: a new object from the configuration as JSON."""
    config: Config = json.loads(json.dumps(driver.config))
    return type(driver)(driver.machine, config)


class DriverContract:
    """Tests that need no machine. Set `driver`, and `changed` if the default options do not suffice."""

    driver: ClassVar[type[Driver]]
    changed: ClassVar[Mapping[str, Any]] = {}

    def make(self, folder: Path, name: str = "contract") -> Driver:
        """Return a configured driver whose machine was not created."""
        ref = reference(folder, name)
        return self.driver(ref, dict(self.driver.configure(ref, defaults(self.driver, **self.changed), [])))

    def test_info_is_complete(self) -> None:
        info = self.driver.info
        assert info.api_version == API_VERSION
        assert re.fullmatch(r"[a-z][a-z0-9-]*", info.name)
        assert info.summary
        assert isinstance(info.traits, Trait)

    def test_options_fit_a_command_line(self) -> None:
        names = [option.name for option in self.driver.options()]
        assert len(names) == len(set(names))
        for option in self.driver.options():
            assert re.fullmatch(r"[a-z][a-z0-9-]*", option.name), option.name
            assert option.help, option.name
            assert option.env is None or re.fullmatch(r"[A-Z][A-Z0-9_]*", option.env), option.name
            assert option.default is None or isinstance(option.default, _TYPES[option.kind]), option.name

    def test_health_is_fast_and_names_a_fix(self) -> None:
        began = time.monotonic()
        health = self.driver.health()
        assert time.monotonic() - began < HEALTH_SECONDS
        assert health.usable or (health.problem and health.fix)

    def test_configuration_survives_json(self, tmp_path: Path) -> None:
        config = self.make(tmp_path).config
        assert json.loads(json.dumps(config)) == config

    def test_configuration_may_be_imported(self, tmp_path: Path) -> None:
        driver = self.make(tmp_path)
        if isinstance(driver, ConfigPortable):
            for key, field in driver.portable_fields().items():
                if field is not None and key in driver.config:
                    assert field.problem(driver.config[key]) == "", key
            assert all(size > 0 for size in driver.portable_files().values())

    def test_configure_changes_nothing_outside(self, tmp_path: Path) -> None:
        driver = self.make(tmp_path)
        assert list(driver.machine.directory.iterdir()) == []

    def test_two_machines_do_not_share_an_address(self, tmp_path: Path) -> None:
        if Trait.FIXED_ADDRESS not in self.driver.info.traits:
            return
        first = self.make(tmp_path, "one")
        ref = reference(tmp_path, "two")
        values = defaults(self.driver, **self.changed)
        second = self.driver(ref, dict(self.driver.configure(ref, values, [first.config])))
        one, two = first.endpoint(), second.endpoint()
        assert (one.address, one.docker_port) != (two.address, two.docker_port)

    def test_address_is_known_before_create(self, tmp_path: Path) -> None:
        if Trait.FIXED_ADDRESS in self.driver.info.traits:
            driver = self.make(tmp_path)
            assert driver.endpoint() == reread(driver).endpoint()

    def test_removing_a_machine_that_was_never_created_succeeds(self, tmp_path: Path) -> None:
        driver = self.make(tmp_path)
        driver.remove()
        driver.remove()


class LiveDriverContract(DriverContract):
    """Tests on a running machine. Define `boot_request` for the driver. The tests run in their order."""

    live: ClassVar[Driver]

    def boot_request(self, driver: Driver) -> BootRequest:
        """Return the arguments for `create` and `start`."""
        raise NotImplementedError

    def check_running(self) -> None:
        """Check further guarantees on the running machine `live`. A separate test would run after `remove`."""

    def test_a_machine_that_was_not_created_is_stopped(self, tmp_path: Path) -> None:
        assert self.make(tmp_path).state() is State.STOPPED

    def test_create_starts_the_machine(self, tmp_path_factory: Any) -> None:
        driver = self.make(tmp_path_factory.mktemp("live"))
        type(self).live = driver
        driver.precreate_check()
        driver.create(self.boot_request(driver))
        assert driver.state() is State.RUNNING
        assert driver.endpoint().address

    def test_another_process_sees_the_machine(self) -> None:
        other = reread(self.live)
        began = time.monotonic()
        assert other.state() is State.RUNNING
        assert time.monotonic() - began < STATE_SECONDS
        assert other.endpoint() == self.live.endpoint()
        self.check_running()

    def test_stop_and_start_keep_the_address(self) -> None:
        before = self.live.endpoint()
        self.live.stop(120.0)
        assert reread(self.live).state() is State.STOPPED
        self.live.start(self.boot_request(self.live))
        assert reread(self.live).state() is State.RUNNING
        if Trait.FIXED_ADDRESS in self.driver.info.traits:
            assert self.live.endpoint() == before

    def test_kill_is_immediate(self) -> None:
        self.live.kill()
        assert reread(self.live).state() is State.STOPPED

    def test_remove_leaves_nothing_and_can_be_repeated(self) -> None:
        self.live.remove()
        assert reread(self.live).state() is State.STOPPED
        self.live.remove()
