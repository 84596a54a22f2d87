"""An emulated computer with VirtualBox and its kernel modules: QEMU emulates a processor with AMD-V.

``scripts/virtualbox-chroot nested`` makes its disk. A second disk holds a Python program to run, whose output goes to
the serial console. Everything takes at least twenty times as long as on a real computer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

from pymachine import __version__
from support.runner import REPOSITORY, cache_folder

NESTED = cache_folder() / "virtualbox" / "nested"
# QEMU 7.2 sometimes loses the inner guest's flags register, which crashes its Linux: use the newest QEMU.
EMULATOR = cache_folder() / "virtualbox" / "qemu"
ENTER = """
root=$1 && shift
mkdir -p "$root/host"
mount --rbind / "$root/host" && mount --rbind /proc "$root/proc" && mount --rbind /dev "$root/dev" || exit 97
exec chroot "$root" qemu-system-x86_64 "$@"
"""
# AVX instructions crash a Linux guest of the nested VirtualBox. One processor, since the outer kernel crashed with two.
PROCESSOR = "EPYC,-avx,-avx2,-f16c,-xsave,-xsaveopt,-xgetbv1,-fma"
MEMORY_MB = 3072
END = "NESTED END"
INIT = """\
#!/usr/bin/sh
exec > /dev/ttyS0 2>&1
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -o remount,rw /
export PATH=/usr/lib/virtualbox:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LOGNAME=root USER=root
export PYTHONPATH=/payload/python PYTHONUNBUFFERED=1
ip link set lo up
for module in vboxdrv vboxnetflt vboxnetadp; do modprobe "$module"; done
python3 /payload/program.py
echo "NESTED END $?"
sync
echo o > /proc/sysrq-trigger
sleep 60
"""


def run(folder: Path, program: str, files: Mapping[str, Path], *, seconds: float) -> str:
    """Run `program` in the nested computer with `files` in ``/payload``, and return its output.

    The console log is kept in `folder`. Fails if the program or the computer fails, or takes longer than `seconds`.
    """
    assert NESTED.is_dir(), f"no disk in {NESTED}; scripts/virtualbox-chroot nested makes it"
    console, disk = folder / "nested-console.log", folder / "payload.img"
    _make_disk(disk, program, files)
    console.touch()
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    argv = ["unshare", *user, "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh", str(EMULATOR)]
    argv += ["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", "1", "-m", str(MEMORY_MB)]
    argv += ["-kernel", f"/host{NESTED}/vmlinuz", "-initrd", f"/host{NESTED}/initrd.img"]
    argv += ["-append", "console=ttyS0 quiet", "-display", "none", "-nic", "none", "-no-reboot"]
    argv += ["-drive", f"file=/host{NESTED}/disk.img,if=virtio,format=raw,snapshot=on"]
    argv += ["-drive", f"file=/host{disk},if=virtio,format=raw,snapshot=on", "-serial", f"file:/host{console}"]
    try:
        subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        pass  # the console log then lacks the end mark
    finally:
        disk.unlink()
    log = console.read_text(errors="replace")
    assert f"{END} 0" in log, f"no success within {seconds:g} s:\n{log[-6000:]}"
    return log


def _make_disk(disk: Path, program: str, files: Mapping[str, Path]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "run").write_text(INIT)
        (root / "run").chmod(0o755)
        (root / "program.py").write_text(program)
        _install(root / "python")
        for name, path in files.items():
            shutil.copyfile(path, root / name)
        size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) // (1 << 20) + 64
        command = ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), f"{size}M"]
        subprocess.run(command, check=True, capture_output=True)


def _install(folder: Path) -> None:
    """Install pymachine into `folder`, with the entry points by which drivers are found."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "src" / "pymachine", folder / "pymachine", ignore=ignored)
    for driver in (REPOSITORY / "drivers").iterdir():
        if driver.is_dir() and driver.name.startswith("pymachine_driver_"):
            shutil.copytree(driver, folder / driver.name, ignore=ignored)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    metadata = folder / "pymachine-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pymachine\nVersion: {__version__}\n")
    points = project["entry-points"]["pymachine.drivers"]
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (metadata / "entry_points.txt").write_text(f"[pymachine.drivers]\n{lines}")
