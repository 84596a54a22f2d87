"""Shells that stay open in machines and containers, so that many scripts need one login or one container."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from support.runner import Pymachine

# A script's output and its exit code are separated by a zero byte, which no output contains.
_END = b"\0"


class OpenShell:
    """A shell that runs one script after another. Each script has its own process and an empty standard input."""

    def __init__(self, program: Pymachine, argv: Sequence[str]) -> None:
        """`argv` starts a shell that reads commands from its standard input."""
        self._process = subprocess.Popen(
            [*program.wrapper, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=program.environment(),
            cwd=program.home,
        )

    def __call__(self, script: str, code: int = 0) -> str:
        """Run a script, expect the exit code `code`, and return what the script wrote to its standard output."""
        assert self._process.stdin
        self._process.stdin.write(os.fsencode(f"sh -c {shlex.quote(script)} < /dev/null; printf '\\0%s\\n' $?\n"))
        self._process.stdin.flush()
        output, ended_with = self._read_output()
        assert ended_with == code, f"{script} ended with {ended_with}, expected {code}: {output}"
        return output

    def _read_output(self) -> tuple[str, int]:
        assert self._process.stdout
        output = b""
        for line in self._process.stdout:
            output += line
            if _END in line:
                text, _, code = output.partition(_END)
                return os.fsdecode(text), int(code)
        raise AssertionError(f"the shell has ended with {self._process.wait()}: {output!r}")

    def close(self) -> None:
        """End the shell, and the container if it is the container's first process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def in_machine(program: Pymachine, name: str) -> OpenShell:
    """Open a shell in a machine."""
    return OpenShell(program, ["pymachine", "ssh", name, "sh"])


def in_container(program: Pymachine, name: str, *words: str) -> OpenShell:
    """Open a shell in a new container of a machine. `words` are options of ``docker run``, and the image."""
    run = shlex.join(["docker", "run", "--rm", "-i", *words, "sh"])
    return OpenShell(program, ["bash", "-c", f'eval "$(pymachine env {name})" && exec {run}'])
