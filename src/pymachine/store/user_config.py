"""The user's own settings, in ``config.toml`` in the store's root."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pymachine.errors import PymachineError
from pymachine.system import toml_files

SHARES = "shares"
CERTIFICATES = "certificates"
CA = "ca"
COMMANDS = ("create", "run")
WITHOUT_EVENTS = "without_events"
# Folders that no program watches, and that may contain as many others as all the rest.
USUALLY_WITHOUT_EVENTS = (".git", ".hg", ".svn", "node_modules")


class ConfigError(PymachineError):
    """config.toml cannot be read, or has a wrong value."""

    code = "config"


def shares(path: Path) -> dict[str, list[str]]:
    """Return the folders of ``[shares]`` by command, each as ``PATH[:GUEST_PATH][:ro]``. Raises `ConfigError`."""
    return {command: texts for command, texts in _section(path).items() if command in COMMANDS}


def without_events(path: Path) -> tuple[str, ...]:
    """Return the names of the folders in which changes raise no events in guests. Raises `ConfigError`."""
    return tuple(_section(path).get(WITHOUT_EVENTS, USUALLY_WITHOUT_EVENTS))


def ca_certificates(path: Path) -> list[Path]:
    """Return the files of ``[certificates]``, whose CAs all machines trust. Raises `ConfigError`.

    A relative path is relative to the folder of config.toml.
    """
    if not path.exists():  # the usual case, and tomllib takes 10 ms to import
        return []
    section = toml_files.read(path, ConfigError).get(CERTIFICATES, {})
    if not isinstance(section, dict) or section.keys() - {CA} or not all(map(_is_texts, section.values())):
        raise ConfigError(
            f"{path}: [{CERTIFICATES}] may only have a list of files called {CA}",
            hint=f'For example:\n[{CERTIFICATES}]\n{CA} = ["~/company-ca.pem"]',
        )
    return [path.parent / os.path.expanduser(text) for text in section.get(CA, ())]  # noqa: PTH111 (Path raises)


def _section(path: Path) -> dict[str, list[str]]:
    section = toml_files.read(path, ConfigError).get(SHARES, {})
    known = isinstance(section, dict) and section.keys() <= {*COMMANDS, WITHOUT_EVENTS}
    if not known or not all(_is_texts(value) for value in section.values()):
        raise ConfigError(
            f"{path}: [{SHARES}] may only have lists of folders called {', '.join(COMMANDS)} and {WITHOUT_EVENTS}",
            hint=f'For example:\n[{SHARES}]\ncreate = ["~/work", "/data:/data:ro"]\nrun = []\n'
            f'{WITHOUT_EVENTS} = [".git", "node_modules"]',
        )
    return dict(section)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)
