"""Write the reference page and the JSON schema of pymachine.toml from the code.

With ``--check``, only check whether they are current.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

for _name in [name for name in os.environ if name.startswith(("MACHINE_", "PYMACHINE_", "QEMU_"))]:
    del os.environ[_name]

from pymachine.cli import create_options, project, project_file  # noqa: E402 (reads the variables above)
from pymachine.cli.project_file import ENGINE, KEYS, MACHINE, OPTIONS, TEXT, TEXTS, Kind  # noqa: E402
from pymachine.driver import registry  # noqa: E402
from pymachine.driver.options import Option  # noqa: E402

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"
PAGE = FOLDER / "project-file.md"
SCHEMA = FOLDER / "project-file-schema.json"
PREFACE = f"""\
# Project file

`{project_file.NAME}` says what the machine of a project is like. `pymachine up`, `down` and `run` use the one in the
current folder, or in the nearest folder above it, up to your home folder. [Keep a machine with a
project](../how-to/project-file.md) shows how to work with it.

The file is TOML of at most {project_file.LONGEST_BYTES // 1024} KiB. Unknown keys and values of a wrong type are
errors. An empty file stands for a machine with all defaults. Values are checked as those of the options of
[`pymachine create`](cli.md#pymachine-create).

The value of an option comes from the first of: the command line, the option's environment variable, the project file,
`config.toml` in the [store](store.md), the option's default. `pymachine inspect --origin NAME` prints which one it was.

[project-file-schema.json](project-file-schema.json) is a JSON schema for editors. With taplo, or the extension Even
Better TOML of Visual Studio Code, this line at the beginning of the file selects it: `#:schema PATH_OR_URL`.

`scripts/project_file_reference.py` writes this page and the schema, and a test checks that they are current.
"""
_OPTIONS = """
Options of the driver, by their names. Those of other installed drivers are ignored, so that one file can be used with
several drivers. Texts here may name programs, files and hosts. So `up` and `run` ask before they use them, unless
`--trust` is given. Relative paths here are relative to the current folder, as on the command line.
"""
_HEAD = "\n| key | value | meaning |\n|---|---|---|\n"


def main() -> int:
    """Write the files, or with ``--check`` compare them. Return 1 if one is not current."""
    outdated = []
    texts = {PAGE: PREFACE + "".join(tables()), SCHEMA: json.dumps(schema(), indent=2) + "\n"}
    for path, text in texts.items():
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            outdated.append(path.name)
    if outdated:
        print(f"{', '.join(outdated)} not current: run scripts/project_file_reference.py", file=sys.stderr)  # noqa: T201
    return 1 if outdated else 0


def tables() -> Iterator[str]:
    """Yield the sections of the page, one for each table of the file."""
    yield f"\n## `[{MACHINE}]`\n{_HEAD}"
    for name, key in KEYS.items():
        yield row(name, key.kind, key.help)
    yield f"\n## `[{MACHINE}.{ENGINE}]`\n\nThe options `--engine-*` of `create`.\n{_HEAD}"
    for name, (kind, help_text) in engine_keys().items():
        yield row(name, kind, f"{help_text}.")
    yield f"\n## `[{MACHINE}.{OPTIONS}]`\n{_OPTIONS}{_HEAD}"
    for option in driver_options():
        yield row(option.name, project.KINDS[option.kind], f"{option.help}.")


def row(name: str, kind: Kind, text: str) -> str:
    """Return one line of a table."""
    cell = text.replace("|", "\\|")
    return f"| `{name}` | {kind.expected} | {cell} |\n"


def schema() -> dict[str, Any]:
    """Return the JSON schema of the file."""
    engine = {name: described(kind, text) for name, (kind, text) in engine_keys().items()}
    options = {option.name: described(project.KINDS[option.kind], option.help) for option in driver_options()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": project_file.NAME,
        "description": "The machine of a project.",
        "type": "object",
        "properties": {
            MACHINE: {
                "type": "object",
                "properties": {
                    **{name: described(key.kind, key.help) for name, key in KEYS.items()},
                    ENGINE: {"type": "object", "properties": engine, "additionalProperties": False},
                    OPTIONS: {
                        "type": "object",
                        "description": "Options of drivers. Other installed drivers may have more.",
                        "properties": options,
                        "additionalProperties": project_file.ANY.schema,
                    },
                },
                "additionalProperties": False,
            }
        },
        "additionalProperties": False,
    }


def described(kind: Kind, text: str) -> dict[str, Any]:
    """Return the schema of one key."""
    return {**kind.schema, "description": text}


def engine_keys() -> dict[str, tuple[Kind, str]]:
    """Return the type and the help of each key of the engine's table."""
    return {
        flag.opts[0].removeprefix("--engine-"): (TEXTS if flag.multiple else TEXT, flag.help or "")
        for flag in sorted(create_options.engine_flags(), key=lambda flag: flag.opts[0])
    }


def driver_options() -> list[Option]:
    """Return the options of all drivers that come with pymachine, sorted by name."""
    return sorted(
        (option for name in registry.names() for option in registry.load(name).options()), key=lambda each: each.name
    )


if __name__ == "__main__":
    sys.exit(main())
