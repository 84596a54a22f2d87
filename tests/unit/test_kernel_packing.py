"""The packed kernel (RAM disk, then kernel) and the loader that starts it. Each test with a VM shows that it boots."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from pymachine.image.errors import PackageError
from pymachine.image.kernel import kernel_packing
from support.kernel import bz_image

PAGE = 4096


@given(st.binary(min_size=1, max_size=3 * PAGE), st.binary(max_size=2 * PAGE))
def test_the_kernel_follows_the_ramdisk_at_a_page_boundary(protected: bytes, ramdisk: bytes) -> None:
    loader, both = kernel_packing.pack(bz_image(protected), ramdisk, architecture="amd64")
    front = -(-len(ramdisk) // PAGE) * PAGE
    assert both[: len(ramdisk)] == ramdisk
    assert both[front : front + len(protected)] == protected
    assert len(both) % PAGE == 0
    assert not both[len(ramdisk) : front].strip(b"\0")
    assert not both[front + len(protected) :].strip(b"\0")
    # All of the setup is as it was, but for the size of what follows it.
    setup = bz_image(b"")
    assert (loader[:0x1F4], loader[0x1F8 : len(setup)]) == (setup[:0x1F4], setup[0x1F8:])
    code = loader[len(setup) :]
    assert struct.unpack_from("<I", loader, 0x1F4)[0] * 16 == len(code) < 256


def test_the_loaders_machine_code_matches_its_comments(tmp_path: Path) -> None:
    loader, _ = kernel_packing.pack(bz_image(b"k" * 5000), b"r" * 4097, architecture="amd64")
    (tmp_path / "code").write_bytes(loader[len(bz_image(b"")) :])
    command = ["objdump", "-D", "-b", "binary", "-m", "i386", "-M", "intel", "--no-show-raw-insn", "code"]
    text = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    said = [" ".join(line.split()[1:]) for line in text.splitlines() if line.startswith(" ")]
    assert said[: said.index("jmp eax") + 1] == [
        "cld",
        "mov ebx,esi",
        "mov esi,DWORD PTR [ebx+0x218]",
        "add esi,0x2000",
        "mov edi,0x1000000",
        "mov ecx,0x800",
        "rep movs DWORD PTR es:[edi],DWORD PTR ds:[esi]",
        "mov DWORD PTR [ebx+0x21c],0x1001",
        "mov DWORD PTR [ebx+0x214],0x1000000",
        "mov esi,ebx",
        "mov eax,0x1000000",
        "xor ebx,ebx",
        "xor ebp,ebp",
        "xor edi,edi",
        "jmp eax",
    ]


def test_arm64_kernels_are_left_unchanged() -> None:
    assert kernel_packing.pack(b"Image", b"ramdisk", architecture="arm64") == (b"Image", b"ramdisk")


@pytest.mark.parametrize("kernel", [b"", b"x" * 600, bz_image(b"k", magic=b"Hdrs"), bz_image(b"k", version=0x209)])
def test_a_file_that_is_not_a_kernel_is_refused(kernel: bytes) -> None:
    with pytest.raises(PackageError, match="not a bzImage"):
        kernel_packing.pack(kernel, b"", architecture="amd64")
