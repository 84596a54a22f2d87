"""Paths that OpenSSH, rsync and SSHFS take as they are.

OpenSSH expands ``%h``, ``${HOME}`` and ``~`` in the values of its options, and reads quotes and backslashes in them,
with rules that differ from version to version; some have no escape. rsync splits its ``-e`` by rules of its own, and
SSHFS ends an option at a comma. So a path with any such character goes by the name of a link without them.
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
# What OpenSSH looks for beside a private key.
_BESIDE_KEY = ("", ".pub", "-cert.pub")


@contextmanager
def plain(target: Target) -> Iterator[Target]:
    """`target` with paths that need no quotes, while the block runs."""
    with plain_all([target]) as (only,):
        yield only


@contextmanager
def plain_all(targets: Sequence[Target]) -> Iterator[list[Target]]:
    """Several targets as `plain` gives each."""
    with ExitStack() as links:
        yield [_linked(target, links) for target in targets]


@contextmanager
def folder(*, longest: int = sys.maxsize) -> Iterator[Path]:
    """A private folder of at most `longest` bytes whose path is plain; removed afterwards."""
    made = Path(tempfile.mkdtemp(prefix="pm-ssh-"))
    if sys.platform != "win32" and not (is_plain(made) and len(bytes(made)) <= longest):
        made.rmdir()
        made = Path(tempfile.mkdtemp(prefix="pm-ssh-", dir="/tmp"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def is_plain(path: Path) -> bool:
    """Whether every program takes `path` for what it is."""
    return PLAIN.match(str(path)) is not None


def _linked(target: Target, links: ExitStack) -> Target:
    odd = [path for path in (target.key, target.known_hosts) if path is not None and not is_plain(path)]
    if not odd or sys.platform == "win32":  # whose paths have backslashes, and whose users may make no links
        return target
    made = links.enter_context(folder())
    key, known_hosts = target.key, target.known_hosts
    if key is not None:
        for suffix in _BESIDE_KEY:
            (made / f"key{suffix}").symlink_to(f"{key.absolute()}{suffix}")
        key = made / "key"
    if known_hosts is not None:
        # It need not exist: OpenSSH makes it where the link leads.
        (made / "known_hosts").symlink_to(known_hosts.absolute())
        known_hosts = made / "known_hosts"
    return replace(target, key=key, known_hosts=known_hosts)
