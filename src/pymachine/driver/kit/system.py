"""Helpers for the operating system: run programs, wait, write files, report progress.

Each name is imported when it is first used, so that a process imports only what it needs.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pymachine.system import files, open_files, os_errors, run, sparse_files, tied_processes, toml_files, wait
    from pymachine.system.progress import Reporter, Silent, Task
    from pymachine.system.wait import Deadline, until

__all__ = [
    "Deadline",
    "Reporter",
    "Silent",
    "Task",
    "files",
    "open_files",
    "os_errors",
    "run",
    "sparse_files",
    "tied_processes",
    "toml_files",
    "until",
    "wait",
]

_CLASSES = {"Deadline": "wait", "until": "wait", "Reporter": "progress", "Silent": "progress", "Task": "progress"}


def __getattr__(name: str) -> object:
    """Import the module `name`, or the one that has the class or function `name`."""
    if name in _CLASSES:
        return getattr(importlib.import_module(f"pymachine.system.{_CLASSES[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"pymachine.system.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
