"""Run commands of pymachine in this process, and return their exit codes and outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pymachine.cli import main as main_module

Call = Callable[..., tuple[int, str, str]]


def any_code(capture: pytest.CaptureFixture[str]) -> Call:
    """Return the function that runs a command, given its words."""

    def run(*words: str) -> tuple[int, str, str]:
        return main_module.main(["pymachine", *words]), *capture.readouterr()

    return run


def expecting_code(capture: pytest.CaptureFixture[str], *, secret: str | None = None) -> Call:
    """Return the function that runs a command, and checks its exit code, and that the `secret` is not printed."""
    call = any_code(capture)

    def run(*words: str, code: int = 0) -> tuple[int, str, str]:
        outcome = call(*words)
        assert outcome[0] == code, outcome
        assert secret is None or secret not in outcome[1] + outcome[2]
        return outcome

    return run
