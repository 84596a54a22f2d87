"""pymachine's image as the ISO of a machine whose driver is in a plug-in program."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from pymachine.driver.contract import ImageFiles, MachineRef
from pymachine.driver.errors import DriverError
from pymachine_driver_plugin.iso import COPY, OURS, MachineIso


@pytest.fixture
def machine(tmp_path: Path) -> MachineRef:
    folder = tmp_path / "machines" / "a b#c"
    folder.mkdir(parents=True)
    return MachineRef("a b#c", folder, tmp_path, folder / "id_rsa")


def image(folder: Path, content: str) -> ImageFiles:
    iso = folder / f"{content}.iso"
    iso.write_text(content)
    return ImageFiles(hashlib.sha256(content.encode()).hexdigest(), "amd64", iso, iso, iso)


def test_the_url_is_that_of_the_file(machine: MachineRef, tmp_path: Path) -> None:
    iso = MachineIso(machine)
    iso.offer(image(tmp_path, "one"))
    url = urlsplit(iso.url)
    assert url.scheme == "file"
    assert Path(url2pathname(url.path)).read_text() == "one"
    iso.offer(image(tmp_path, "two"))
    assert (machine.directory / OURS).read_text() == "two"


def test_only_images_that_the_user_did_not_choose_are_replaced(machine: MachineRef) -> None:
    iso = MachineIso(machine)
    ours, chosen, default = {"Boot2DockerURL": iso.url}, {"Boot2DockerURL": "https://x/y.iso"}, {"Boot2DockerURL": ""}
    assert iso.boots_ours(ours)
    assert not iso.boots_ours(chosen)
    assert not iso.can_be_replaced(ours)  # the program has copied none, as for a hypervisor elsewhere
    (machine.directory / COPY).write_text("one")
    assert iso.can_be_replaced(ours)
    assert iso.can_be_replaced(default)  # docker-machine's own
    assert not iso.can_be_replaced(chosen)


def test_an_image_is_replaced_and_restored(machine: MachineRef, tmp_path: Path) -> None:
    iso, copy, ours = MachineIso(machine), machine.directory / COPY, machine.directory / OURS
    one, two = image(tmp_path, "one"), image(tmp_path, "two")
    iso.offer(one)
    copy.write_text("one")
    iso.replace(two)
    iso.replace(two)  # again, after a crash
    assert (copy.read_text(), ours.read_text(), iso.digest()) == ("two", "two", two.digest)
    assert copy.stat().st_ino != two.iso.stat().st_ino  # docker-machine overwrites it
    iso.roll_back()
    assert (copy.read_text(), ours.read_text()) == ("one", "one")
    iso.replace(two)
    iso.commit()
    assert (copy.read_text(), ours.read_text()) == ("two", "two")
    assert sorted(path.name for path in machine.directory.iterdir()) == [COPY, OURS]
    iso.roll_back()
    assert copy.read_text() == "two"


def test_a_machine_with_another_image_cannot_be_upgraded(machine: MachineRef, tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="so the machine boots another image"):
        MachineIso(machine).replace(image(tmp_path, "one"))
    assert list(machine.directory.iterdir()) == []
