"""Paths that OpenSSH, rsync and SSHFS read literally.

OpenSSH expands ``%h``, ``${HOME}`` and ``~`` in the values of its options, and reads quotes and backslashes in them,
with rules that differ between versions; some characters cannot be escaped. rsync splits its ``-e`` by its own rules,
and SSHFS ends an option at a comma. So a path with such characters is replaced by a symbolic link without them.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from pymachine.ssh.target import Target

PLAIN = re.compile(r"/[a-zA-Z0-9_@+./-]*\Z")
# Suffixes of the files that OpenSSH looks for next to a private key.
_KEY_SUFFIXES = ("", ".pub", "-cert.pub")


@contextmanager
def plain(target: Target) -> Iterator[Target]:
    """Return `target` with paths that need no quoting; they exist while the block runs."""
    with plain_all([target]) as (only,):
        yield only


@contextmanager
def plain_all(targets: Sequence[Target]) -> Iterator[list[Target]]:
    """Do for several targets what `plain` does for one."""
    with ExitStack() as links:
        yield [_linked(target, links) for target in targets]


@contextmanager
def folder(*, max_bytes: int = sys.maxsize) -> Iterator[Path]:
    """Create a private folder whose path is plain and has at most `max_bytes` bytes. It is removed afterwards."""
    created = Path(tempfile.mkdtemp(prefix="pm-ssh-"))
    if sys.platform != "win32" and not (is_plain(created) and len(bytes(created)) <= max_bytes):
        created.rmdir()
        created = Path(tempfile.mkdtemp(prefix="pm-ssh-", dir="/tmp"))
    try:
        yield created
    finally:
        shutil.rmtree(created, ignore_errors=True)


def is_plain(path: Path) -> bool:
    """Whether every program reads `path` literally."""
    return PLAIN.match(str(path)) is not None


def _linked(target: Target, links: ExitStack) -> Target:
    unsafe = [path for path in (target.key, target.known_hosts) if path is not None and not is_plain(path)]
    if not unsafe or sys.platform == "win32":  # Windows paths have backslashes, and users may not create links
        return target
    created = links.enter_context(folder())
    key, known_hosts = target.key, target.known_hosts
    if key is not None:
        for suffix in _KEY_SUFFIXES:
            (created / f"key{suffix}").symlink_to(f"{key.absolute()}{suffix}")
        key = created / "key"
    if known_hosts is not None:
        # It may not exist yet: OpenSSH creates the file that the link points to.
        (created / "known_hosts").symlink_to(known_hosts.absolute())
        known_hosts = created / "known_hosts"
    return replace(target, key=key, known_hosts=known_hosts)
