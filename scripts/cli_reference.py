"""Write docs/reference/cli.md from the output of ``--help``. With ``--check``, only check whether it is current."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Fix the variables that defaults and line widths depend on.
os.environ.update(COLUMNS="100", HOME="/home/user")
for _name in [name for name in os.environ if name.startswith(("MACHINE_", "PYMACHINE_", "QEMU_"))]:
    del os.environ[_name]

import click  # noqa: E402 (reads the variables above)
from click.testing import CliRunner  # noqa: E402

from pymachine.cli import app  # noqa: E402

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference" / "cli.md"
PREFACE = """\
# Command line

The output of `pymachine COMMAND --help`. Options are parsed as in docker-machine: `-flag`, `--flag value` and
`--flag=value` are all valid.

`scripts/cli_reference.py` writes this page, and a test checks that it is current.
"""


def main() -> int:
    """Write the file, or with ``--check`` compare it. Return 1 if it is not current."""
    text = PREFACE + "".join(sections(app.group, ["pymachine"], None))
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"{TARGET.name} is not current: run scripts/cli_reference.py", file=sys.stderr)  # noqa: T201
    return 1


def sections(command: click.Command, command_line: list[str], parent: click.Context | None) -> Iterator[str]:
    """Yield the section of `command`, then those of its subcommands."""
    context = click.Context(command, info_name=command_line[-1], parent=parent, **app.CONTEXT_SETTINGS)
    heading = "#" * min(len(command_line) + 1, 3)
    result = CliRunner().invoke(
        app.group, [*command_line[1:], "--help"], prog_name=command_line[0], catch_exceptions=False
    )
    yield f"\n{heading} `{' '.join(command_line)}`\n\n```text\n{result.stdout.rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            sub = command.get_command(context, name)
            if sub is not None and not sub.hidden:
                yield from sections(sub, [*command_line, name], context)


if __name__ == "__main__":
    sys.exit(main())
