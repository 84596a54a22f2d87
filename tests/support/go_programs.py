"""Build the Go programs of the tests, which need only Go's standard library."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def build(source: Path, folder: Path) -> Path:
    """Build the program with the sources in `source`, outside the source tree and without the network."""
    shutil.copytree(source, folder / "source")
    environment = {
        "PATH": "/usr/local/go/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
    }
    words = ["go", "build", "-o", str(folder / "program"), "."]
    subprocess.run(words, cwd=folder / "source", env=environment, check=True, timeout=600)
    return folder / "program"
