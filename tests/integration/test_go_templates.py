"""Templates against Go itself: each function, verb and comparison with each type that a row of `ls` or a record has."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from support import gotemplates

GOLDEN = Path(__file__).parents[1] / "unit" / "data" / "gotemplate-rows.json"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Go program, built outside of the source tree and without the network."""
    folder = tmp_path_factory.mktemp("go")
    shutil.copytree(gotemplates.SOURCE, folder / "source")
    environment = {
        "PATH": "/usr/local/go/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
    }
    words = ["go", "build", "-o", str(folder / "program"), "."]
    subprocess.run(words, cwd=folder / "source", env=environment, check=True, timeout=600)
    return folder / "program"


@pytest.fixture(scope="module")
def words_are_the_same() -> bool:
    """Whether this is the Go whose words pymachine has: later ones word some errors differently."""
    said = subprocess.run(["go", "version"], capture_output=True, text=True, check=True).stdout
    return " go1.19" in said


def test_pymachine_renders_and_fails_as_go_does(program: Path, words_are_the_same: bool) -> None:
    asked = gotemplates.everything()
    known = gotemplates.data()
    wrong, compared = [], 0
    for one, gos in zip(asked, gotemplates.render_with_go(program, asked), strict=True):
        ours = gotemplates.render_with_pymachine(one, known)
        if not gotemplates.comparable(gos) or not (
            words_are_the_same or gotemplates.same_in_all_versions(one, gos, ours)
        ):
            continue
        compared += 1
        if ours != gos:
            wrong.append(f"{one}\n  Go: {gos}\n  ours: {ours}")
    assert compared > 5_000
    assert not wrong, f"{len(wrong)} of {compared}\n" + "\n".join(wrong[:20])


def test_the_golden_outputs_are_gos(program: Path, words_are_the_same: bool) -> None:
    if not words_are_the_same:
        pytest.skip("the golden outputs have the words of Go 1.19")
    asked = gotemplates.chosen()
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    answers = zip(asked, gotemplates.render_with_go(program, asked), strict=True)
    assert {f"{one.data}: {one.template}": list(gos) for one, gos in answers if gotemplates.comparable(gos)} == golden
