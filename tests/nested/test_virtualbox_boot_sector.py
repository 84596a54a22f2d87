"""A machine whose guest is a boot sector, in a real VirtualBox with its kernel modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import nested

PROGRAM = Path(__file__).with_name("program_boot_sector.py")


@pytest.mark.timeout(700)
def test_a_machine_with_a_boot_sector_passes_all_states(tmp_path: Path) -> None:
    output = nested.run(tmp_path, PROGRAM.read_text(), {}, seconds=300)
    assert "BOOT SECTOR PASSED" in output
