"""A QEMU that crashes."""

from __future__ import annotations

import shutil
from pathlib import Path


def crashing_qemu(folder: Path, condition: str, *, by: str = "SEGV", seconds: float = 3.0) -> Path:
    """Return a program that runs the real QEMU and, if `condition` succeeds, kills it with signal `by` after `seconds`.

    `condition` is a shell command, run at each start.
    """
    real = shutil.which("qemu-system-x86_64")
    assert real
    program = folder / "crashing-qemu"
    program.write_text(f"""#!/bin/sh
ulimit -c 0
case " $* " in *" -qmp "*) if {condition} 2> /dev/null; then (sleep {seconds:g}; kill -{by} $$) & fi ;; esac
exec {real} "$@"
""")
    program.chmod(0o755)
    return program
