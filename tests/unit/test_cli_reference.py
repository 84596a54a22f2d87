"""The references of the command line, of errors and of the project file agree with the code."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pymachine.errors import PymachineError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("script", ["cli_reference.py", "errors_reference.py", "project_file_reference.py"])
def test_the_reference_is_current(script: str) -> None:
    ended = subprocess.run(
        [sys.executable, ROOT / "scripts" / script, "--check"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_error_codes_are_unique(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import errors_reference

    found: list[type[PymachineError]] = errors_reference.coded_errors()
    codes = Counter(error.code for error in found)
    assert [code for code, count in codes.items() if count > 1] == []
    assert all(error.__doc__ for error in found)
