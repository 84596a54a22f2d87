"""A machine with pymachine's image from create to rm, in a real VirtualBox with its kernel modules."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pymachine.driver.contract import ImageRequest
from pymachine.image import provide
from pymachine.store import paths
from pymachine.system.progress import Silent
from support import images, nested
from support.runner import cache_folder

HERE = Path(__file__).parent
PROGRAM = HERE / "program_machine.py"
SECONDS = 5400.0
ATTEMPTS = 2


@pytest.mark.timeout(ATTEMPTS * SECONDS + 600)
def test_a_machine_works_from_create_to_rm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second attempt is allowed, since nested emulation sometimes fails."""
    monkeypatch.setenv(paths.ENV_CACHE, str(cache_folder()))
    image = provide.find_or_build(ImageRequest(architecture="amd64"), store=tmp_path, reporter=Silent())
    probe, box = tmp_path / "probe", tmp_path / "box.tar"
    subprocess.run(["cc", "-static", "-o", str(probe), str(HERE / "probe.c")], check=True)
    box.write_bytes(images.alpine_like("3", packages=""))
    checks = HERE / "folder_checks.py"
    files = {"boot2docker.iso": image.iso, "folder_checks.py": checks, "probe": probe, "box.tar": box}
    for attempt in range(1, ATTEMPTS + 1):
        folder = tmp_path / f"attempt-{attempt}"
        folder.mkdir()
        try:
            output = nested.run(folder, PROGRAM.read_text(), files, seconds=SECONDS)
        except AssertionError:
            if attempt == ATTEMPTS:
                raise
        else:
            assert "MACHINE PASSED" in output
            return
