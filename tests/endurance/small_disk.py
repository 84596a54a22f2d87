"""A store on its own small file system, visible only to this process and its children."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from endurance.sandbox import BYSTANDER, NONE, Sandbox, empty
from endurance.stepper import BALLAST

_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS


@contextmanager
def with_bystander(*, mebibytes: int) -> Iterator[Sandbox]:
    """Make a sandbox with a machine of the driver none, whose store is a `tmpfs` of that size. Requires root."""
    with _mounts_of_its_own(), empty() as sandbox:
        sandbox.store.mkdir(mode=0o700)
        _run("mount", "-t", "tmpfs", "-o", f"mode=0700,size={mebibytes}m", "none", str(sandbox.store))
        try:
            sandbox.program(*NONE, BYSTANDER)
            yield sandbox
        finally:
            make_room(sandbox)
            sandbox.program.remove_all()
            _run("umount", "--lazy", str(sandbox.store))


def make_room(sandbox: Sandbox) -> None:
    """Remove the file that fills the store's disk."""
    (sandbox.store / BALLAST).unlink(missing_ok=True)


@contextmanager
def _mounts_of_its_own() -> Iterator[None]:
    """Give this thread and its children their own mount namespace."""
    folder = Path.cwd()
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _system("unshare", _NEW_MOUNTS)
        try:
            _run("mount", "--make-rprivate", "/")
            yield
        finally:
            _system("setns", before, _NEW_MOUNTS)
            os.chdir(folder)
    finally:
        os.close(before)


def _system(name: str, *numbers: int) -> None:
    """Call a function of the C library that Python offers only from 3.12 on."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*numbers) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)
