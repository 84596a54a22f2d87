"""Fixtures for all suites. Those that start a virtual machine say so in their name or docstring."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pymachine.system import files
from support import go_plugins, images, packages, processes, registry as registries
from support.go_plugins import GoPlugins
from support.registry import USER_NETWORK_HOST, Registry
from support.runner import DEFAULT_CPUS, Pymachine, private_store

# On a busy host any example may take long. Speed is measured in benchmarks/.
settings.register_profile("any-host", deadline=None)
settings.load_profile("any-host")
processes.give_children_default_signals()

# The files with machines that take a minute or more on two cores, longest first. A worker that began such a file last
# would work alone at the end. Further files follow in their usual order.
LONGEST_FIRST = [
    "test_clones",
    "test_shared_folders",
    "test_generic_host",
    "test_share_events",
    "test_named_templates",
    "test_boot2docker_compatibility",
    "test_machine_changes",
    "test_ports",
    "test_guest_boot",
    "test_tutorial",
    "test_template_failures",
    "test_plugin_machines",
    "test_registry_cache",
    "test_missing_shares",
    "test_autostart_at_boot",
    "test_guest_userdata",
    "test_shares_without_9p",
    "test_interrupted_commands",
    "test_parallel_creates",
    "test_endurance_quick",
    "test_proxies_and_cas",
    "test_socket_and_ssh_names",
    "test_ipv6",
    "test_disk_and_memory",
    "test_security",
    "test_project",
    "test_names",
    "test_generic_boot2docker",
    "test_image_boots",
    "test_qemu_live",
    "test_failed_commands",
]
ALPINE_TAGS = {"2.6": ["2.6"], "2.7": ["2.7"], "3.1": ["3.1"], "3.2": ["3.2", "latest"]}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first. The order within a file stays."""
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Make SIGINT raise KeyboardInterrupt, also where the test run is a background job."""
    with processes.interruptible():
        yield


@pytest.fixture
def pymachine() -> Iterator[Pymachine]:
    """The installed program on an empty store that only this test uses."""
    with private_store() as program:
        yield program


@pytest.fixture(scope="session")
def plugin_programs(tmp_path_factory: pytest.TempPathFactory) -> GoPlugins:
    """The plug-in program in Go, which the workers of a test run share."""
    own = tmp_path_factory.getbasetemp()
    return go_plugins.built((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "go-plugins")


@pytest.fixture(scope="session")
def host_from_guest() -> str:
    """The address of this host in a machine: for the default driver, QEMU's user network address of the loopback."""
    return USER_NETWORK_HOST


@pytest.fixture(scope="session")
def package_server(host_from_guest: str) -> Iterator[str]:
    """The URL, as seen in a machine, of the server that `apk` in the tests' images installs from."""
    names = sorted(packages.EXTRA)
    for name in names:
        packages.archive(name)
    folder = packages.archive_folder()
    files.atomic_write(folder / "INDEX", "".join(f"{name}\n" for name in names))  # other runs may read it
    with packages.serving(folder, host_from_guest) as port:
        yield f"http://{host_from_guest}:{port}"


@pytest.fixture(scope="session")
def registry(package_server: str, host_from_guest: str) -> Iterator[Registry]:
    """A registry on the loopback that has library/alpine, as a mirror for machines."""
    with (
        tempfile.TemporaryDirectory(prefix="pm-registry-") as folder,
        registries.running(Path(folder), host_from_guest) as running,
    ):
        for version, tags in ALPINE_TAGS.items():
            layer = images.alpine_like(version, packages=package_server)
            running.push("library/alpine", tags, layer, images.config())
        yield running


@pytest.fixture(scope="session")
def intro(registry: Registry) -> Iterator[Pymachine]:
    """The tutorial's machine in its own store, for all tests that need a running machine."""
    with private_store(**DEFAULT_CPUS) as program:
        program("create", "--engine-registry-mirror", registry.url_from_guest, "intro")
        yield program
