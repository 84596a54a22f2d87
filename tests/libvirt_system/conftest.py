"""Fixtures for a real system libvirtd; run through ``tests/support/in-namespaces`` (`make test-libvirt`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import libvirtd
from support.libvirtd import GATEWAY, SYSTEM, Daemon, OtherHost
from support.registry import Registry
from support.runner import Pymachine, cache_folder, private_store

pytest.register_assert_rewrite("e2e.test_tutorial")


@pytest.fixture(scope="session", autouse=True)
def daemon() -> Iterator[Daemon]:
    """The libvirtd of these namespaces, with the network that libvirt's packages define."""
    with libvirtd.running(SYSTEM) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYMACHINE_CACHE", str(cache_folder()))
        patch.delenv("LIBVIRT_DEFAULT_URI", raising=False)
        libvirtd.define_network(libvirtd.network_xml())
        yield running


@pytest.fixture(scope="session")
def other_host(daemon: Daemon) -> Iterator[OtherHost]:
    with libvirtd.other_host() as host:
        yield host


@pytest.fixture(scope="session")
def host_from_guest() -> str:
    """The address of this host in a machine."""
    return GATEWAY


@pytest.fixture(scope="session")
def intro(registry: Registry) -> Iterator[Pymachine]:
    """The tutorial's machine on libvirt."""
    with private_store(MACHINE_DRIVER="libvirt") as program:
        program("create", "--engine-registry-mirror", registry.url_from_guest, "intro")
        yield program
