"""A real VirtualBox with its kernel modules runs a machine whose guest is a boot sector."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import nested

PROGRAM = Path(__file__).with_name("program_boot_sector.py")


@pytest.mark.timeout(700)
def test_a_boot_sector_goes_through_a_machines_life(tmp_path: Path) -> None:
    said = nested.run(tmp_path, PROGRAM.read_text(), {}, seconds=300)
    assert "BOOT SECTOR PASSED" in said
