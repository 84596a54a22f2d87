"""A store on a small file system of its own, which only this process and its children see."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from endurance.place import BYSTANDER, NONE, Place, empty
from endurance.stepper import BALLAST

_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS


@contextmanager
def with_bystander(*, mebibytes: int) -> Iterator[Place]:
    """A store with a machine of the driver none, on a `tmpfs` of that size. Takes root."""
    with _mounts_of_its_own(), empty() as place:
        place.store.mkdir(mode=0o700)
        _run("mount", "-t", "tmpfs", "-o", f"mode=0700,size={mebibytes}m", "none", str(place.store))
        try:
            place.program(*NONE, BYSTANDER)
            yield place
        finally:
            make_room(place)
            place.program.remove_all()
            _run("umount", "--lazy", str(place.store))


def make_room(place: Place) -> None:
    """Remove what fills the disk of the store."""
    (place.store / BALLAST).unlink(missing_ok=True)


@contextmanager
def _mounts_of_its_own() -> Iterator[None]:
    """Have this thread and what it starts see mounts that nothing else on this host sees."""
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
    """Call a function of the C library's; Python has these from 3.12 on."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*numbers) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)
