"""Every row of docs/explanation/security.md names a test that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
BOUNDARIES = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)


def rows(boundary: str) -> list[str]:
    """Return the rows of the table under a heading, without its head."""
    section = PAGE.partition(f"\n## {boundary}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def test_each_boundary_is_on_the_page() -> None:
    assert BOUNDARIES == [
        "Host user",
        "Other local users",
        "Guest",
        "Shared folder",
        "Container",
        "Mirror",
        "Archive",
        "Project file",
        "Copied store",
        "Engine",
        "Existing host over SSH",
        "Plug-in program",
    ]


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_each_row_names_a_test_that_exists(boundary: str) -> None:
    assert rows(boundary)
    for row in rows(boundary):
        named = NAMED.findall(row)
        assert named, f"no test is named: {row}"
        for file, name in named:
            assert name in functions(ROOT / file), f"{file} has no {name}"


def functions(file: Path) -> set[str]:
    """Return the names of a file's test functions, including those in classes."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_security_md_and_the_page_link_to_each_other() -> None:
    assert "docs/explanation/security.md" in (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "../../SECURITY.md" in PAGE
