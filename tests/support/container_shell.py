"""An interactive shell in a container, driven over a pseudo-terminal."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Self

import pexpect

from support.runner import Pymachine

PROMPT = "/ # "
# Escape sequences that shells and busybox's line editing write between text.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SECONDS = 180


class ContainerShell:
    """A `command` on a pseudo-terminal, run by bash with the environment of the machine ``intro``."""

    def __init__(self, program: Pymachine, command: str, *, prompt: str = PROMPT) -> None:
        script = f'eval "$(pymachine env intro)" && exec {command}'
        self.prompt = prompt
        self.child = pexpect.spawn(
            "bash",
            ["-c", script],
            env={**program.environment(), "TERM": "dumb"},
            encoding="utf-8",
            timeout=SECONDS,
            dimensions=(50, 200),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.child.close(force=True)

    def wait_for_prompt(self) -> str:
        """Wait for the prompt; return the output before it."""
        self.child.expect_exact(self.prompt)
        return ESCAPES.sub("", self.child.before or "").replace("\r", "")

    def run(self, line: str) -> str:
        """Type `line` and return its output, without the echo of `line`."""
        self.child.sendline(line)
        return self.wait_for_prompt().removeprefix(line).strip("\n")

    def wait_for_exit(self) -> int | None:
        """Wait for the command to end; return its exit code."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        code: int | None = self.child.exitstatus
        return code
