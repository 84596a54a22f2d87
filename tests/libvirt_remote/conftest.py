"""Fixtures for another host's libvirt, reached over SSH; run through ``tests/support/in-namespaces``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import libvirtd
from support.libvirtd import HERE
from support.registry import Registry
from support.runner import Pymachine, cache_folder, private_store

pytest.register_assert_rewrite("e2e.test_tutorial")


@pytest.fixture(scope="session")
def attic() -> Iterator[libvirtd.OtherHost]:
    with libvirtd.other_host() as host, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYMACHINE_CACHE", str(cache_folder()))
        yield host


@pytest.fixture(scope="session")
def host_from_guest(attic: libvirtd.OtherHost) -> str:
    """The address of this host for machines on the other host: this end of the virtual cable."""
    return HERE


@pytest.fixture(scope="session")
def intro(attic: libvirtd.OtherHost, registry: Registry) -> Iterator[Pymachine]:
    """The tutorial's machine on the other host."""
    with private_store(MACHINE_DRIVER="libvirt", LIBVIRT_DEFAULT_URI=attic.uri) as program:
        program("create", "--engine-registry-mirror", registry.url_from_guest, "intro")
        yield program
