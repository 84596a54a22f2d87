"""Fixtures for the libvirtd of a user other than root; run through ``tests/support/in-namespaces --user``."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support import libvirtd
from support.libvirtd import SESSION, Daemon
from support.registry import Registry
from support.runner import Pymachine, cache_folder, private_store

pytest.register_assert_rewrite("e2e.test_tutorial")


@pytest.fixture(scope="session", autouse=True)
def daemon() -> Iterator[Daemon]:
    """The user's own libvirtd."""
    assert os.geteuid() != 0, "libvirt has no session for root"
    with libvirtd.running(SESSION) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYMACHINE_CACHE", str(cache_folder()))
        patch.setenv("LIBVIRT_DEFAULT_URI", SESSION)
        yield running


@pytest.fixture(scope="session")
def intro(registry: Registry) -> Iterator[Pymachine]:
    """The tutorial's machine on a user's libvirt."""
    with private_store(MACHINE_DRIVER="libvirt", LIBVIRT_DEFAULT_URI=SESSION) as program:
        program("create", "--engine-registry-mirror", registry.url_from_guest, "intro")
        yield program
