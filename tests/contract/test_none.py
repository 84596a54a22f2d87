"""The contract suite on the driver ``none``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from pymachine.driver.contract import State
from pymachine.driver.testing import DriverContract, defaults, reference
from pymachine.errors import UnsupportedError, UsageError
from pymachine_driver_none import Driver


class TestNone(DriverContract):
    driver = Driver
    changed: ClassVar = {"url": "tcp://192.0.2.1:2376"}

    def test_two_machines_do_not_share_an_address(self, tmp_path: Path) -> None:
        """Two names for one engine are allowed: the user chooses the address."""
        assert self.make(tmp_path, "one").endpoint() == self.make(tmp_path, "two").endpoint()

    def test_it_always_runs_and_cannot_be_stopped(self, tmp_path: Path) -> None:
        driver = self.make(tmp_path)
        assert driver.state() is State.RUNNING
        with pytest.raises(UnsupportedError, match="hosts without a driver cannot be stopped"):
            driver.stop(1.0)
        with pytest.raises(UnsupportedError, match="hosts without a driver cannot be killed"):
            driver.kill()

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("", "--url option is required when no driver is selected"),
            ("1.2.3.4:2376", 'parse "1.2.3.4:2376": first path segment in URL cannot contain colon'),
            (":1", 'parse ":1": missing protocol scheme'),
            ("tcp://h:x", 'parse "tcp://h:x": invalid port ":x" after host'),
            ("tcp://a b", 'parse "tcp://a b": invalid character " " in host name'),
            ("tcp://h/%zz", 'parse "tcp://h/%zz": invalid URL escape "%zz"'),
            ("tcp://[::1:2376", "parse \"tcp://[::1:2376\": missing ']' in host"),
            ("tcp://h\t", 'parse "tcp://h\\x09": net/url: invalid control character in URL'),
        ],
    )
    def test_urls_that_go_refuses_have_gos_error_message(self, tmp_path: Path, url: str, says: str) -> None:
        with pytest.raises(UsageError) as refused:
            Driver.configure(reference(tmp_path), defaults(Driver, url=url), [])
        assert refused.value.brief == says

    @pytest.mark.parametrize(
        ("url", "ip", "address", "port"),
        [
            ("tcp://1.2.3.4:2375", "1.2.3.4:2375", "1.2.3.4", 2375),
            ("tcp://1.2.3.4", "1.2.3.4", "1.2.3.4", 2376),
            ("http://h:8080/path?query#part", "h:8080", "h", 8080),
            ("https://h", "h", "h", 443),
            ("ssh://me@host", "host", "host", 2376),
            ("tcp://[fd00::1]:2376", "[fd00::1]:2376", "fd00::1", 2376),
            ("tcp://[fd00::1]", "[fd00::1]", "fd00::1", 2376),
            ("unix:///var/run/docker.sock", "", "", 2376),
            ("nonsense", "", "", 2376),
            ("host:2376", "", "", 2376),  # a scheme and its rest, to Go
            ("tcp://h:99999", "h:99999", "h", 99999),
        ],
    )
    def test_urls_that_go_parses_are_accepted(self, tmp_path: Path, url: str, ip: str, address: str, port: int) -> None:
        config = Driver.configure(reference(tmp_path), defaults(Driver, url=url), [])
        assert config == {"URL": url, "IPAddress": ip}
        endpoint = Driver(reference(tmp_path), config).endpoint()
        assert (endpoint.url, endpoint.ip, endpoint.address, endpoint.docker_port) == (url, ip, address, port)
