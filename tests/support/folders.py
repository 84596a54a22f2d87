"""Folders for single tests."""

from __future__ import annotations

from pathlib import Path

import pytest


def make_empty(parent: Path, request: pytest.FixtureRequest) -> Path:
    """Make a folder in `parent` whose name is that of the test."""
    name: str = request.node.name
    made = parent / name.replace("[", "-").replace("]", "")
    made.mkdir()
    return made
