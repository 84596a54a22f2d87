"""Unpacking packages in one process on hosts whose /dev/shm cannot hold semaphores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.apt import deb

SCRIPT = """
import hashlib, multiprocessing, sys
from pathlib import Path
from types import SimpleNamespace
from pymachine.image import build
try:
    multiprocessing.get_context("spawn").Semaphore()
except OSError as error:
    print("no semaphores:", type(error).__name__)
path, work = Path(sys.argv[1]), Path(sys.argv[2])
package = SimpleNamespace(size=1, installed_kib=1, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
recipe = SimpleNamespace(left_out=())
done = []
if __name__ == "__main__":
    [nodes] = build.unpack(recipe, [package], [path], work, lambda: done.append(1))
    print(sorted(name for name, node in nodes if "hello" in name), len(done))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_packages_are_unpacked_where_semaphores_are_unavailable(tmp_path: Path) -> None:
    archive = tmp_path / "hello.deb"
    archive.write_bytes(deb({"usr/bin/hello": b"hello"}))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(archive), str(tmp_path)]
    usual = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "no semaphores" not in usual
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro none /dev/shm && exec "$@"', "sh", *command]
    without = subprocess.run(hidden, capture_output=True, text=True, check=True).stdout
    assert without == f"no semaphores: OSError\n{usual}"
    assert "usr/bin/hello" in without
