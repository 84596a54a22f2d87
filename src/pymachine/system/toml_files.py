"""Read the user's TOML files."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pymachine.errors import PymachineError
from pymachine.system import os_errors

ErrorT = TypeVar("ErrorT", bound=PymachineError)


def read(path: Path, kind: type[ErrorT]) -> Mapping[str, Any]:
    """Return the content of a TOML file, or nothing if it does not exist. Raises an error of `kind`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise os_errors.wrapped(kind, f"cannot read {path}", error) from error
    except ValueError as error:
        raise kind(f"{path} is not TOML: {error}") from error
