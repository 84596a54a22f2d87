"""The user's own settings, in ``config.toml`` in the store's root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pymachine.errors import PymachineError
from pymachine.system import toml_files

SHARES = "shares"
COMMANDS = ("create", "run")


class ConfigError(PymachineError):
    """config.toml cannot be read, or has a wrong value."""

    code = "config"


def shares(path: Path) -> dict[str, list[str]]:
    """Return the folders of ``[shares]`` by command, each as ``PATH[:GUEST_PATH][:ro]``. Raises `ConfigError`."""
    section = toml_files.read(path, ConfigError).get(SHARES, {})
    known = isinstance(section, dict) and section.keys() <= set(COMMANDS)
    if not known or not all(_is_texts(value) for value in section.values()):
        raise ConfigError(
            f"{path}: [{SHARES}] may only have lists of folders called {' and '.join(COMMANDS)}",
            hint=f'For example:\n[{SHARES}]\ncreate = ["~/work", "/data:/data:ro"]\nrun = []',
        )
    return dict(section)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
