"""A person at a container's shell: a command on a pseudo-terminal, typed into and read."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Self

import pexpect

from support.runner import Pymachine

PROMPT = "/ # "
# What busybox's line editing and shells write beside text.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SECONDS = 180


class Console:
    """`command` run on a pseudo-terminal, in bash connected to the machine ``intro``."""

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

    def ready(self) -> str:
        """Wait for the prompt; what came before it."""
        self.child.expect_exact(self.prompt)
        return ESCAPES.sub("", self.child.before or "").replace("\r", "")

    def ask(self, line: str) -> str:
        """Type `line` and return what it said, without the echo of `line`."""
        self.child.sendline(line)
        return self.ready().removeprefix(line).strip("\n")

    def finish(self) -> int | None:
        """Wait for the command to end by itself; its exit code."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        code: int | None = self.child.exitstatus
        return code
