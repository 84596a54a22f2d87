"""A libvirt on another host, over SSH, under a name that the user configured."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pymachine.driver.testing import defaults, reference
from pymachine_driver_libvirt import Driver as LibvirtDriver
from support import libvirtd, ssh_shares
from support.libvirtd import HERE, OtherHost, virsh
from support.runner import Pymachine, private_store

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def attic(other_host: OtherHost) -> Iterator[Pymachine]:
    """A store whose configuration names the other host attic, with a machine there."""
    with private_store(MACHINE_DRIVER="libvirt") as program:
        program.store.mkdir()
        (program.store / "config.toml").write_text(f'[libvirt.hosts]\nattic = "{other_host.uri}"\n')
        program("create", "--libvirt-uri", "attic", "far")
        yield program


def test_ls_shows_the_host_of_a_machine(attic: Pymachine) -> None:
    heading, row = attic("ls").stdout.splitlines()
    assert "HOST" in heading
    assert row.split()[:4] == ["far", "-", "libvirt", "Running"]
    assert "attic" in row
    assert json.loads(attic("ls", "--json").stdout)[0]["Host"] == "attic"
    assert attic("ls", "--format", "{{.Name}} {{.Host}}").stdout == "far attic\n"


def test_engine_ssh_and_ports_of_a_machine_on_another_host_are_reachable(
    attic: Pymachine, other_host: OtherHost
) -> None:
    assert attic("ssh", "far", "hostname").stdout == "far\n"
    script = 'eval "$(pymachine env far)"; docker version --format "{{.Server.Version}}"'
    assert attic.run(["bash", "-c", script]).stdout.strip()
    import_image = "b=$(mktemp -d); mkdir $b/bin; cp /usr/bin/busybox $b/bin; tar -c -C $b . | docker import - x"
    attic("ssh", "far", f"{import_image}; docker run -d -p 8080:8080 x /bin/busybox httpd -f -p 8080")
    url = f"http://{other_host.address}:8080/"
    curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--retry", "30", "--retry-all-errors", url]
    assert subprocess.run(curl, capture_output=True, text=True, check=True, timeout=120).stdout.endswith("404")


def test_folders_of_this_host_are_shared_only_if_named(attic: Pymachine, tmp_path: Path) -> None:
    assert json.loads(attic("ls", "--json").stdout)[0]["Shares"] == []
    work, documents = tmp_path / "above" / "work", tmp_path / "documents"
    for folder in (work, documents):
        folder.mkdir(parents=True)
    attic("modify", "--share", str(work), "--share", f"{documents}:/documents:ro", "far")
    ssh_shares.make_box(attic, "far")
    ssh_shares.check_writable(attic, "far", work)
    ssh_shares.check_read_only(attic, "far", documents, "/documents")
    ssh_shares.check_events(attic, "far", work)


def test_a_machine_on_a_routed_network_gets_its_own_address(attic: Pymachine, other_host: OtherHost) -> None:
    """Only the configuration is tested here; other suites use such addresses."""
    define = "net-define /dev/stdin"
    virsh(*define.split(), uri=other_host.uri, stdin=libvirtd.network_xml("routed", number=77, mode="route"))
    virsh("net-start", "routed", uri=other_host.uri)
    ref = reference(attic.home)
    values = defaults(LibvirtDriver, libvirt_uri=other_host.uri, libvirt_network="routed")
    config = LibvirtDriver.configure(ref, values, [])
    assert config["IPAddress"].startswith("192.168.77.")
    assert config["EnginePort"] == 2376


def test_rm_leaves_nothing_on_the_other_host(attic: Pymachine, other_host: OtherHost) -> None:
    attic("rm", "-y", "far")
    assert "far" not in virsh("list", "--all", "--name", uri=other_host.uri)
    assert virsh("vol-list", "default", uri=other_host.uri) == ""


def test_an_unreachable_host_is_reported(pymachine: Pymachine) -> None:
    """Nothing listens on port 1 of this end of the virtual cable."""
    uri = f"qemu+ssh://root@{HERE}:1/system"
    outcome = pymachine("create", "-d", "libvirt", "--libvirt-uri", uri, "x", code=3)
    assert "cannot connect to libvirt at qemu+ssh://" in outcome.stderr
    assert "Hint: Check that the host is up and accepts your login: virsh -c" in outcome.stderr
    assert pymachine("ls", "-q").stdout == ""


def test_an_unknown_host_name_is_reported(pymachine: Pymachine) -> None:
    outcome = pymachine("create", "-d", "libvirt", "--libvirt-uri", "cellar", "x", code=None)
    assert outcome.code != 0
    assert "there is no libvirt host called 'cellar'" in outcome.stderr
    assert "[libvirt.hosts]" in outcome.stderr
