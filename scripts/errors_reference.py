"""Write docs/reference/errors.md from the error classes. With ``--check``, only check whether it is current."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pymachine
from pymachine.errors import PymachineError

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference" / "errors.md"
PREFACE = """\
# Errors

Every error says what happened and, if known, how to fix it. With `--json` it is one JSON object on stderr,
`{"error": {"code": ..., "message": ..., "details": ..., "hint": ...}}`. A code never changes once it is released.

| exit code | meaning |
|---|---|
| 0 | Success. |
| 1 | An error. |
| 3 | A pre-create check failed, and nothing was created. |
| 130 | Interrupted (Ctrl-C). |
| 143 | Ended by SIGTERM or SIGHUP. |

`pymachine ssh` and `pymachine run` return the exit code of the command that they run.

`scripts/errors_reference.py` writes this page, and a test checks that it is current.

| code | exit | meaning |
|---|---|---|
"""
DRIVERS = Path(__file__).resolve().parent.parent / "drivers"


def main() -> int:
    """Write the file, or with ``--check`` compare it. Return 1 if it is not current."""
    text = PREFACE + "".join(row(error) for error in coded_errors())
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"{TARGET.name} is not current: run scripts/errors_reference.py", file=sys.stderr)  # noqa: T201
    return 1


def coded_errors() -> list[type[PymachineError]]:
    """Return all error classes with a code of their own, of pymachine and its drivers, sorted by code."""
    for name in modules():
        importlib.import_module(name)
    return sorted((kind for kind in descendants(PymachineError) if "code" in vars(kind)), key=lambda kind: kind.code)


def modules() -> Iterator[str]:
    """Yield every module of pymachine and its drivers, except the entry point and the test suite."""
    for found in pkgutil.walk_packages(pymachine.__path__, "pymachine."):
        if found.name not in {"pymachine.__main__", "pymachine.driver.testing"}:
            yield found.name
    for package in sorted(DRIVERS.glob("pymachine_driver_*")):
        yield package.name
        yield from (found.name for found in pkgutil.walk_packages([str(package)], f"{package.name}."))


def descendants(kind: type[PymachineError]) -> Iterator[type[PymachineError]]:
    """Yield the class and all its subclasses, each once."""
    seen: set[type[PymachineError]] = set()
    waiting = [kind]
    while waiting:
        current = waiting.pop()
        if current not in seen and current.__module__.startswith("pymachine"):
            seen.add(current)
            waiting += current.__subclasses__()
    yield from seen


def row(error: type[PymachineError]) -> str:
    """Return one line of the table. The first paragraph of the class's docstring is the meaning."""
    meaning = " ".join((error.__doc__ or "").split("\n\n")[0].split()).replace("|", "\\|").replace("``", "`")
    return f"| `{error.code}` | {error.exit_code} | {meaning} |\n"


if __name__ == "__main__":
    sys.exit(main())
