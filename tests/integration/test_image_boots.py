"""The ISO boots from any kind of drive, in QEMU with SeaBIOS and OVMF."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pymachine.driver.contract import ImageFiles, ImageRequest
from pymachine.image import imported, provide
from pymachine.system.progress import Silent
from support.runner import cache_folder

pytestmark = pytest.mark.timeout(240)

SECONDS = 200
# Printed on the serial console once the guest has mounted its root file system and looked for a disk.
UP = b"STAGE disk"
OVMF = Path("/usr/share/OVMF")
DRIVES = {
    "sata": ["-machine", "q35", "-device", "ide-cd,drive=iso,bootindex=0"],
    "ide": ["-machine", "pc", "-device", "ide-cd,drive=iso,bootindex=0"],
    "scsi": ["-machine", "q35", "-device", "virtio-scsi-pci", "-device", "scsi-cd,drive=iso,bootindex=0"],
    "usb stick": ["-machine", "q35", "-device", "qemu-xhci", "-device", "usb-storage,drive=iso,bootindex=0"],
}


@pytest.fixture(scope="module")
def image() -> ImageFiles:
    """The current image for amd64, from the cache that all test runs share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYMACHINE_CACHE", str(cache_folder()))
        return provide.find_or_build(ImageRequest(architecture="amd64"), store=Path("/nonexistent"), reporter=Silent())


def test_the_manifest_can_be_read_from_the_iso(image: ImageFiles) -> None:
    assert imported.read_manifest(image.iso)["architecture"] == "amd64"


def firmware(kind: str, folder: Path) -> list[str]:
    if kind == "bios":
        return []
    secure = kind == "secure"
    variables = folder / "vars.fd"
    shutil.copyfile(OVMF / ("OVMF_VARS_4M.ms.fd" if secure else "OVMF_VARS_4M.fd"), variables)
    code = OVMF / ("OVMF_CODE_4M.secboot.fd" if secure else "OVMF_CODE_4M.fd")
    words = ["-drive", f"if=pflash,format=raw,readonly=on,file={code}"]
    words += ["-drive", f"if=pflash,format=raw,file={variables}"]
    if secure:
        words += ["-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"]
    return words


# Each firmware starts a CD and a stick, and the kernel finds each kind of drive. The guests of test_guest_userdata boot
# with a BIOS and a SATA drive, and Secure Boot is UEFI with a SATA drive.
@pytest.mark.parametrize(
    ("kind", "drive"),
    [
        ("bios", "ide"),
        ("bios", "usb stick"),
        ("uefi", "scsi"),
        ("uefi", "usb stick"),
        ("secure", "sata"),
    ],
)
def test_the_iso_boots(image: ImageFiles, tmp_path: Path, kind: str, drive: str) -> None:
    console = tmp_path / "console.log"
    argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,la57=off", "-smp", "1"]
    argv += ["-m", "1024", "-nodefaults", "-display", "none", "-vga", "std", "-serial", f"file:{console}"]
    argv += ["-drive", f"if=none,id=iso,format=raw,readonly=on,file={image.iso}"]
    argv += [*DRIVES[drive], *firmware(kind, tmp_path)]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + SECONDS
        while not (console.exists() and UP in console.read_bytes()):
            assert process.poll() is None, f"QEMU ended with {process.returncode}"
            assert time.monotonic() < deadline, console.read_text(errors="replace")[-3000:]
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    output = console.read_bytes()
    if kind == "secure":
        assert b"BdsDxe: starting" in output, "not booted by the firmware"
