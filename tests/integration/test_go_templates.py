"""Compare templates with Go itself: each function, verb and comparison with each type in a row of `ls` or a record."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from support import go_programs, gotemplates

GOLDEN = Path(__file__).parents[1] / "unit" / "data" / "gotemplate-rows.json"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program."""
    return go_programs.build(gotemplates.SOURCE, tmp_path_factory.mktemp("go"))


@pytest.fixture(scope="module")
def same_error_texts() -> bool:
    """Whether this is the version of Go whose error texts pymachine has; later ones word some errors differently."""
    output = subprocess.run(["go", "version"], capture_output=True, text=True, check=True).stdout
    return " go1.19" in output


def test_pymachine_renders_and_fails_like_go(program: Path, same_error_texts: bool) -> None:
    renderings = gotemplates.everything()
    known = gotemplates.data()
    wrong, compared = [], 0
    for one, gos in zip(renderings, gotemplates.render_with_go(program, renderings), strict=True):
        ours = gotemplates.render_with_pymachine(one, known)
        if not gotemplates.comparable(gos) or not (
            same_error_texts or gotemplates.same_in_all_versions(one, gos, ours)
        ):
            continue
        compared += 1
        if ours != gos:
            wrong.append(f"{one}\n  Go: {gos}\n  ours: {ours}")
    assert compared > 5_000
    assert not wrong, f"{len(wrong)} of {compared}\n" + "\n".join(wrong[:20])


def test_the_golden_outputs_are_those_of_go(program: Path, same_error_texts: bool) -> None:
    if not same_error_texts:
        pytest.skip("the golden outputs are those of Go 1.19")
    renderings = gotemplates.chosen()
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    answers = zip(renderings, gotemplates.render_with_go(program, renderings), strict=True)
    assert {f"{one.data}: {one.template}": list(gos) for one, gos in answers if gotemplates.comparable(gos)} == golden
