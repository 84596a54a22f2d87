"""The whole life of a machine with pymachine's own image, in a real VirtualBox with its kernel modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from pymachine.driver.contract import ImageRequest
from pymachine.image import provide
from pymachine.store import paths
from pymachine.system.progress import Silent
from support import nested
from support.runner import cache_folder

PROGRAM = Path(__file__).with_name("program_life.py")
SECONDS = 2400.0
ATTEMPTS = 2


@pytest.mark.timeout(ATTEMPTS * SECONDS + 600)
def test_create_to_rm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried again once: an emulated processor in an emulated computer loses its way now and then."""
    monkeypatch.setenv(paths.ENV_CACHE, str(cache_folder()))
    image = provide.find_or_build(ImageRequest(architecture="amd64"), store=tmp_path, reporter=Silent())
    files = {"boot2docker.iso": image.iso}
    for attempt in range(1, ATTEMPTS + 1):
        folder = tmp_path / f"attempt-{attempt}"
        folder.mkdir()
        try:
            said = nested.run(folder, PROGRAM.read_text(), files, seconds=SECONDS)
        except AssertionError:
            if attempt == ATTEMPTS:
                raise
        else:
            assert "LIFE PASSED" in said
            return
