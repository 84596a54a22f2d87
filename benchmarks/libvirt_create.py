"""Measure a cold create with the driver libvirt, and count its calls of libvirt. Print JSON.

run.py runs it in the namespaces of tests/support/in-namespaces, with a private libvirtd. It needs root, and the
packages that `scripts/setup --tests` installs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from support import libvirtd
from support.libvirtd import SYSTEM

PROGRAM = Path(sys.executable).parent / "pymachine"
# Calls that do not leave the process, or that are also counted under another name.
LOCAL = re.compile(
    r"Free$|New$|GetName$|GetUUIDString$|GetConnect$|ByUUID$|Internal$|^virGlobalInit|^virRegister|^virStream"
)
CALL = re.compile(r"debug : (vir[A-Z]\w+):\d+ :")


def once(folder: Path, number: int) -> dict[str, object]:
    """Create one machine in a separate store. The first one on a libvirt also uploads the image."""
    log = folder / f"calls-{number}.log"
    env = {
        **os.environ,
        "MACHINE_STORAGE_PATH": str(folder / "libvirt-store"),
        "LIBVIRT_LOG_FILTERS": "1:libvirt",
        "LIBVIRT_LOG_OUTPUTS": f"1:file:{log}",
    }
    began = time.perf_counter()
    argv = [str(PROGRAM), "create", "--driver", "libvirt", "--timings", "bench"]
    text = subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout
    wall = time.perf_counter() - began
    calls = [name for name in CALL.findall(log.read_text(errors="replace")) if not LOCAL.search(name)]
    subprocess.run([str(PROGRAM), "rm", "-y", "bench"], env=env, check=True, capture_output=True)
    parts = {name: float(seconds) for name, seconds in re.findall(r"^(\w+)\t([0-9.]+)$", text, re.MULTILINE)}
    return {"wall": wall, "parts": parts, "calls": len(calls)}


def main() -> None:
    """Measure in the folder given as the first argument, as often as the second argument says."""
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    with libvirtd.running(SYSTEM):
        libvirtd.define_network(libvirtd.network_xml())
        print(json.dumps([once(folder, number) for number in range(rounds)]))


if __name__ == "__main__":
    main()
