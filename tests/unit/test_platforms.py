"""Modules are importable on Windows, where Python's POSIX modules are missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT_POSIX = """
import subprocess, sys  # the standard library's own imports have to succeed first
import asyncio, logging, multiprocessing, pathlib, shutil, socket, tarfile, tempfile, venv  # noqa: F401
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None  # an import of it raises ImportError
"""
IMPORT_ALL = """
import importlib, pkgutil, pymachine
for package in ("pymachine", "pymachine_driver_none", "pymachine_driver_virtualbox", "pymachine_driver_generic"):
    module = importlib.import_module(package)
    for found in pkgutil.walk_packages(module.__path__, f"{package}."):
        if found.name not in ("pymachine.__main__", "pymachine.driver.testing"):
            importlib.import_module(found.name)
import pymachine_driver_qemu.driver  # the default driver: `create --help` shows its options
"""


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_POSIX + program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_modules_can_be_imported_without_posix_modules() -> None:
    run(IMPORT_ALL)


@pytest.mark.parametrize("words", [["--help"], ["create", "--help"], ["create", "-d", "virtualbox", "--help"]])
def test_help_works_without_posix_modules(words: list[str]) -> None:
    run(f"from pymachine.cli.main import main; sys.exit(main(['pymachine', *{words!r}]))")
